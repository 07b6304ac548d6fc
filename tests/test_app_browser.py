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
from contextlib import contextmanager
from pathlib import Path

import pytest
from packed import png, zipped

from labclip import scenes

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SECONDS = 1000  # milliseconds, as playwright counts
WAIT = 600 * SECONDS  # for long work on a busy machine
sync_api.expect.set_options(timeout=240 * SECONDS)
SHOWN = Path(os.environ["SCREENSHOTS"]) if "SCREENSHOTS" in os.environ else None


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The server's folder for temporary files, and nobody else's."""
    return tmp_path_factory.mktemp("temporary")


@contextmanager
def serving(temporary):
    """A server that starts in a folder above its uploads, and leaves nothing there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "labclip", "app", "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=temporary.parent, env=environment, text=True
    ) as server:
        assert server.stderr.readline().startswith("Starting the page on scenes")
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1"), line + server.stderr.read()
        yield line.split()[0], server
        server.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.communicate(timeout=240)[1]
    assert server.returncode == 0
    assert not list(temporary.glob("labclip-app-*"))


@pytest.fixture(scope="module")
def started(temporary):
    with serving(temporary) as address_and_server:
        yield address_and_server


@pytest.fixture(scope="module")
def address(started):
    return started[0]


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """A browser of its own with the page open, which notes what goes wrong."""

    def __init__(self, chromium, address, width=1280, scheme="light"):
        size = {"width": width, "height": 900 if width > 400 else 844}
        self.context = chromium.new_context(viewport=size, color_scheme=scheme)
        self.page, self.errors, self.asked = self.context.new_page(), [], []
        self.page.set_default_timeout(WAIT)
        self.name = f"{width}-{scheme}"
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.address = address
        self.page.goto(address)
        self.see("#compared", "CLIP is wrong: \u201ca white heart with a red ring\u201d")

    def see(self, place, words):
        sync_api.expect(self.page.locator(place)).to_contain_text(words)

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def upload(self, control, name, data):
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        sent = {"name": name, "mimeType": kind, "buffer": data}
        self.page.locator(f"#{control} input[type=file]").set_input_files(sent)

    def top(self, place):
        """Where an element begins, in pixels from the top of the page."""
        return self.page.locator(place).first.evaluate("one => one.getBoundingClientRect().top + scrollY")

    def look(self, name):
        """Nothing that keeps people out, as axe knows it; a screenshot where one is asked for."""
        self.page.wait_for_timeout(300)
        if SHOWN is not None:
            self.page.screenshot(path=SHOWN / f"{name}-{self.name}.png", full_page=True)
        violations = axe.Axe().run(self.page).response["violations"]
        assert not [rule["id"] for rule in violations if rule["impact"] in ("serious", "critical")], violations

    def check(self):
        assert not self.errors
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


def left_in(folder, place="*"):
    """Files of the page's folders; walk goes on where a folder is removed meanwhile."""
    walks = map(os.walk, folder.glob(f"labclip-app-*/{place}"))
    return [Path(root, name) for walk in walks for root, _, names in walk for name in names]


def wait_until_gone(files):
    """Until a call gives no file that is there."""
    end = time.monotonic() + 240  # uploads are removed two minutes after they came
    while left := [path for path in files() if path.exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.5)


def children(pid):
    """The processes that a process has started, as Linux tells."""
    return [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def ask(address, path="", data=None, **headers):
    """The status and the headers of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, named)) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def sent(boundary, content):
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


def test_the_server_gives_nothing_but_its_page(address, temporary):
    for path in ("file=https://example.org", "file=/etc/passwd", "upload_progress?upload_id=1", "openapi.json"):
        assert ask(address, f"gradio_api/{path}")[0] in (403, 404)
    port = address.rstrip("/").rpartition(":")[2]
    form = {"content_type": "multipart/form-data; boundary=b"}
    upload = "gradio_api/upload", sent("b", b"hello")
    assert ask(address, host=f"localhost:{port}")[0] == 200
    assert ask(address, host=f"evil.example:{port}")[0] == 403
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", "http://127.0.0.1:1"):
        assert ask(address, *upload, origin=origin, **form)[0] == 403
    assert not left_in(temporary)
    assert ask(address, "gradio_api/upload", sent("b", bytes(51_000_000)), **form)[0] == 413
    proxied = {"x_forwarded_host": "labclip.example", "origin": "https://labclip.example"}
    assert ask(address, **proxied)[0] == 200
    status, headers = ask(address, origin=address.rstrip("/"))
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_an_image_that_is_an_address_is_not_looked_up(address, visit):
    url, config = "http://localtest.me/a.png", visit().page.evaluate("window.gradio_config")
    image = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "own")
    (event,) = (event for event in config["dependencies"] if [image, "upload"] in event["targets"])
    data = [{"path": url, "url": url, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}, "a cat", 1]
    body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "asked"}).encode()
    origin = {"origin": address.rstrip("/"), "content_type": "application/json"}
    assert ask(address, "gradio_api/queue/join", body, **origin)[0] == 200
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=asked") as answer:
        assert "No such file" in next(line for line in answer if b"process_completed" in line).decode()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_every_tab_is_readable(visit, width, scheme):
    someone = visit(width, scheme)
    assert someone.top("#compared [role=status]") + 110 < (844 if width == 390 else 900)
    order = [someone.top(place) for place in ("#shown img", "#compared [role=status]", "textarea", "#example-0")]
    assert order == sorted(order) or width == 1280
    someone.look("compare")
    someone.tab("Search")
    someone.see("#found", "LABCLIP's first image")
    base, ours = (someone.top(f"#found section:nth-child({side}) img") for side in (1, 2))
    assert base == ours  # side by side
    someone.page.get_by_text("Search your own images").click()
    someone.look("search")
    someone.tab("Diagnose")
    someone.look("diagnose")
    someone.tab("Fit")
    someone.page.get_by_label("My captions and images").check()
    someone.look("fit")
    buttons = someone.page.get_by_role("button").locator("visible=true").all_inner_texts()
    assert buttons[-2:] == ["Fit", "Cancel"]
    overflow = someone.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0


UPLOADED = []  # what the server has of them, until the last test, which need not wait long for it then


def test_compare_an_image_of_one_s_own(visit, temporary):
    someone = visit()
    someone.upload("own", "mine.png", png(scenes.sample(1, seed=3).images[0]))
    sync_api.expect(someone.page.get_by_alt_text("mine.png")).to_be_visible()
    someone.upload("own", "notes.png", b"no image at all")
    someone.see("#compared", "notes.png is not a complete image")
    sync_api.expect(someone.page.get_by_alt_text("mine.png")).to_be_visible()
    UPLOADED.extend(left_in(temporary))
    assert UPLOADED


def test_compare(visit):
    someone = visit()
    someone.see("h1", "CLIP picks the wrong caption")
    someone.see("#heading", "knows only rendered scenes")
    verdicts = someone.page.locator("#compared [role=status] p")
    red, green = (verdicts.nth(n).evaluate("line => getComputedStyle(line).color") for n in (0, 1))
    assert (red, green) == ("rgb(179, 38, 30)", "rgb(23, 105, 74)")
    first = "LABCLIP is right: \u201ca red heart with a white ring\u201d"
    someone.see("#compared", first)
    wrong = "LABCLIP is wrong: \u201ca yellow heart without a brown star"
    for number, words in (("3", "CLIP is right"), ("5", wrong), ("0", first)):
        someone.page.locator(f"#example-{number}").click()
        someone.see("#compared", words)
    captions = someone.page.get_by_label("Captions, one per line")
    right, wrong = "a red heart with a white ring", "a white heart with a red ring"
    code = "<b>${1+1}</b> {{value}}\na cat"
    for typed, words in (
        (f"{right}\n{right}", "2 captions tie"), (right, "There is one caption"), (f"{right}\n{wrong}", first),
        ("", "There is no caption"), (code, "<b>${1+1}</b> {{value}}"),
    ):  # fmt: skip
        captions.fill(typed)
        someone.see("#compared", words)
    someone.click("A random scene")
    sync_api.expect(captions).not_to_have_value(code)


def test_the_slider_and_the_answer_agree(visit):
    someone = visit()
    number = someone.page.get_by_role("spinbutton", name="Strength")
    sides = someone.page.locator("#compared .l-sides")  # beside them gradio may still show its seconds
    at_rest = sides.text_content()
    someone.page.get_by_role("slider", name="Strength").fill("0")
    someone.see("#compared", "LABCLIP is wrong")
    someone.page.get_by_label("Reset to default value").locator("visible=true").click()
    sync_api.expect(number).to_have_value("1")  # the embedded matrix's own
    sync_api.expect(sides).to_have_text(at_rest)
    for typed, shown, words in (("-5", "0", "LABCLIP is wrong"), ("9", "1.5", "LABCLIP is right")):
        number.fill(typed)
        number.press("Tab")
        sync_api.expect(number).to_have_value(shown)
        someone.see("#compared", words)


def test_keys_alone(visit):
    someone = visit()
    page = someone.page
    page.get_by_label("Captions, one per line").focus()
    for _ in range(3):  # the number, its reset, the slider
        page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="Strength")
    sync_api.expect(slider).to_be_focused()
    assert slider.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.get_by_role("tab", name="Compare").focus()
    for key, name in (("ArrowRight", "Search"), ("End", "Fit"), ("ArrowRight", "Compare"), ("ArrowLeft", "Fit")):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        sync_api.expect(tab).to_be_focused()
        sync_api.expect(tab).to_have_attribute("aria-selected", "true")
        sync_api.expect(tab).to_have_attribute("tabindex", "0")
    assert page.locator("[role=tab][tabindex='0']").count() == 1


def test_search(visit, temporary):
    first, other = visit(), visit()
    photos = {f"photos/{n}.png": png(image) for n, image in enumerate(scenes.sample(12, seed=5).images)}
    for someone in (first, other):
        someone.tab("Search")
        someone.see("#found", "CLIP's first image is wrong: a gray ring beside a yellow star")
        someone.see("#found", "LABCLIP's first image is right: a yellow ring beside a gray star")
    first.page.get_by_text("Search your own images").click()
    first.upload("images", "mine.zip", zipped(photos | {"photos/broken.png": b"?", "notes.txt": b"hi"}))
    first.see("#indexed", "Images: 12.")
    first.see("#indexed", "photos/broken.png is not a complete image")
    first.see("#found", "photos/")
    other.page.get_by_role("button", name="red sphere without purple").click()
    sync_api.expect(other.page.locator("#without textarea")).to_have_value("purple")
    other.see("#found section:nth-child(2) li >> nth=0", "1 right")
    assert "photos/" not in other.page.locator("#found").inner_text()
    other.page.locator("#query textarea").fill("")
    other.click("Search")
    other.see("#found", "There is no query")
    first.upload("images", "cut.zip", zipped(photos)[:3000])
    first.see("#indexed", "cut.zip is not a complete zip")
    first.click("Back to the 500 scenes")
    first.see("#indexed", "500 rendered scenes")
    wait_until_gone(lambda: left_in(temporary, "sessions"))


def test_diagnose(visit, temporary):
    someone = visit(390)
    someone.tab("Diagnose")
    someone.page.get_by_role("spinbutton", name="Scenes").locator("visible=true").fill("500")
    someone.click("Diagnose")
    someone.page.wait_for_selector("#diagnosis progress")
    someone.page.wait_for_selector("#diagnosis iframe")
    assert "cosine" in someone.page.frame_locator("#diagnosis iframe").locator("body").inner_text()
    someone.look("diagnosis")
    wait_until_gone(lambda: left_in(temporary, "sessions"))


def test_fit_on_scenes_and_use_the_matrix_here(visit, temporary):
    first, other = visit(), visit()
    first.tab("Fit")
    first.page.locator("#run-fitted").click()
    first.see("#fitted", "loss=")
    first.look("fitting")
    first.page.wait_for_selector("#fitted iframe")
    first.see("#fitted", "labclip app --alignment alignment")
    with first.page.expect_download() as page:
        first.page.get_by_role("link", name="Save report.html").click()
    assert b"<!doctype html>" in Path(page.value.path()).read_bytes()
    with first.page.expect_download() as saved:
        first.page.get_by_role("link", name="Save alignment.zip").click()
    with zipfile.ZipFile(saved.value.path()) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        assert names == {"alignment/config.json", "alignment/model.safetensors", "alignment/README.md"}
        config = archive.read("alignment/config.json").decode()
    assert str(temporary) not in config
    first.look("fitted")
    use = first.page.get_by_label("Compare and search with the matrix that you fitted")
    use.check()
    first.tab("Compare")
    slider = first.page.get_by_role("spinbutton", name="Strength")
    sync_api.expect(slider).to_have_value(f"{json.loads(config)['strength']:g}")
    sections = [someone.page.locator("#compared section:nth-child(2)") for someone in (first, other)]
    assert sections[0].inner_text() != sections[1].inner_text()
    first.tab("Search")
    first.see("#found", "LABCLIP's first image")
    first.look("in-use")
    sync_api.expect(other.page.get_by_label("the matrix that you fitted")).to_be_hidden()
    first.tab("Compare")
    use.uncheck()
    sync_api.expect(slider).to_have_value("1")


def test_a_queue_and_cancel_wherever_it_is(visit, started, temporary):
    first, other = visit(), visit()
    for someone, words in ((first, "labclip sample"), (other, "queue: 1/1")):
        someone.tab("Fit")
        someone.page.locator("#run-fitted").click()
        sync_api.expect(someone.page.locator("#run-fitted")).to_be_disabled()
        someone.see("#fitted", words)
    other.page.locator("#cancel-fitted").click()  # while it waits
    other.see("#fitted", "Cancelled. Nothing was kept.")
    sync_api.expect(other.page.locator("#run-fitted")).to_be_enabled()
    other.page.locator("#run-fitted").click()
    other.see("#fitted", "queue: 1/1")
    first.page.locator("#cancel-fitted").click()  # while scenes are drawn
    first.see("#fitted", "Cancelled. Nothing was kept.")
    other.see("#fitted", "labclip sample")
    first.page.locator("#run-fitted").click()
    first.see("#fitted", "queue: 1/1")
    other.context.close()  # while scenes are drawn
    first.see("#fitted", "labclip sample")
    assert len(list(temporary.glob("labclip-app-*/sessions/work-*"))) == 1
    first.context.close()
    wait_until_gone(lambda: left_in(temporary, "sessions"))
    wait_until_gone(lambda: [Path(f"/proc/{pid}") for pid in children(started[1].pid)])


def test_fit_on_one_s_own_captions(visit, temporary):
    someone = visit()
    someone.tab("Fit")
    someone.page.get_by_label("My captions and images").check()
    someone.page.locator("#run-fitted").click()
    someone.see("#fitted", "Upload a file of captions")
    drawn = scenes.sample(60, seed=1)
    table = io.StringIO()
    rows = [[f"{n}.png", *texts] for n, texts in enumerate(zip(drawn.captions, drawn.swapped_captions, strict=True))]
    csv.writer(table).writerows([["image", "caption", "negative"], *rows])
    someone.upload("files", "images.zip", zipped({f"images/{n}.png": png(rgb) for n, rgb in enumerate(drawn.images)}))
    someone.see("#ready", "Upload the other too")
    someone.upload("files", "captions.csv", b"image,words\n1.png,a cat\n")
    someone.see("#ready", "captions.csv has no column 'caption'")
    someone.upload("files", "captions.csv", table.getvalue().encode())
    someone.see("#ready", "60 captions, 60 of them with a negative, and 60 of 60 images")
    someone.page.locator("#run-fitted").click()
    someone.page.wait_for_selector("#fitted iframe")
    someone.context.close()
    wait_until_gone(lambda: left_in(temporary, "sessions"))


def test_a_server_that_is_ended(chromium, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    with serving(folder) as (address, server):
        someone = Visitor(chromium, address)
        someone.tab("Fit")
        someone.page.locator("#run-fitted").click()
        someone.see("#fitted", "labclip sample")
        assert (running := children(server.pid))
        server.send_signal(signal.SIGTERM)
        server.wait(240)
        assert not any(Path(f"/proc/{pid}").exists() for pid in running)
        someone.tab("Search")
        someone.page.get_by_text("Connection to the server was lost").wait_for()
        someone.context.close()


def test_uploads_are_removed():
    wait_until_gone(lambda: UPLOADED)
    assert not any(path.exists() for path in UPLOADED)
