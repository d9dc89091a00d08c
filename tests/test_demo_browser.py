"""The demo in a real browser: Debian's chromium, headless, driven by selenium. Skipped where they are not installed."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from test_demo_service import SINGLE, make_image, untrained_networks_released

import mdrn
from demo.ui import build, launch
from mdrn import image_io

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*grey network"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not os.environ.get("MDRN_REQUIRE_BROWSER"),
        reason="needs chromium: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with untrained_networks_released(tmp_path_factory.mktemp("weights")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = build()
        _, url, _ = launch(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        yield url
        page.close()


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,800"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    (tmp_path / "downloads").mkdir()
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    yield driver
    driver.quit()


def until(condition, what, browser=None):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    page = f"; the page says:\n{text(browser, 'body')}" if browser else ""
    raise AssertionError(f"{what}: not within {SECONDS} s{page}")


def text(browser, selector):
    return browser.execute_script(
        "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''", selector
    )


def open_page(browser, address, query=""):
    """Open the page and wait until the first example has been denoised."""
    browser.get(address + query)
    until(lambda: "removed by" in text(browser, "#summary"), "the first example's result")


def upload(browser, path, expected):
    browser.execute_script("document.querySelector('#upload button[aria-label=\"Clear\"]')?.click()")
    field = until(lambda: browser.find_elements("css selector", "#upload input[type=file]"), "the upload field")[0]
    field.send_keys(str(path))
    until(lambda: expected in text(browser, "body"), expected, browser)


def denoise(browser, kind):
    browser.find_element("css selector", "#start").click()
    until(lambda: kind in text(browser, "#summary"), f"{kind} in the summary", browser)


def download(browser, folder, name):
    button = until(lambda: browser.find_element("css selector", "#download"), "the download button")
    until(button.is_enabled, "an enabled download button")
    browser.execute_script("arguments[0].click()", button)
    path = folder / "downloads" / name
    until(lambda: path.exists() and path.stat().st_size, name)
    return image_io.read_image(path)


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def sliders_pictures(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#slider img')].map(each => [each.naturalWidth, each.naturalHeight])"
    )


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "kind"),
    [
        ("grey.png", (150, 200), "uint8", "200 × 150 pixels, 8-bit grey, PNG"),
        ("deep.png", (150, 200, 3), "uint16", "200 × 150 pixels, 16-bit RGB, PNG"),
        ("deep.tif", (150, 200), "uint16", "200 × 150 pixels, 16-bit grey, TIFF"),
        ("alpha.png", (150, 200, 4), "uint8", "200 × 150 pixels, 8-bit RGB with alpha, PNG"),
    ],
)
def test_upload_denoise_look_download(name, shape, dtype, kind, address, browser, tmp_path):
    image = make_image(shape, dtype)
    image_io.write_image(tmp_path / name, image)
    open_page(browser, address)
    upload(browser, tmp_path / name, kind)
    denoise(browser, kind)
    until(lambda: sliders_pictures(browser) == [[200, 150], [200, 150]], "both pictures of the slider")
    back = download(browser, tmp_path, f"{Path(name).stem}_denoised{Path(name).suffix}")
    assert back.pixels.dtype == image.dtype and np.array_equal(back.pixels, mdrn.denoise(image))
    assert complaints(browser) == []


def test_a_bad_upload_is_explained_on_the_page(address, browser, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    open_page(browser, address)
    upload(browser, tmp_path / "text.png", "text.png: expected a PNG, JPEG, WebP, TIFF or BMP image")


def test_every_tab_and_view_opens_without_a_complaint(address, browser):
    open_page(browser, address)
    for name in ("Close-up", "Removed noise", "Stage by stage", "Compare", "Benchmark", "About"):
        tabs = browser.find_elements("css selector", "button[role=tab]")
        next(tab for tab in tabs if tab.text == name).click()
        time.sleep(1)
    assert complaints(browser) == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []


def test_a_link_opens_exactly_its_comparison(address, browser):
    open_page(browser, address, f"?tab=compare&photograph=camera&level=25&seed=3&methods={SINGLE},total_variation")
    until(lambda: "total variation" in text(browser, "#scores"), "the scores")
    assert SINGLE in text(browser, "#scores") and "seed=3" in browser.page_source
    assert complaints(browser) == []


def test_files_go_when_the_page_is_closed(address, browser):
    open_page(browser, address)
    results = Path(os.environ["GRADIO_TEMP_DIR"]) / "results"
    assert any(results.iterdir())
    browser.get("about:blank")
    until(lambda: not any(results.iterdir()), "an empty folder of results")
