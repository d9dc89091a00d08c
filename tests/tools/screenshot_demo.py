"""Photograph every tab of the demo, dark and light, wide and narrow: `python tests/tools/screenshot_demo.py FOLDER`.

Needs chromium and its driver. The networks are the released ones. Look at every picture after a change of the page.
"""

import argparse
import base64
import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from demo_site import served, start_browser, text, until

TABS = ("denoise", "whole", "removed", "stages", "files", "compare", "benchmark", "about")
SIZES = {1366: 768, 400: 800}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/tools/screenshot_demo.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the PNG files go")
    parser.add_argument("--only", nargs="*", help="some of " + ", ".join(TABS))
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
                for tab in arguments.only or TABS:
                    visit(browser, tab)
                    take(browser, arguments.folder / f"{tab}_{width}_{theme}.png", width, SIZES[width])
            finally:
                browser.quit()


def set_size(browser, width: int, height: int) -> None:
    """Give the page exactly this many CSS pixels; a window cannot be as narrow as a telephone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def visit(browser, tab: str) -> None:
    """Open a tab by its visible name, and let the Compare tab do its work."""
    names = {"denoise": "Close-up", "whole": "Whole image", "removed": "Removed noise"}
    names |= {"stages": "Stage by stage", "files": "Several files"}
    if tab in ("denoise", "whole", "removed", "stages"):
        press_tab(browser, "Denoise")
    press_tab(browser, names.get(tab, tab.capitalize()))
    if tab == "compare" and "dB" not in text(browser, "#compare-images"):
        browser.execute_script("document.querySelector('#compare-start').click()")
        until(lambda: "dB" in text(browser, "#compare-images"), "scores", browser, seconds=240)
    time.sleep(2.5)


def press_tab(browser, name: str) -> None:
    script = """
        const all = [...document.querySelectorAll('button[role=tab], .overflow-dropdown button')];
        const found = all.find(tab => tab.innerText.trim() === arguments[0] && tab.offsetParent !== null)
                   ?? all.find(tab => tab.innerText.trim() === arguments[0]);
        if (found) found.click();
        return Boolean(found);
    """
    if not browser.execute_script(script, name):
        browser.execute_script("document.querySelector('.overflow-menu > button')?.click()")
        time.sleep(0.3)
        assert browser.execute_script(script, name), f"no tab {name!r}"
    time.sleep(0.3)


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
