"""The demo in a real browser: Debian's chromium, headless, driven by selenium. Skipped where they are not installed."""

import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from demo_site import CHROMIUM, DRIVER, SINGLE, browser_is_required, make_image, start_browser, text, until

import mdrn
from mdrn import files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*grey network"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not browser_is_required(),
        reason="needs chromium: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    driver = start_browser(tmp_path)
    yield driver
    driver.quit()


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
    return files.read_image(save(browser, folder, "#download", name))


def save(browser, folder, selector, name):
    button = until(lambda: browser.find_element("css selector", selector), "the download button")
    until(button.is_enabled, "an enabled download button")
    browser.execute_script("arguments[0].click()", button)
    path = folder / "downloads" / name
    until(lambda: path.exists() and path.stat().st_size, name)
    return path


def press_tab(browser, name):
    tabs = browser.find_elements("css selector", "button[role=tab]")
    next(tab for tab in tabs if tab.text == name).click()


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
    files.write_image(tmp_path / name, image)
    open_page(browser, address)
    upload(browser, tmp_path / name, kind)
    denoise(browser, kind)
    until(lambda: sliders_pictures(browser) == [[200, 150], [200, 150]], "both pictures of the slider")
    back = download(browser, tmp_path, f"{Path(name).stem}_denoised{Path(name).suffix}")
    assert back.pixels.dtype == image.dtype and np.array_equal(back.pixels, mdrn.denoise(image))
    assert complaints(browser) == []


def test_several_files_come_back_in_one_zip(address, browser, tmp_path):
    for name, shape, dtype in (("a.png", (60, 50), "uint8"), ("b.tif", (50, 60, 3), "uint16")):
        files.write_image(tmp_path / name, make_image(shape, dtype))
    (tmp_path / "bad.png").write_text("not an image")
    open_page(browser, address)
    press_tab(browser, "Several files")
    field = until(lambda: browser.find_elements("css selector", "#files input[type=file]"), "the upload field")[0]
    field.send_keys("\n".join(str(tmp_path / name) for name in ("a.png", "bad.png", "b.tif")))
    until(lambda: ".tif" in text(browser, "#files"), "three files", browser)
    browser.find_element("css selector", "#files-start").click()
    until(lambda: "2 of 3 done" in text(browser, "#files-summary"), "the summary", browser)
    assert "expected a PNG" in text(browser, "#files-table")
    path = save(browser, tmp_path, "#files-download", "denoised.zip")
    with zipfile.ZipFile(path) as archive:
        for name in ("a.png", "b.tif"):
            back = files.read_image(archive.read(name.replace(".", "_denoised.")))
            assert np.array_equal(back.pixels, mdrn.denoise(files.read_image(tmp_path / name).pixels))
    assert complaints(browser) == []


def test_a_bad_upload_is_explained_on_the_page(address, browser, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    open_page(browser, address)
    upload(browser, tmp_path / "text.png", "text.png: expected a PNG, JPEG, WebP, TIFF or BMP image")


def test_every_tab_and_view_opens_without_a_complaint(address, browser):
    open_page(browser, address)
    for name in ("Close-up", "Removed noise", "Stage by stage", "Several files", "Compare", "Benchmark", "About"):
        press_tab(browser, name)
        time.sleep(1)
    assert complaints(browser) == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []


def test_pictures_have_descriptions_and_keys_reach_every_control(address, browser):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    open_page(browser, address)
    until(lambda: len(sliders_pictures(browser)) == 2, "both pictures of the slider")
    script = "return [...document.querySelectorAll('img')].filter(i => i.offsetParent && !i.alt).map(i => i.src)"
    until(lambda: browser.execute_script(script) == [], "a description of every picture")
    reached = set()
    for _ in range(40):
        browser.switch_to.active_element.send_keys(keys.TAB)
        reached.add(browser.execute_script("return document.activeElement.id || document.activeElement.innerText"))
    for name in ("Compare", "start", "stop", "download", "Stage by stage"):
        assert name in reached, reached


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
