import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from skimage.data import camera

from mdrn import metrics, noise


def test_units_convert():
    assert noise.to_sigma(25) == 25 / 255


@pytest.mark.parametrize("level", [-1, 75.1, "loud", None, float("nan"), float("inf")])
def test_levels_out_of_range_are_refused(level):
    with pytest.raises(ValueError, match="0 to 75"):
        noise.check_noise_level(level)


@pytest.mark.parametrize(("protocol", "expected"), [("awgn", 20.213), ("clip8", 20.780)])
def test_benchmark_noise_is_the_literatures(protocol, expected):
    clean = camera()[:256, :256]
    noisy = noise.benchmark_noisy(clean, 25, protocol)
    assert np.array_equal(noisy, noise.benchmark_noisy(clean, 25, protocol))
    error = np.mean((noisy.astype(np.float64) - clean / 255.0) ** 2)
    assert -10 * np.log10(error) == pytest.approx(expected, abs=0.005)
    if protocol == "awgn":
        same = clean / 255.0 + np.random.RandomState(0).normal(0, 25 / 255, clean.shape)
        assert np.array_equal(noisy, same.astype(np.float32))
    else:
        assert noisy.min() >= 0 and noisy.max() <= 1 and np.allclose(noisy * 255, np.round(noisy * 255), atol=1e-4)


def test_benchmark_noise_refuses_what_is_not_8_bit():
    with pytest.raises(ValueError, match="uint8"):
        noise.benchmark_noisy(np.zeros((4, 4), np.float32), 25)
    with pytest.raises(ValueError, match="protocol"):
        noise.benchmark_noisy(np.zeros((4, 4), np.uint8), 25, "other")


def test_training_noise_has_its_sigma():
    clean = torch.full((2, 1, 64, 64), 0.5)
    noisy = noise.add_training_noise(clean, torch.tensor([0.05, 0.3]), torch.Generator().manual_seed(0))
    assert noisy[0].std().item() == pytest.approx(0.05, rel=0.03)
    assert noisy[1].std().item() == pytest.approx(0.3, rel=0.03)
    assert noisy.max() > 1


def test_psnr_golden_and_edges():
    a = camera()
    b = np.clip(a.astype(int) + 3, 0, 255).astype(np.uint8)
    mse = np.mean((a.astype(float) - b) ** 2)
    assert metrics.psnr(a, b) == pytest.approx(10 * np.log10(255**2 / mse))
    assert metrics.psnr(a, a) == float("inf")
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(a, a[:-1])
    with pytest.raises(ValueError, match="uint8"):
        metrics.psnr(a / 255.0, a / 255.0)


def test_ssim_golden():
    clean = camera()[:256, :256]
    noisy = metrics.to_uint8(noise.benchmark_noisy(clean, 25))
    assert metrics.ssim(clean, clean) == pytest.approx(1.0)
    assert metrics.ssim(noisy, clean) == pytest.approx(SSIM_CAMERA_25, abs=5e-5)
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim(clean[:10], clean[:10])


SSIM_CAMERA_25 = 0.22647  # numpy RandomState(0), this crop, uint8 output; scikit-image 0.26


def test_lpips_needs_its_package_as_well_as_its_trunk(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    monkeypatch.setitem(sys.modules, "lpips", ModuleType("lpips", "stands in for the package"))
    sys.modules["lpips"].__spec__ = ModuleSpec("lpips", None)
    assert metrics.lpips_available()
    monkeypatch.setitem(sys.modules, "lpips", None)  # cannot be imported
    assert not metrics.lpips_available()
