"""How fast the page of `labclip app` starts and answers, as a browser sees it. Needs what `make browser` installs.

python benchmarks/app.py --json benchmarks/app.json
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# Of the page's own clock, from the key or click to the answer that is not the one before.
WAIT = """([place, act]) => new Promise(done => {
  const sides = () => document.querySelector(place + " .l-sides")?.innerHTML;
  const before = sides(), began = performance.now();
  const seen = new MutationObserver(() => {
    if (sides() && sides() !== before) { seen.disconnect(); done((performance.now() - began) / 1000); }
  });
  seen.observe(document.querySelector(place), {childList: true, subtree: true, characterData: true});
  const field = document.querySelector(act.field);
  const write = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set;
  write.call(field, act.text);
  field.dispatchEvent(new Event("input", {bubbles: true}));
  if (act.button) requestAnimationFrame(() => document.querySelector(act.button).click());
})"""
CAPTIONS = [
    f"a {one} cube and a {two} sphere" for one, two in itertools.permutations(["red", "blue", "green", "white"], 2)
]


def median(page, place, field, captions, button=""):
    times = []
    for caption in captions:
        times.append(page.evaluate(WAIT, [place, {"field": field, "text": caption, "button": button}]))
        page.wait_for_timeout(300)
    return round(statistics.median(times), 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--screenshot", type=Path, help="Of the tab Compare, as a PNG file; NAME-narrow too.")
    parser.add_argument("--port", type=int, default=7899)
    given = parser.parse_args()
    command = [sys.executable, "-m", "labclip", "app", "--port", str(given.port)]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        address = server.stdout.readline().split()[0]
        spent = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        found = {"start": round(time.monotonic() - began, 1), "load": round(os.getloadavg()[0], 1)}
        found["start_processor"] = round(sum(map(int, spent)) / os.sysconf("SC_CLK_TCK"), 1)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        page.wait_for_selector("#compared li")
        page.wait_for_timeout(1000)
        if given.screenshot:
            page.screenshot(path=given.screenshot)
            phone = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2)
            phone.goto(address)
            phone.wait_for_selector("#compared li")
            phone.wait_for_timeout(1000)
            phone.screenshot(path=given.screenshot.with_stem(f"{given.screenshot.stem}-narrow"))
            phone.close()
        found["caption"] = median(page, "#compared", "textarea", CAPTIONS)
        page.get_by_role("tab", name="Search").click()
        page.wait_for_selector("#found li")
        page.wait_for_timeout(1000)
        found["search"] = median(page, "#found", "#query textarea", CAPTIONS, "#go")
        browser.close()
        server.terminate()
    found["cores"] = len(os.sched_getaffinity(0))
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
