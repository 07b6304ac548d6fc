"""`labclip app` in a real browser: every tab, no request to another host, no error in its console, nothing kept."""

import csv
import io
import json
import mimetypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from labclip import scenes

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SECONDS = 1000  # milliseconds, as playwright counts
WAIT = 600 * SECONDS  # for long work on a busy machine
SHOWN = Path(os.environ["SCREENSHOTS"]) if "SCREENSHOTS" in os.environ else None


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The server's folder for temporary files, and nobody else's."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(temporary):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "labclip", "app", "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)}, text=True
    ) as server:
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1"), line + server.stderr.read()
        yield line.split()[0]
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert server.returncode == 0
    assert not list(temporary.glob("labclip-app-*"))


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """A browser of its own with the page open, which notes what goes wrong."""

    def __init__(self, chromium, address, width=1280, scheme="light"):
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page, self.told, self.asked = self.context.new_page(), [], []
        self.name = f"{width}-{scheme}"
        self.page.on("console", lambda one: self.told.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda one: self.told.append(f"error: {one}"))
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.address = address
        self.page.goto(address)
        self.see("#compared", "The base chooses")

    def see(self, place, words, timeout=60 * SECONDS):
        sync_api.expect(self.page.locator(place)).to_contain_text(words, timeout=timeout)

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def upload(self, control, name, data):
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        sent = {"name": name, "mimeType": kind, "buffer": data}
        self.page.locator(f"#{control} input[type=file]").set_input_files(sent)

    def look(self, name):
        """Nothing that keeps people out, as axe knows it; a screenshot where one is asked for."""
        self.page.wait_for_timeout(300)
        if SHOWN is not None:
            self.page.screenshot(path=SHOWN / f"{name}-{self.name}.png", full_page=True)
        found = axe.Axe().run(self.page).response["violations"]
        wrong = [
            (one["id"], [node["html"] for node in one["nodes"]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not wrong

    def check(self):
        assert not [one for one in self.told if one.startswith("error")]
        assert not [url for url in self.asked if not url.startswith((self.address, "data:", "blob:"))]
        self.context.close()


@pytest.fixture
def visit(chromium, address):
    visitors = []

    def open_one(*args, **options):
        visitors.append(Visitor(chromium, address, *args, **options))
        return visitors[-1]

    yield open_one
    for visitor in visitors:
        visitor.check()
        visitor.context.close()  # nothing, where it is closed


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def left_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def wait_until_empty(folder):
    end = time.monotonic() + 60
    while left := left_in(folder):
        assert time.monotonic() < end, left
        time.sleep(0.5)


def test_a_port_that_is_taken(address):
    port = address.rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "labclip", "app", "--port", port]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert f"can't listen on 127.0.0.1:{port} (Address already in use). Pass another --port" in shown.stderr


def ask(address, path="", data=None, **headers):
    """The status and the headers of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, named)) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def test_the_server_gives_nothing_but_its_page(address):
    for path in ("file=https://example.org", "file=/etc/passwd", "upload_progress?upload_id=1", "openapi.json"):
        assert ask(address, f"gradio_api/{path}")[0] in (403, 404)
    assert ask(address, "openapi.json")[0] == 404
    status, headers = ask(address)
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def sent(boundary, content):
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


def test_other_websites_are_refused(address, temporary):
    port = address.rstrip("/").rpartition(":")[2]
    form = {"content_type": "multipart/form-data; boundary=b"}
    upload = "gradio_api/upload", sent("b", b"hello")
    assert ask(address, host=f"localhost:{port}")[0] == 200
    assert ask(address, host=f"evil.example:{port}")[0] == 403
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", "http://127.0.0.1:1"):
        assert ask(address, *upload, origin=origin, **form)[0] == 403
    assert not left_in(temporary)
    assert ask(address, origin=address.rstrip("/"))[0] == 200
    assert ask(address, "gradio_api/upload", sent("b", bytes(51_000_000)), **form)[0] == 413
    proxied = {"x_forwarded_host": "labclip.example", "origin": "https://labclip.example"}
    assert ask(address, **proxied)[0] == 200


def test_an_image_that_is_an_address_is_not_looked_up(address, visit):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(5)
        url = f"http://localtest.me:{other.getsockname()[1]}/a.png"
        someone = visit()
        config = someone.page.evaluate("window.gradio_config")
        image = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "own")
        (event,) = (one for one in config["dependencies"] if (image, "upload") in map(tuple, one["targets"]))
        session = "asked"
        data = [{"path": url, "url": url, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}, "a cat", 1]
        body = {"data": data, "fn_index": event["id"], "session_hash": session}
        origin = address.rstrip("/")
        join = "gradio_api/queue/join", json.dumps(body).encode()
        assert ask(address, *join, origin=origin, content_type="application/json")[0] == 200
        with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}") as answer:
            told = next(line for line in answer if b"process_completed" in line).decode()
        assert "No such file" in told


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_every_tab_is_readable(visit, width, scheme):
    someone = visit(width, scheme)
    someone.look("compare")
    someone.tab("Search")
    someone.see("#found", "LABCLIP's top 10")
    someone.page.get_by_text("Search your own images").click()
    someone.look("search")
    someone.tab("Diagnose")
    someone.look("diagnose")
    someone.tab("Fit")
    someone.page.get_by_label("My captions and images").check()
    someone.look("fit")
    overflow = someone.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0


def test_compare(visit):
    someone = visit()
    captions = someone.page.get_by_label("Captions, one per line")
    captions.fill("a red heart with a white ring\na red heart with a white ring")
    someone.see("#compared", "Both choose none: 2 captions tie.")
    captions.fill("a red heart with a white ring")
    someone.see("#compared", "There is one caption")
    someone.click("Add the swapped captions")
    someone.see("#compared", "a white heart with a red ring")
    someone.see("#compared", "LABCLIP chooses \u201ca red heart with a white ring\u201d")
    someone.page.get_by_role("slider", name="Strength").fill("0")
    someone.see("#compared", "Both choose \u201ca white heart with a red ring\u201d")
    captions.fill("")
    someone.see("#compared", "There is no caption")
    captions.fill("a cat\n" * 500)
    someone.see("#compared", "There are 500 captions")
    captions.fill("<b>${1+1}</b> {{value}}\na cat")
    someone.see("#compared", "<b>${1+1}</b> {{value}}")
    someone.click("Another scene")
    sync_api.expect(captions).not_to_have_value("<b>${1+1}</b> {{value}}\na cat")


def test_uploaded_images(visit, temporary):
    someone = visit()
    scene = scenes.sample(1, seed=3)
    someone.upload("own", "mine.png", png(scene.images[0]))
    sync_api.expect(someone.page.get_by_alt_text("mine.png")).to_be_visible()
    someone.upload("own", "notes.png", b"no image at all")
    someone.see("#compared", "notes.png is not a whole image")
    sync_api.expect(someone.page.get_by_alt_text("mine.png")).to_be_visible()
    wait_until_empty(temporary)


def test_keys_alone(visit):
    someone = visit()
    someone.page.get_by_label("Captions, one per line").focus()
    someone.page.keyboard.press("Tab")
    sync_api.expect(someone.page.get_by_role("button", name="Add the swapped captions")).to_be_focused()
    someone.page.get_by_role("tab", name="Compare").focus()
    someone.page.keyboard.press("Tab")
    someone.page.keyboard.press("Enter")
    someone.see("#found", "LABCLIP's top 10")


def test_search_by_parts(visit):
    someone = visit()
    someone.tab("Search")
    ours = "#found .l-ours li >> nth=0"
    someone.see(ours, "yellow ring")
    someone.page.get_by_role("button", name="red sphere without purple").click()
    sync_api.expect(someone.page.locator("#without textarea")).to_have_value("purple")
    someone.see(ours, "red")
    someone.page.locator("#query textarea").fill("")
    someone.click("Search")
    someone.see("#found", "There is no query")


def test_search_in_one_s_own_images(visit, temporary):
    one, other = visit(), visit()
    drawn = scenes.sample(12, seed=5)
    photos = {f"photos/{number}.png": png(image) for number, image in enumerate(drawn.images)}
    for someone in (one, other):
        someone.tab("Search")
        someone.see("#found", "LABCLIP's top 10")
        someone.page.get_by_text("Search your own images").click()
    one.upload("images", "mine.zip", zipped(photos | {"photos/broken.png": b"?", "notes.txt": b"hi"}))
    one.see("#indexed", "Your images that are searched: 12.")
    one.see("#indexed", "photos/broken.png is not a whole image")
    one.see("#found", "photos/")
    other.click("Search")
    other.page.wait_for_timeout(1000)
    assert "photos/" not in other.page.locator("#found").inner_text()
    one.upload("images", "cut.zip", zipped(photos)[:3000])
    one.see("#indexed", "cut.zip is not a whole zip")
    one.click("Back to the 500 scenes")
    one.see("#indexed", "500 rendered scenes")
    wait_until_empty(temporary)


def test_diagnose(visit, temporary):
    someone = visit(390)
    someone.tab("Diagnose")
    someone.page.get_by_role("spinbutton", name="Scenes").locator("visible=true").fill("500")
    someone.click("Diagnose")
    someone.page.wait_for_selector("#diagnosis progress")
    someone.page.wait_for_selector("#diagnosis iframe", timeout=WAIT)
    assert "cosine" in someone.page.frame_locator("#diagnosis iframe").locator("body").inner_text()
    with someone.page.expect_download() as saved:
        someone.page.get_by_text("Save report.html").click()
    assert b"<!doctype html>" in Path(saved.value.path()).read_bytes()
    someone.look("diagnosis")
    wait_until_empty(temporary)


def test_fit_on_scenes_and_cancel(visit, temporary):
    someone = visit()
    someone.tab("Fit")
    someone.click("Fit")
    someone.page.wait_for_selector("#fitted progress")
    someone.click("Cancel")
    someone.see("#fitted", "Cancelled. Nothing was kept.")
    someone.click("Fit")
    someone.page.wait_for_selector("#fitted svg", timeout=WAIT)
    someone.look("fitting")
    someone.page.wait_for_selector("#fitted iframe", timeout=WAIT)
    with someone.page.expect_download() as saved:
        someone.page.get_by_text("Save alignment.zip").click()
    with zipfile.ZipFile(saved.value.path()) as archive:
        assert {"alignment/config.json", "alignment/model.safetensors", "alignment/README.md"} == set(
            archive.namelist()
        )
        assert str(temporary) not in archive.read("alignment/config.json").decode()
    someone.look("fitted")


def test_work_ends_with_its_page_and_the_next_begins(visit, temporary):
    one, other = visit(), visit()
    for someone in (one, other):
        someone.tab("Fit")
        someone.click("Fit")
        someone.page.wait_for_timeout(SECONDS)
    one.page.wait_for_selector("#fitted progress")
    assert other.page.locator("#fitted progress").count() == 0
    other.click("Cancel")  # while it waits
    other.see("#fitted", "Cancelled")
    other.click("Fit")
    one.context.close()
    other.page.wait_for_selector("#fitted progress", timeout=60 * SECONDS)
    assert len(list(temporary.glob("labclip-app-*/sessions/work-*"))) == 1
    other.click("Cancel")
    other.see("#fitted", "Cancelled")
    wait_until_empty(temporary)


def test_fit_on_one_s_own_captions(visit, temporary):
    someone = visit()
    someone.tab("Fit")
    someone.page.get_by_label("My captions and images").check()
    someone.click("Fit")
    someone.see("#fitted", "Upload a file of captions")
    drawn = scenes.sample(60, seed=1)
    someone.upload("table", "captions.csv", b"image,words\n1.png,a cat\n")
    someone.see("#named", "Captions: captions.csv.")
    photos = {f"{number}.png": png(one) for number, one in enumerate(drawn.images)}
    someone.upload("photos", "images.zip", zipped(photos))
    someone.see("#counted", "Images: 60.")
    someone.click("Fit")
    someone.see("#fitted", "captions.csv has no column 'caption'")
    table = io.StringIO()
    csv.writer(table).writerows(
        [["image", "caption", "negative"]]
        + [[f"{n}.png", *texts] for n, texts in enumerate(zip(drawn.captions, drawn.swapped_captions, strict=True))]
    )
    someone.upload("table", "captions.csv", table.getvalue().encode())
    someone.page.wait_for_timeout(1000)
    someone.click("Fit")
    someone.page.wait_for_selector("#fitted iframe", timeout=WAIT)
    someone.context.close()
    wait_until_empty(temporary)
