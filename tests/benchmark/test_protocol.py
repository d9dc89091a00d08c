"""The protocol's golden numbers: any change of noise, rounding or metric shows here, without weights."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest

from benchmark import testsets
from mdrn import metrics, noise


@functools.cache
def load(name: str, root: Path | None = None) -> testsets.Images:
    return testsets.load(name, root)


def data_root(*folders: str) -> Path:
    root = os.environ.get("MDRN_DATA")
    if not root or not all((Path(root) / folder).is_dir() for folder in folders):
        pytest.skip(f"set MDRN_DATA to a folder that holds {' and '.join(folders)} to run this test")
    return Path(root)


def mean_psnr(test_set: testsets.Images, level: float, protocol: str) -> float:
    """PSNR of the noisy input as it is: `awgn` neither clipped nor rounded, so not through metrics.psnr."""
    values = []
    for image in test_set.clean.values():
        error = noise.benchmark_noisy(image, level, protocol).astype(np.float64) - image / 255.0
        values.append(-10 * np.log10(np.mean(error**2)))
    return float(np.mean(values))


# np.random.seed(0); x + np.random.normal(0, level / 255, x.shape), see docstring of noise.benchmark_noisy
DATA_GOLDENS = {
    ("Set12", 15): (24.638, 24.704),
    ("Set12", 25): (20.201, 20.369),
    ("Set12", 50): (14.181, 14.788),
    ("BSD68", 15): (24.631, 24.814),
    ("BSD68", 25): (20.194, 20.498),
    ("BSD68", 50): (14.173, 14.929),
}
CAMERA_PSNR, CAMERA_SSIM = 20.6080, 0.29050
SAMPLE_GOLDENS = {15: (24.625, 24.801), 25: (20.188, 20.510), 50: (14.167, 14.986)}


@pytest.mark.parametrize(("name", "level"), DATA_GOLDENS)
def test_noisy_psnr_of_the_literature_sets(name, level):
    test_set = load(name, data_root(name))
    assert mean_psnr(test_set, level, "awgn") == pytest.approx(DATA_GOLDENS[name, level][0], abs=0.002)
    assert mean_psnr(test_set, level, "clip8") == pytest.approx(DATA_GOLDENS[name, level][1], abs=0.002)


@pytest.mark.parametrize("level", SAMPLE_GOLDENS)
def test_noisy_psnr_of_the_bundled_samples(level):
    test_set = load("samples")
    assert mean_psnr(test_set, level, "awgn") == pytest.approx(SAMPLE_GOLDENS[level][0], abs=0.002)
    assert mean_psnr(test_set, level, "clip8") == pytest.approx(SAMPLE_GOLDENS[level][1], abs=0.002)


def test_colour_noise_is_drawn_height_by_width_by_channel():
    test_set = load("samples_rgb")
    image = test_set.clean["coffee"]
    drawn = np.random.RandomState(0).normal(0, 25 / 255, image.shape)
    added = noise.benchmark_noisy(image, 25).astype(np.float64) - image / 255.0
    assert np.abs(added - drawn).max() < 1e-6
    assert mean_psnr(test_set, 25, "awgn") == pytest.approx(20.178, abs=0.002)


def test_ssim_of_the_noisy_camera_photograph():
    """The window is the literature's 11x11 Gaussian; scikit-image's default, 7x7 uniform, gives another number."""
    clean = load("samples").clean["camera"]
    noisy = metrics.to_uint8(noise.benchmark_noisy(clean, 25))
    assert metrics.psnr(noisy, clean) == pytest.approx(CAMERA_PSNR, abs=5e-4)
    assert metrics.ssim(noisy, clean) == pytest.approx(CAMERA_SSIM, abs=5e-5)


def test_ssim_of_noisy_set12():
    values = []
    for clean in load("Set12", data_root("Set12")).clean.values():
        values.append(metrics.ssim(metrics.to_uint8(noise.benchmark_noisy(clean, 25)), clean))
    assert np.mean(values) == pytest.approx(0.36735, abs=5e-5)
