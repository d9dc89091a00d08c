"""What the released networks must do, on images: floors, not goldens. Test sets where MDRN_DATA has them."""

import numpy as np
import pytest
import torch

import mdrn
from benchmark import testsets
from mdrn import checkpoint, data, metrics, noise
from mdrn.inference import restore
from mdrn.model import ResidualBlock

RANGE = "mdrn"
STUDENTS = [name for name in mdrn.list_models() if checkpoint.read_header(name).architecture == "mdrn"]


def images(folder: str) -> list[np.ndarray]:
    root = data.data_root()
    if root is None or not (root / folder).is_dir():
        pytest.skip(f"set MDRN_DATA to a folder that holds {folder} to run this test")
    return list(testsets.load(folder, root).clean.values())


@pytest.fixture
def sample() -> np.ndarray:
    from skimage.data import camera

    return camera()[100:356, 100:356]


@pytest.fixture
def colour_sample() -> np.ndarray:
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[:256, 128:384])


def of(network, grey: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the image that a network is for."""
    return grey if network.config.channels == 1 else colour


@pytest.mark.parametrize("name", STUDENTS)
def test_every_stage_gains_and_the_first_most(name, sample, colour_sample):
    network = mdrn.load(name)
    low, high = network.header.noise_level
    level, clean = low if low == high else 25.0, of(network, sample, colour_sample)
    noisy = noise.benchmark_noisy(clean, level)
    planes = torch.from_numpy(noisy).reshape(*clean.shape[:2], -1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        stages = network.progressive(planes, noise.to_sigma(level))
    arrays = [stage[0].permute(1, 2, 0).numpy().reshape(clean.shape) for stage in (planes, *stages)]
    psnr = [metrics.psnr(metrics.to_uint8(array), clean) for array in arrays]
    assert psnr == sorted(psnr) and psnr[1] >= psnr[0] + 6


@pytest.mark.parametrize("name", mdrn.list_models())
def test_bfloat16_costs_next_to_nothing(name, sample, colour_sample):
    network = mdrn.load(name)
    clean = of(network, sample, colour_sample)[:192, :192]  # small: many CPUs emulate bfloat16, slowly
    planes = torch.from_numpy(noise.benchmark_noisy(clean, 25)).reshape(192, 192, -1).permute(2, 0, 1)[None]
    scores = []
    for enabled in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            restored = network(planes, noise.to_sigma(25))[0].float().permute(1, 2, 0).numpy().reshape(clean.shape)
        scores.append(metrics.psnr(metrics.to_uint8(restored), clean))
    assert scores[1] != scores[0] and scores[1] >= scores[0] - 0.02


DEAD = {"mdrn.plain_n0-75_s0", "mdrn_rgb.plain_n0-75_s0", "photo.plain_n0-75_s0"}  # until they are trained again


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.xfail(raises=AssertionError, strict=True)) if n in DEAD else n
        for n in STUDENTS
    ],
)
def test_most_channels_of_every_block_let_something_through(name, sample, colour_sample):
    network = mdrn.load(name)
    firing = {}
    for block in (m for m in network.modules() if isinstance(m, ResidualBlock)):
        block.conv1.register_forward_hook(
            lambda _, __, x, b=block: firing.setdefault(b, []).append((x > 0).float().mean((0, 2, 3)))
        )
    clean = of(network, sample, colour_sample)
    for level in (5, 15, 25, 50):
        restore(noise.benchmark_noisy(clean, level), level, network)
    shares = [torch.stack(seen).mean(0) for seen in firing.values()]
    assert len(shares) == network.config.blocks
    assert all((share > 0.001).float().mean() > 0.75 for share in shares)


def test_estimating_the_level_costs_little_and_leaves_a_clean_image_alone(sample):
    for level in (15, 25, 50):
        noisy = noise.benchmark_noisy(sample, level)
        known, auto = (metrics.psnr(metrics.to_uint8(restore(noisy, n, RANGE).image), sample) for n in (level, None))
        assert auto >= known - 0.1
    assert metrics.psnr(restore(sample, None, RANGE).image, sample) >= 40


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
