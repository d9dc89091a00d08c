"""What the released networks must do, on images: floors, not goldens. Test sets where MDRN_DATA has them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mdrn
from mdrn import data, metrics, noise
from mdrn.inference import restore
from mdrn.train import validate

RANGE = "mdrn.plain_n0-75_s0"
FLOORS = {"mdrn.plain_n25_s0": {"Set12": 29.9, "BSD68": 28.8}, "mdrn_tiny.plain_n25_s0": {"Set12": 29.5, "BSD68": 28.6}}


def images(folder: str) -> list[np.ndarray]:
    root = data.data_root()
    if root is None or not (root / folder).is_dir():
        pytest.skip(f"set MDRN_DATA to a folder that holds {folder} to run this test")
    return [data.read_uint8(path, 1) for path in sorted(Path(root / folder).glob("*.png"))]


@pytest.fixture
def sample() -> np.ndarray:
    from skimage.data import camera

    return camera()[100:356, 100:356]


@pytest.mark.parametrize("name", mdrn.list_models())
def test_every_stage_gains_and_the_first_most(name, sample):
    network = mdrn.load(name)
    low, high = network.header.noise_level
    level = low if low == high else 25.0
    noisy = noise.benchmark_noisy(sample, level)
    with torch.inference_mode():
        stages = network.progressive(torch.from_numpy(noisy)[None, None], noise.to_sigma(level))
    psnr = [metrics.psnr(metrics.to_uint8(a), sample) for a in (noisy, *(s[0, 0].numpy() for s in stages))]
    assert psnr == sorted(psnr) and psnr[1] >= psnr[0] + 6


@pytest.mark.parametrize("name", mdrn.list_models())
def test_bfloat16_costs_under_a_hundredth_of_a_decibel(name, sample):
    network = mdrn.load(name)
    exact, rounded = (validate(network, [sample], [25.0], bf16=bf16)["25"] for bf16 in (False, True))
    assert rounded != exact and rounded >= exact - 0.01


def test_estimating_the_level_costs_little_and_leaves_a_clean_image_alone(sample):
    for level in (15, 25, 50):
        noisy = noise.benchmark_noisy(sample, level)
        known, auto = (metrics.psnr(metrics.to_uint8(restore(noisy, n, RANGE).image), sample) for n in (level, None))
        assert auto >= known - 0.1
    assert metrics.psnr(restore(sample, None, RANGE).image, sample) >= 40


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [(name, folder) for name in FLOORS for folder in FLOORS[name]])
def test_floors(name, folder):
    assert validate(mdrn.load(name), images(folder), [25.0])["25"] >= FLOORS[name][folder]


@pytest.mark.slow
def test_estimating_the_level_on_bsd68():
    network = mdrn.load(RANGE)
    clean = images("BSD68")[::4]
    for level in (15, 25, 50):
        lost = []
        for image in clean:
            noisy = noise.benchmark_noisy(image, level)
            known, auto = (
                metrics.psnr(metrics.to_uint8(restore(noisy, n, network).image), image) for n in (level, None)
            )
            lost.append(known - auto)
        assert np.mean(lost) <= 0.1
    kept = [metrics.psnr(restore(image, None, network).image, image) for image in clean]
    assert np.mean(kept) >= 40
