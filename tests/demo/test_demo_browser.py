"""The demo in a real browser: Debian's chromium, headless, driven by selenium. Skipped where they are not installed."""

import os
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from demo_site import (
    CHROMIUM,
    DRIVER,
    GREY,
    browser_is_required,
    make_image,
    press_tab,
    set_size,
    start_browser,
    text,
    until,
)

import mdrn
from demo import comparison, errors, service, views
from mdrn import files, inference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not browser_is_required(),
        reason="needs chromium: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    folder = tmp_path_factory.mktemp("browser")
    driver = start_browser(folder)
    driver.downloads = folder / "downloads"
    yield driver
    driver.quit()


@pytest.fixture
def browser(window):
    """Return the browser with no download and no message of an earlier test."""
    window.get("about:blank")
    for path in window.downloads.iterdir():
        path.unlink()
    window.get_log("browser")
    return window


def open_page(browser, address, query=""):
    """Open the page and wait until the first example has been denoised."""
    browser.get(address + query)
    until(lambda: "removed by" in text(browser, "#summary"), "the first example's result", browser)


def upload(browser, path, expected):
    clear(browser)
    field = until(lambda: browser.find_elements("css selector", "#upload input[type=file]"), "the upload field")[0]
    field.send_keys(str(path))
    until(lambda: browser.find_elements("css selector", CLEAR) and expected in text(browser, "body"), expected, browser)


CLEAR = '#upload button[aria-label="Clear"]'


def clear(browser):
    """Remove the upload, and wait until nothing is said of it."""
    for button in browser.find_elements("css selector", CLEAR):
        browser.execute_script("arguments[0].click()", button)
    gone = "return !document.querySelector(arguments[0])"
    until(lambda: browser.execute_script(gone, CLEAR) and not text(browser, "#about-image"), "no upload", browser)


def press(browser, selector):
    button = browser.find_element("css selector", selector)
    until(button.is_enabled, f"{selector} enabled", browser)
    browser.execute_script("arguments[0].click()", button)


def denoise(browser, kind):
    press(browser, "#start")
    until(lambda: kind in text(browser, "#summary"), f"{kind} in the summary", browser)


def save(browser, selector, name):
    press(browser, selector)
    path = browser.downloads / name
    until(lambda: path.exists() and path.stat().st_size, name)
    return path


def download(browser, name):
    return files.read_image(save(browser, "#download", name)).pixels


def is_enabled(browser, selector):
    return browser.find_element("css selector", selector).is_enabled()


def pick(browser, selector, name):
    """Choose from a dropdown."""
    field = browser.find_element("css selector", f"{selector} input")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()
    until(lambda: browser.find_elements("css selector", f"{selector} [role=option]"), "the options")
    options = browser.find_elements("css selector", f"{selector} [role=option]")
    next(option for option in options if option.text.strip().endswith(name)).click()


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def pictures(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0] + ' img')].map(each => each.src)"
    return browser.execute_script(script, selector)


def sizes(browser, selector):
    script = """return [...document.querySelectorAll(arguments[0] + ' img')]
                       .map(each => [each.naturalWidth, each.naturalHeight])"""
    return browser.execute_script(script, selector)


def toasts(browser):
    return browser.find_elements("css selector", ".toast-body")


def is_gone(browser):
    """Whether no result is shown or offered."""
    return (
        not is_enabled(browser, "#download")
        and not pictures(browser, "#crop")
        and "removed by" not in text(browser, "#summary")
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
    until(lambda: sizes(browser, "#crop") == [[200, 150], [200, 150]], "both pictures of the slider")
    back = download(browser, f"{Path(name).stem}_denoised{Path(name).suffix}")
    assert back.dtype == image.dtype and np.array_equal(back, mdrn.denoise(image))
    assert complaints(browser) == []


def test_the_download_is_what_the_strength_says_however_it_was_set(address, browser, tmp_path):
    """Right 1: dragging, arrow keys, typed values and presets all lead to the newest value."""
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    image = make_image((90, 120), "uint16")
    files.write_image(tmp_path / "a.png", image)
    open_page(browser, address)
    upload(browser, tmp_path / "a.png", "120 × 90 pixels")
    denoise(browser, "120 × 90 pixels")

    def check(strength):
        until(lambda: f"strength {strength:.2f}" in text(browser, "#summary"), f"strength {strength}", browser)
        for old in browser.downloads.iterdir():
            old.unlink()
        assert np.array_equal(download(browser, "a_denoised.png"), mdrn.denoise(image, strength=strength))

    number = browser.find_element("css selector", "#strength input[type=number]")
    number.send_keys(keys.CONTROL, "a")
    number.send_keys("0.35", keys.ENTER)
    check(0.35)
    handle = browser.find_element("css selector", "#strength input[type=range]")
    for _ in range(7):  # faster than the server answers
        handle.send_keys(keys.ARROW_RIGHT)
    check(0.42)
    press(browser, "#strength-light")
    check(0.5)
    number.send_keys(keys.CONTROL, "a")
    number.send_keys("1.5", keys.ENTER)
    until(lambda: is_gone(browser), "no result where the network has to run again", browser)
    press(browser, "#start")
    check(1.5)
    assert complaints(browser) == []


def test_a_result_goes_when_it_no_longer_fits(address, browser, tmp_path):
    """Right 1: after a new upload, a removed or refused image, another level or network."""
    for name, seed in (("a.png", 0), ("b.png", 1)):
        files.write_image(tmp_path / name, make_image((60, 80), seed=seed))
    (tmp_path / "text.png").write_text("not an image")
    open_page(browser, address)
    upload(browser, tmp_path / "a.png", "80 × 60 pixels")
    until(lambda: is_gone(browser), "no result of the example", browser)
    denoise(browser, "80 × 60 pixels")
    clear(browser)
    until(lambda: is_gone(browser), "no result of the removed image", browser)
    upload(browser, tmp_path / "a.png", "80 × 60 pixels")
    until(lambda: "removed by" in text(browser, "#summary"), "the same image's result again", browser)
    upload(browser, tmp_path / "text.png", "This is not an image")
    until(lambda: is_gone(browser), "no result of the refused file", browser)
    upload(browser, tmp_path / "b.png", "80 × 60 pixels")
    denoise(browser, "80 × 60 pixels")
    pick(browser, "#network", "White noise, grey, fast")
    until(lambda: is_gone(browser), "no result of another network", browser)
    denoise(browser, "White noise, grey, fast")
    press(browser, "#advanced button")
    browser.execute_script("document.querySelector('.automatic input').click()")
    until(lambda: is_gone(browser), "no result of another level", browser)
    denoise(browser, "(as set)")


def test_an_example_runs_when_it_is_clicked_and_then_the_page_rests(address, browser, monkeypatch):
    """Right 1."""
    inspected, inspect = [], service.inspect
    monkeypatch.setattr(service, "inspect", lambda path: inspected.append(path) or inspect(path))
    open_page(browser, address)
    browser.find_elements("css selector", "#examples button")[1].click()
    until(lambda: "320 × 250 pixels" in text(browser, "#summary"), "the second example's result", browser)
    until(lambda: is_enabled(browser, "#download"), "its download", browser)
    asked = "return performance.getEntriesByType('resource').filter(each => each.name.includes('queue/join')).length"

    def rests():
        before = browser.execute_script(asked)
        time.sleep(2)
        return browser.execute_script(asked) == before

    until(rests, "no further request", browser, seconds=60)
    assert len(inspected) == 2


def test_one_visitors_image_changes_nothing_for_another(address, browser, tmp_path):
    """Right 2: the page promises no time that it cannot keep."""
    open_page(browser, address)
    files.write_image(tmp_path / "dot.png", make_image((1, 1)))
    upload(browser, tmp_path / "dot.png", "1 × 1 pixels")
    denoise(browser, "1 × 1 pixels")
    browser.switch_to.new_window("tab")
    try:
        open_page(browser, address)
        assert "About " not in text(browser, "#about-image") and "megapixel" not in text(browser, "#tab-denoise")
    finally:
        browser.close()
        browser.switch_to.window(browser.window_handles[0])


def slow_restore(monkeypatch, seconds=600):
    """Make the network's work last until it is stopped; progress is told as seldom as a large tile is done."""
    restore = inference.restore

    def slowly(*arguments, progress=None, **options):
        end = time.monotonic() + seconds
        while progress and time.monotonic() < end:
            progress(0, 1)
            time.sleep(0.5)
        return restore(*arguments, progress=progress, **options)

    monkeypatch.setattr(inference, "restore", slowly)


def test_stop_stops_its_own_job_and_says_so(address, browser, monkeypatch):
    """Right 3: Stop is active only when there is something to stop, and the main button only when there is not."""
    open_page(browser, address)
    assert is_enabled(browser, "#start") and not is_enabled(browser, "#stop")
    with monkeypatch.context() as patch:
        slow_restore(patch)
        press(browser, "#start")
        until(lambda: not is_enabled(browser, "#start") and is_enabled(browser, "#stop"), "Stop alone", browser)
        press(browser, "#stop")
        until(lambda: errors.Stopped.sentence in text(browser, "#notice"), "a word about it", browser)
        until(lambda: is_enabled(browser, "#start") and not is_enabled(browser, "#stop"), "the main button", browser)
    press(browser, "#start")
    until(lambda: not is_enabled(browser, "#stop") and not text(browser, "#notice"), "a result after that", browser)
    until(lambda: is_enabled(browser, "#download"), "a download after that", browser)
    press_tab(browser, "Compare")
    until(lambda: "dB" in text(browser, "#compare-images"), "the first comparison", browser)
    until(lambda: not is_enabled(browser, "#compare-stop"), "Stop at rest", browser)
    with monkeypatch.context() as patch:
        slow_restore(patch, 6)  # a comparison stops between two methods
        press(browser, "#compare-start")
        until(lambda: is_enabled(browser, "#compare-stop"), "Stop", browser)
        press(browser, "#compare-stop")
        until(lambda: errors.Stopped.sentence in text(browser, "#compare-notice"), "a word about it", browser)
    assert complaints(browser) == []


def slowly(monkeypatch, module, name, seconds):
    """Make a function of the demo's take this much longer."""
    function = getattr(module, name)

    def late(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, late)


def test_what_is_ready_too_late_is_not_shown(address, browser, tmp_path, monkeypatch):
    """Right 1: previews, downloads, descriptions and jobs that end after their image has gone change nothing."""
    files.write_image(tmp_path / "a.png", make_image((60, 80)))
    (tmp_path / "text.png").write_text("not an image")
    watch = """
        window.late = [];
        window.watching = setInterval(() => {
            window.late.push(!document.querySelector("#download").disabled);
        }, 20)"""
    open_page(browser, address)
    upload(browser, tmp_path / "a.png", "80 × 60 pixels")
    denoise(browser, "80 × 60 pixels")
    until(lambda: is_enabled(browser, "#download"), "the download", browser)
    with monkeypatch.context() as patch:
        for module, name in ((service, "write_result"), (views, "crop")):
            slowly(patch, module, name, 3)
        press(browser, "#strength-light")
        until(lambda: not is_enabled(browser, "#download"), "work on the download", browser)
        browser.execute_script("document.querySelector(arguments[0]).click()", CLEAR)
        browser.execute_script(watch)
        time.sleep(7)
        assert is_gone(browser)
        assert not any(browser.execute_script("clearInterval(window.watching); return window.late"))
    upload(browser, tmp_path / "a.png", "80 × 60 pixels")
    with monkeypatch.context() as patch:
        slow_restore(patch)
        press(browser, "#start")
        until(lambda: is_enabled(browser, "#stop"), "the work", browser)
        upload(browser, tmp_path / "text.png", "This is not an image")
        until(lambda: is_enabled(browser, "#start"), "the end of work that nobody wants", browser)
    time.sleep(2)
    assert is_gone(browser) and "This is not an image" in text(browser, "#notice")
    press_tab(browser, "Several files")
    field = until(lambda: browser.find_elements("css selector", "#files input[type=file]"), "the upload field")[0]
    field.send_keys(str(tmp_path / "a.png"))
    until(lambda: ".png" in text(browser, "#files"), "the file", browser)
    with monkeypatch.context() as patch:
        slow_restore(patch)
        press(browser, "#files-start")
        until(lambda: "working" in text(browser, "#files-table"), "the work", browser)
        browser.execute_script("document.querySelector('#files button[aria-label=\"Clear\"]').click()")
        until(lambda: is_enabled(browser, "#files-start"), "the end of work that nobody wants", browser)
    until(lambda: "a.png" not in text(browser, "#files-table"), "no word of a file that is gone", browser)
    assert not is_enabled(browser, "#files-download") and complaints(browser) == []


def test_a_large_photograph_is_shown_in_little(address, browser, tmp_path):
    """Right 4: a preview of display size, one crop with every pixel, chosen by a click and shared by all views."""
    width, height = 2400, 1600
    image = np.full((height, width), 128, np.uint8)
    image[1200:1500, 1800:2300] = make_image((300, 500))  # there is something to take away here
    files.write_image(tmp_path / "large.png", image)
    open_page(browser, address)
    upload(browser, tmp_path / "large.png", "2400 × 1600 pixels")
    browser.execute_script("performance.clearResourceTimings()")
    denoise(browser, "2400 × 1600 pixels")
    crop = [views.CROP_WIDTH, views.CROP_HEIGHT]
    until(lambda: sizes(browser, "#crop") == [crop, crop], "the crop's pixels", browser)
    left, top = place(browser)
    assert 1800 - crop[0] < left < 2300 and 1200 - crop[1] < top < 1500
    click_at(browser, "#navigator img", 0.1, 0.1)
    until(lambda: place(browser) == (0, 0), "the crop at the click", browser)
    press_tab(browser, "Whole image")
    until(lambda: max(sizes(browser, "#whole") or [[0]]) == [1024, 683], "the preview", browser)
    press_tab(browser, "Removed noise")
    until(lambda: any("removed_0_0_" in each for each in pictures(browser, "#removed")), "the crop", browser)
    press_tab(browser, "Stage by stage")
    until(lambda: any("stage_2_0_0" in each for each in pictures(browser, "#stages")), "the crop", browser)
    script = "return performance.getEntriesByType('resource').reduce((sum, each) => sum + each.transferSize, 0)"
    assert browser.execute_script(script) < 5e6
    assert complaints(browser) == []


def place(browser):
    """Return the left and top of the crop in the slider."""
    name = pictures(browser, "#crop")[0].split("/")[-1].split("?")[0].split(".")[0]
    return tuple(int(each) for each in name.split("_")[2:4])


def click_at(browser, selector, across, down):
    script = """
        const box = arguments[0].getBoundingClientRect();
        const at = {clientX: box.left + arguments[1] * box.width, clientY: box.top + arguments[2] * box.height};
        arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, ...at}))"""
    browser.execute_script(script, browser.find_element("css selector", selector), across, down)


def test_a_comparison_runs_by_itself_fits_its_colours_and_refuses_nothing_ticked(address, browser, monkeypatch):
    """Right 5."""
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    made, compare = [], comparison.compare
    monkeypatch.setattr(comparison, "compare", lambda *settings: made.append(settings) or compare(*settings))
    open_page(browser, address)
    until(lambda: is_enabled(browser, "#download"), "the download", browser)
    assert not made  # before the first visit to the tab
    press_tab(browser, "Compare")
    until(lambda: "dB" in text(browser, "#compare-images"), "the first comparison, unasked", browser)
    assert len(pictures(browser, "#pair")) == 2
    pick(browser, "#photograph", "coffee")
    until(lambda: "White noise, colour" in text(browser, "#methods"), "the colour network", browser)
    ticked = "return [...document.querySelectorAll('#methods input:checked')].map(e => e.closest('label').innerText)"
    until(lambda: "White noise, colour" in str(browser.execute_script(ticked)), "the colour network ticked", browser)
    assert "White noise, grey" not in str(browser.execute_script(ticked))
    until(lambda: not pictures(browser, "#compare-images"), "no result of another image", browser)
    press(browser, "#compare-start")
    until(lambda: "White noise, colour" in text(browser, "#scores"), "the scores", browser)
    scores = re.findall(r"\b\d\d\.\d+", text(browser, "#scores"))  # PSNR, for SSIM is below 1
    assert scores and all(len(each.split(".")[1]) == 2 for each in scores)
    field = browser.find_element("css selector", "#seed input")
    field.send_keys("1", keys.ENTER)
    until(lambda: "Nothing to show" in text(browser, "#compare-note"), "an outdated comparison", browser)
    assert not pictures(browser, "#compare-images") and not pictures(browser, "#pair")
    browser.execute_script("document.querySelectorAll('#methods input:checked').forEach(each => each.click())")
    press(browser, "#compare-start")
    until(lambda: "Tick at least one method." in text(browser, "#compare-notice"), "a refusal", browser)
    assert complaints(browser) == []


def test_an_error_is_one_sentence_in_one_place(address, browser, tmp_path):
    """Right 6: it is for a person, appears once, and covers nothing."""
    files.write_image(tmp_path / "cut.png", make_image((64, 64)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    open_page(browser, address)
    words = "This PNG is incomplete. Please upload a fresh copy."
    upload(browser, tmp_path / "cut.png", words)
    press(browser, "#start")
    until(lambda: is_enabled(browser, "#stop"), "the work", browser)
    until(lambda: is_enabled(browser, "#start"), "its end", browser)
    until(lambda: words in text(browser, "#notice"), "the sentence again", browser)
    assert text(browser, "body").count(words) == 1 and not toasts(browser)


def test_several_files_come_back_in_one_zip(address, browser, tmp_path):
    for name, shape, dtype in (("a.png", (60, 50), "uint8"), ("b.tif", (50, 60, 3), "uint16")):
        files.write_image(tmp_path / name, make_image(shape, dtype))
    (tmp_path / "bad.txt").write_text("not an image")
    open_page(browser, address)
    press_tab(browser, "Several files")
    field = until(lambda: browser.find_elements("css selector", "#files input[type=file]"), "the upload field")[0]
    field.send_keys("\n".join(str(tmp_path / name) for name in ("a.png", "bad.txt", "b.tif")))
    until(lambda: ".tif" in text(browser, "#files"), "three files", browser)
    press(browser, "#files-start")
    until(lambda: "2 of 3 done" in text(browser, "#files-summary"), "the summary", browser)
    assert "This is not an image" in text(browser, "#files-table")
    with zipfile.ZipFile(save(browser, "#files-download", "denoised.zip")) as archive:
        for name in ("a.png", "b.tif"):
            back = files.read_image(archive.read(name.replace(".", "_denoised.")))
            assert np.array_equal(back.pixels, mdrn.denoise(files.read_image(tmp_path / name).pixels))
    assert complaints(browser) == []


def test_every_tab_and_view_opens_without_a_complaint_and_back_works(address, browser):
    open_page(browser, address)
    for name in ("Whole image", "Removed noise", "Stage by stage", "Several files", "Compare", "Benchmark", "About"):
        press_tab(browser, name)
    until(lambda: "dB" in text(browser, "#topic") + text(browser, "#table"), "the table", browser)
    assert browser.current_url.endswith("?tab=about")
    browser.back()
    until(lambda: "tab=benchmark" in browser.current_url, "the tab before")
    until(lambda: browser.find_element("css selector", "#table").is_displayed(), "the tab before", browser)
    assert complaints(browser) == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []


def boxes(browser, selector):
    """Return left, top, right and bottom of the elements that are seen."""
    script = """return [...document.querySelectorAll(arguments[0])].filter(each => each.offsetParent)
                .map(each => each.getBoundingClientRect()).map(box => [box.left, box.top, box.right, box.bottom])"""
    return browser.execute_script(script, selector)


def apart(one, other):
    return one[2] <= other[0] + 1 or other[2] <= one[0] + 1 or one[3] <= other[1] + 1 or other[3] <= one[1] + 1


def test_the_first_screen_holds_the_result_and_labels_cover_no_picture(address, browser):
    """A pleasure 8, on a laptop and on a telephone."""
    try:
        for width, height in ((1366, 768), (400, 800)):
            set_size(browser, width, height)
            open_page(browser, address)
            until(
                lambda: len(pictures(browser, "#crop")) == 2 and is_enabled(browser, "#download"), "the result", browser
            )
            if width > 640:
                for selector in ("#upload", "#crop img", "#download", "#summary"):
                    assert boxes(browser, selector)[0][3] <= height, selector
            else:
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
                until(lambda: -5 < boxes(browser, "#result")[0][1] < 100, "the result in view", browser)
            assert len(boxes(browser, "#tabs > .tab-wrapper button[role=tab]")) == 5
            for block in ("#navigator", "#crop"):
                [label] = boxes(browser, f"{block} > label")
                assert all(apart(label, picture) for picture in boxes(browser, f"{block} img")), (width, block)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_key_and_a_button_hold_the_original(address, browser):
    """A pleasure 10."""
    webdriver = pytest.importorskip("selenium.webdriver")
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    open_page(browser, address)
    until(lambda: len(pictures(browser, "#crop")) == 2, "both pictures of the slider")
    hidden = "return getComputedStyle(document.querySelectorAll('#crop img')[1]).visibility === 'hidden'"
    button = browser.find_element("css selector", "#original")
    assert "(O)" in button.text
    actions = webdriver.ActionChains(browser)
    body = browser.find_element("css selector", "body")
    for target, key in ((body, "o"), (button, keys.SPACE)):
        browser.execute_script("arguments[0].focus()", target)
        actions.key_down(key).perform()
        assert browser.execute_script(hidden), key
        actions.key_up(key).perform()
        assert not browser.execute_script(hidden), key
    actions.click_and_hold(button).perform()
    assert browser.execute_script(hidden)
    actions.release().perform()
    assert not browser.execute_script(hidden)
    browser.execute_script("document.querySelector('#strength input[type=number]').focus()")
    actions.key_down("o").perform()
    assert not browser.execute_script(hidden)
    actions.key_up("o").perform()


CONTRAST = """
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const over = (top, below) => [0, 1, 2].map(i => (top[i] * top[3] + below[i] * (255 - top[3])) / 255);
    const behind = (element) => {
        if (!element) return [255, 255, 255];
        const own = rgba(getComputedStyle(element).backgroundColor);
        return own[3] === 255 ? own : over(own, behind(element.parentElement));
    };
    const light = (colour) => [0, 1, 2].map(i => colour[i] / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const words = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join("");
        const off = element.closest(":disabled, [aria-disabled=true], svg");
        const seen = element.checkVisibility({opacityProperty: true}) && element.getBoundingClientRect().width;
        if (!/[\\p{L}\\d]/u.test(words) || off || !seen) continue;
        const ground = behind(element), text = over(rgba(getComputedStyle(element).color), ground);
        const [low, high] = [light(text), light(ground)].sort((a, b) => a - b);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) faint.push(`${words.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return faint"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast(theme, address, browser):
    """A pleasure 10: at least 4.5 : 1, on every tab."""
    open_page(browser, address, f"?__theme={theme}")
    press(browser, "#advanced button")
    for name in ("Denoise", "Stage by stage", "Several files", "Compare", "Benchmark", "About"):
        press_tab(browser, name)
        for _ in range(20):  # until it has faded in
            faint = browser.execute_script(CONTRAST)
            if not faint:
                break
            time.sleep(0.2)
        assert faint == [], name


def test_keys_reach_every_control_and_pictures_have_descriptions(address, browser):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    open_page(browser, address)
    until(lambda: len(pictures(browser, "#crop")) == 2, "both pictures of the slider")
    script = "return [...document.querySelectorAll('img')].filter(i => i.offsetParent && !i.alt).map(i => i.src)"
    until(lambda: browser.execute_script(script) == [], "a description of every picture")
    script = """return [...document.querySelectorAll('#examples button')].filter(
                       b => !(b.ariaLabel || b.innerText.trim() || b.querySelector('img')?.alt)).length"""
    assert browser.execute_script(script) == 0
    reached = set()
    for _ in range(40):
        browser.switch_to.active_element.send_keys(keys.TAB)
        reached.add(browser.execute_script("return document.activeElement.id || document.activeElement.innerText"))
    for name in ("tab-compare-button", "start", "download", "Stage by stage"):
        assert any(name in each for each in reached), (name, reached)


def test_a_link_opens_exactly_its_comparison_and_a_bad_one_says_so(address, browser):
    browser.get(f"{address}?tab=compare&photograph=camera&level=25&seed=3&methods={GREY},total_variation")
    until(lambda: "Total variation" in text(browser, "#scores"), "the scores", browser)
    assert "White noise, grey" in text(browser, "#scores") and "seed=3" in browser.page_source
    assert complaints(browser) == []
    browser.get(f"{address}?tab=nothing")
    until(lambda: "This link asks for something" in text(browser, "#link-notice"), "a word about it", browser)


def test_files_go_when_the_page_is_closed(address, browser):
    results = Path(os.environ["GRADIO_TEMP_DIR"]) / "results"
    others = set(results.iterdir()) if results.exists() else set()
    open_page(browser, address)
    assert set(results.iterdir()) - others
    browser.get("about:blank")
    until(lambda: not set(results.iterdir()) - others, "no results of a page that is closed")
