"""How fast the page of `labclip app` starts and answers in a browser. Needs what `make browser` installs.

python benchmarks/app.py --json benchmarks/app.json
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright
from table import new_parser, save

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# Seconds from the key or click until the answer changes, by the clock of the page.
WAIT = """([answer, field, text, button]) => new Promise(resolve => {
  const html = () => document.querySelector(answer + " .l-sides")?.innerHTML;
  const before = html(), start = performance.now();
  const observer = new MutationObserver(() => {
    if (html() && html() !== before) { observer.disconnect(); resolve((performance.now() - start) / 1000); }
  });
  observer.observe(document.querySelector(answer), {childList: true, subtree: true, characterData: true});
  const element = document.querySelector(field);
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(element), "value").set.call(element, text);
  element.dispatchEvent(new Event("input", {bubbles: true}));
  if (button) requestAnimationFrame(() => document.querySelector(button).click());
})"""
COLOURS = ("red", "blue", "green", "white")
CAPTIONS = [f"a {first} cube and a {second} sphere" for first, second in itertools.permutations(COLOURS, 2)]


def median_time(page, answer, field, button=""):
    """Median seconds until `answer` changes after a caption is written into `field`; selectors of CSS."""
    times = []
    for caption in CAPTIONS:
        times.append(page.evaluate(WAIT, [answer, field, caption, button]))
        page.wait_for_timeout(300)
    return round(statistics.median(times), 3)


def open_page(page, address):
    page.goto(address)
    page.wait_for_selector("#compared li")
    page.wait_for_timeout(1000)


def main():
    parser = new_parser(__doc__)
    parser.add_argument("--screenshot", type=Path, help="PNG file for the tab Compare; NAME-narrow is written too")
    parser.add_argument("--port", type=int, default=7899)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "labclip", "app", "--port", str(arguments.port)]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        address = server.stdout.readline().split()[0]
        ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        record = {"start": round(time.monotonic() - start, 1), "load": round(os.getloadavg()[0], 1)}
        record["start_processor"] = round(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), 1)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        open_page(page, address)
        if arguments.screenshot:
            page.screenshot(path=arguments.screenshot)
            phone = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2)
            open_page(phone, address)
            phone.screenshot(path=arguments.screenshot.with_stem(f"{arguments.screenshot.stem}-narrow"))
            phone.close()
        record["caption"] = median_time(page, "#compared", "textarea")
        page.get_by_role("tab", name="Search").click()
        page.wait_for_selector("#found li")
        page.wait_for_timeout(1000)
        record["search"] = median_time(page, "#found", "#query textarea", "#go")
        browser.close()
        server.terminate()
    record["cores"] = len(os.sched_getaffinity(0))
    print(json.dumps(record, indent=1))
    save(arguments.json, record)


if __name__ == "__main__":
    main()
