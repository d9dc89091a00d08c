"""The networks are denoisers to deepinv as they are: plug-and-play restoration gains on a blurred photograph."""

import pytest
import torch

import mdrn

deepinv = pytest.importorskip("deepinv", reason="run `pip install deepinv` to run this test")


@pytest.fixture(scope="module")
def blurred():
    """Return a photograph, its blurred and noisy measurement, and what blurred it."""
    from skimage.data import camera

    clean = torch.from_numpy(camera()[100:196, 150:251] / 255.0).float()[None, None]
    kernel = deepinv.physics.functional.gaussian_blur(sigma=(1.2, 1.2))
    noise = deepinv.physics.GaussianNoise(0.02, rng=torch.Generator().manual_seed(0))
    physics = deepinv.physics.BlurFFT(clean.shape[1:], filter=kernel, noise_model=noise)
    return clean, physics(clean), physics


@pytest.fixture(scope="module")
def network():
    return mdrn.load("mdrn.plain_n0-75_s0")


def psnr(restored, clean) -> float:
    return deepinv.metric.PSNR()(restored.clamp(0, 1), clean).item()


def test_it_takes_what_deepinv_passes(network):
    noisy = torch.rand(2, 1, 37, 31)
    with torch.no_grad():
        expected = network(noisy, 0.1)
        for sigma in (torch.tensor(0.1), torch.tensor([0.1]), torch.tensor([0.1, 0.1])):
            assert torch.equal(network(noisy, sigma), expected)
    prior = deepinv.optim.prior.PnP(network)
    with torch.no_grad():
        assert torch.equal(prior.prox(noisy, 0.1), expected)


@pytest.mark.parametrize("algorithm", ["DPIR", "HQS", "DRS"])
def test_plug_and_play_deblurring_gains(network, blurred, algorithm):
    clean, measured, physics = blurred
    if algorithm == "DPIR":
        solver = deepinv.optim.DPIR(sigma=0.02, denoiser=network)
    else:
        parts = {"data_fidelity": deepinv.optim.L2(), "prior": deepinv.optim.prior.PnP(network)}
        solver = getattr(deepinv.optim, algorithm)(**parts, stepsize=5.0, sigma_denoiser=0.05, max_iter=10)
    with torch.no_grad():
        restored = solver(measured, physics)
    assert restored.shape == clean.shape
    assert psnr(restored, clean) > psnr(measured, clean) + 2.0
