"""What the demo's tests and tools share: networks whose work is certain, a served page, a browser."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the tools, which run as scripts
from mdrn import checkpoint, inference
from mdrn.model import MDRN, ModelConfig, StageConfig

GREY, TINY = "mdrn.plain_n0-75_s0", "mdrn_tiny.plain_n0-75_s0"
COLOUR = "mdrn_rgb.plain_n0-75_s0"
LEVELS = (0.0, 75.0)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def released(folder: Path):
    """Put the networks of a folder in place of the released ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "WEIGHTS_DIR", folder)
        inference._load.cache_clear()
        yield
    inference._load.cache_clear()


def write_untrained(folder: Path, name: str) -> None:
    """Write a small network with random weights under an id; what the id says is what the header says."""
    preset, strategy = name.split(".")[0], name.split(".")[1].split("_n")[0]
    stage = StageConfig((0, 1), (1,))
    config = ModelConfig(channels=3 if preset.endswith("_rgb") else 1, widths=(8, 8), stages=(stage, stage), entry=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MDRN(config)
    header = checkpoint.Header(name, config, LEVELS, strategy, 0, 1, {}, {}, "unknown", torch.__version__)
    checkpoint.write_weights(folder / f"{name}.safetensors", model, header)


@contextlib.contextmanager
def served(folder: Path, **options):
    """Serve the page of this process, its temporary files in `folder`, and yield its address."""
    from demo.ui import build, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        page = build()
        _, url, _ = launch(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        yield url
        page.close()


def start_browser(folder: Path, width: int = 1280, height: int = 800):
    """Start chromium with an empty profile in `folder`; files it downloads go to `folder`/downloads."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    (folder / "downloads").mkdir(exist_ok=True)
    behaviour = {"behavior": "allow", "downloadPath": str(folder / "downloads")}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    return driver


def make_image(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Return seeded random pixels over the whole range of a type."""
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return values if dtype == "float32" else (values * np.iinfo(dtype).max).astype(dtype)


def set_size(browser, width: int, height: int) -> None:
    """Give the page exactly this many CSS pixels; a window cannot be as narrow as a telephone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def press_tab(browser, name: str) -> None:
    """Open a tab by its visible name, and wait until it is open."""
    tab = next(each for each in browser.find_elements("css selector", "button[role=tab]") if each.text == name)
    browser.execute_script("arguments[0].click()", tab)
    until(lambda: tab.get_attribute("aria-selected") == "true", name, browser)


def text(browser, selector: str) -> str:
    """Return the visible text of an element; empty if there is none."""
    return browser.execute_script(
        "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''", selector
    )


def until(condition, what: str, browser=None, seconds: float = 300):
    """Wait until a condition holds and return its value, or fail saying what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    page = f"; the page says:\n{text(browser, 'body')}" if browser else ""
    raise AssertionError(f"{what}: not within {seconds} s{page}")


def browser_is_required() -> bool:
    """Whether a missing browser is a failure: `.ci/run` asks for that."""
    return bool(os.environ.get("MDRN_REQUIRE_BROWSER"))
