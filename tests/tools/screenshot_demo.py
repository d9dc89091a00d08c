"""Photograph every tab of the demo, dark and light, wide and narrow: `python tests/tools/screenshot_demo.py FOLDER`.

Each tab is taken before and after something is done on it. Needs chromium and its driver. The networks are the released
ones. Look at every picture after a change of the page.
"""

import argparse
import base64
import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from demo_site import press_tab, served, set_size, start_browser, text, until

SIZES = {1366: 768, 400: 800}
EXAMPLES = Path(__file__).parents[2] / "demo" / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/tools/screenshot_demo.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the PNG files go")
    parser.add_argument("--only", nargs="*", help="some of " + ", ".join(STATES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, served(Path(temporary) / "gradio") as address:
        for width, theme in itertools.product(SIZES, ("light", "dark")):
            profile = Path(temporary) / f"{width}_{theme}"
            profile.mkdir()
            browser = start_browser(profile, width, SIZES[width])
            try:
                set_size(browser, width, SIZES[width])
                browser.get(f"{address}?__theme={theme}")
                until(lambda browser=browser: "removed by" in text(browser, "#summary"), "the first result", browser)
                for name in arguments.only or STATES:
                    STATES[name](browser)
                    time.sleep(2)  # pictures fade in
                    take(browser, arguments.folder / f"{name}_{width}_{theme}.png", width, SIZES[width])
            finally:
                browser.quit()


def view(name: str):
    def show(browser) -> None:
        press_tab(browser, "Denoise")
        press_tab(browser, name)
        pictures = (
            "return [...document.querySelectorAll('#result img')].some(each => each.offsetParent && each.complete)"
        )
        until(lambda: browser.execute_script(pictures), f"the pictures of {name}", browser)

    return show


def without_image(browser) -> None:
    press_tab(browser, "Denoise")
    browser.execute_script("document.querySelector('#upload button[aria-label=\"Clear\"]').click()")
    until(lambda: not text(browser, "#about-image") + text(browser, "#summary"), "no word of the image", browser)


def files_done(browser) -> None:
    press_tab(browser, "Several files")
    chosen = [*sorted(EXAMPLES.glob("*.png")), EXAMPLES / "LICENSES.md"]
    browser.find_element("css selector", "#files input[type=file]").send_keys("\n".join(map(str, chosen)))
    until(lambda: ".md" in text(browser, "#files"), "the files", browser)
    browser.execute_script("document.querySelector('#files-start').click()")
    until(lambda: "of 4 done" in text(browser, "#files-summary"), "the files' results", browser)


def compared(browser) -> None:
    press_tab(browser, "Compare")
    until(lambda: "dB" in text(browser, "#compare-images"), "scores", browser)


def compare_outdated(browser) -> None:
    press_tab(browser, "Compare")
    browser.execute_script("document.querySelectorAll('#noise input')[2].click()")
    until(lambda: "Nothing to show" in text(browser, "#compare-note"), "a word about it", browser)


def colour_table(browser) -> None:
    press_tab(browser, "Benchmark")
    browser.execute_script("document.querySelectorAll('#topic input')[3].click()")


STATES = {
    "denoise": view("Close-up"),
    "whole": view("Whole image"),
    "removed": view("Removed noise"),
    "stages": view("Stage by stage"),
    "denoise_without_image": without_image,
    "files": lambda browser: press_tab(browser, "Several files"),
    "files_done": files_done,
    "compare": compared,
    "compare_outdated": compare_outdated,
    "benchmark": lambda browser: press_tab(browser, "Benchmark"),
    "benchmark_colour": colour_table,
    "about": lambda browser: press_tab(browser, "About"),
}


def take(browser, path: Path, width: int, height: int) -> None:
    """Write what is seen of the whole page; the first screen ends at `height`."""
    full = browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": max(height, min(full, 4000)), "scale": 1}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    path.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    print(f"{path.name}: {full} pixels high" + (f", {wide} WIDE: it scrolls sideways" if wide > width else ""))


if __name__ == "__main__":
    main()
