import numpy as np
import pytest
from skimage.data import astronaut, chelsea

from mdrn import data
from mdrn.camera import Camera, photograph, white_level
from mdrn.pool import Pool

PLAIN = {"shot": 0.005, "read": 1e-5}


def residual(**changes) -> np.ndarray:
    """Return the noise of a camera on a grey card of middle brightness."""
    card = np.full((128, 128, 3), 120, np.uint8)
    clean, noisy = photograph(card, Camera(**PLAIN | changes), np.random.default_rng(0))
    return noisy.astype(np.float64) - clean


def correlation(noise: np.ndarray, distance: int) -> float:
    return np.corrcoef(noise[:, :-distance].ravel(), noise[:, distance:].ravel())[0, 1]


def test_the_same_seed_takes_the_same_photograph():
    camera = Camera.draw(np.random.default_rng(5))
    assert camera == Camera.draw(np.random.default_rng(5)) != Camera.draw(np.random.default_rng(6))
    first, second = (photograph(chelsea()[:96, :96], camera, np.random.default_rng(1)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_noise_a_photograph_is_its_reference_and_stays_near_the_scene():
    scene = chelsea()[:128, :128]
    clean, noisy = photograph(scene, Camera(shot=0.0, read=0.0, contrast=0.7), np.random.default_rng(0))
    assert np.array_equal(clean, noisy) and clean.dtype == np.uint8
    assert np.abs(clean.astype(int) - scene).mean() < 4  # what clipping of the colours changes


def test_the_reference_is_the_mean_of_many_photographs():
    """The tone curve and clipping move what noise disturbs, also in the means that real sets have as references."""
    scene, camera = chelsea()[:96, :96], Camera(shot=0.02, read=5e-4, contrast=0.5, red_gain=2.0, blue_gain=1.6)
    taken = [photograph(scene, camera, np.random.default_rng(seed)) for seed in range(40)]
    noise = np.array([noisy.astype(np.float64) - clean for clean, noisy in taken])
    assert noise.std() > 20 and np.abs(noise.mean((0, 1, 2))).max() < 0.05 * noise.std()


def test_shot_noise_grows_with_light():
    ramp = np.repeat(np.linspace(40, 200, 256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    clean, noisy = photograph(ramp, Camera(shot=0.02, read=0.0), np.random.default_rng(0))
    linear = [np.where(x / 255 <= 0.04045, x / 255 / 12.92, ((x / 255 + 0.055) / 1.055) ** 2.4) for x in (clean, noisy)]
    dark, light = (np.var((linear[1] - linear[0])[:, part]) for part in (slice(0, 64), slice(192, 256)))
    assert light > 4 * dark


def test_demosaicing_and_smoothing_correlate_neighbours_and_colour_smoothing_the_channels():
    plain, smooth, colour = residual(), residual(smoothing=0.8), residual(colour_smoothing=2.0)
    assert 0.2 < correlation(plain, 1) < correlation(smooth, 1) < 0.9 and correlation(plain, 8) < 0.1
    channels = [np.corrcoef(noise.reshape(-1, 3).T)[0, 1] for noise in (plain, colour)]
    assert channels[0] < 0.2 < 0.6 < channels[1]


def test_noise_reduction_spares_edges():
    scene = np.full((128, 128, 3), 60, np.uint8)
    scene[:, 64:] = 160
    noise = []
    for reduction in (0.0, 0.8):
        camera = Camera(**PLAIN, reduction=reduction)
        clean, noisy = photograph(scene, camera, np.random.default_rng(0))
        noise.append(noisy.astype(np.float64) - clean)
    flat, edge = (noise[1][:, part].std() / noise[0][:, part].std() for part in (slice(8, 48), slice(62, 66)))
    assert flat < 0.3 and edge > 0.8


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_of_the_side_asked_for_is_enough(seed):
    camera = Camera.draw(np.random.default_rng(seed))
    side = camera.scene_side(128)
    clean, noisy = photograph(np.full((side, side, 3), 90, np.uint8), camera, np.random.default_rng(0))
    assert clean.shape == noisy.shape and 128 <= clean.shape[0] <= 144 and side <= 256


def test_jpeg_and_size():
    assert residual(scale=0.5).shape == residual(shrink=0.5).shape == (64, 64, 3)
    assert not np.array_equal(residual(quality=75, subsampling=2), residual())


def test_drawn_noise_is_like_that_of_real_photographs():
    """Against the 24 crops of PolyU for decisions: the comments have the medians there."""
    rng, found = np.random.default_rng(0), []
    for _ in range(30):
        camera = Camera.draw(rng)
        clean, noisy = photograph(astronaut()[: camera.scene_side(96), : camera.scene_side(96)], camera, rng)
        noise = noisy.astype(np.float64) - clean
        neighbours = [np.corrcoef(noise[:, :-d].ravel(), noise[:, d:].ravel())[0, 1] for d in (1, 2) for c in (1,)]
        channels = np.corrcoef(noise.reshape(-1, 3).T)[np.triu_indices(3, 1)].mean()
        found.append([noise.std(), *neighbours, channels, white_level(noise) / noise.std()])
    deviation, first, second, channels, ratio = np.median(found, axis=0)
    assert 2.5 < deviation < 5.5  # 3.5
    assert 0.45 < first < 0.7 and 0.1 < second < 0.35  # 0.59 and 0.24
    assert 0.45 < channels < 0.8  # 0.67
    assert 2.0 < ratio < 2.7  # 2.31


@pytest.mark.parametrize("level", [5, 25, 60])
def test_the_level_of_white_noise_is_its_deviation(level):
    noise = np.random.default_rng(0).normal(0, level, (256, 256, 3))
    assert white_level(noise) == pytest.approx(level, rel=0.03)
    assert white_level(noise + 40) == pytest.approx(level, rel=0.03)


def test_the_smoother_the_noise_the_higher_its_level():
    plain, smooth = residual(), residual(smoothing=1.0)
    assert white_level(smooth) / smooth.std() > white_level(plain) / plain.std() > 1.3


def test_a_pool_holds_photographs_beside_white_noise(tmp_path):
    source = data.PatchSource.from_images([astronaut(), chelsea()])
    pools = [Pool(tmp_path, source, 32, 32, (0.0, 75.0), 0.0, share) for share in (0.0, 0.5)]
    for pool in pools:
        pool.fill({})
    white, mixed = (pool.batch(0, 0, 32, 32, []) for pool in pools)
    assert pools[0].folder != pools[1].folder
    whole = [np.round(batch.noisy.numpy() * 255 * 64) / 64 for batch in (white, mixed)]
    eight_bit = [np.array([np.abs(p - np.round(p)).max() < 0.2 for p in noisy]) for noisy in whole]
    assert not eight_bit[0].any() and 8 <= eight_bit[1].sum() <= 24
    assert mixed.sigma.shape == (32,) and mixed.sigma.min() > 0 and mixed.sigma.max() <= 75 / 255
