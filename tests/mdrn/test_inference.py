import tracemalloc
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from small_networks import SMALL_STAGE, header_for, small_network

import mdrn
from mdrn import checkpoint, estimate, inference
from mdrn.inference import blend, default_model, denoise, restore
from mdrn.model import ModelConfig

KINDS = ["uint8", "uint16", "float32", "float16", "float64"]


def make(shape, dtype, seed=0):
    values = np.random.default_rng(seed).random(shape)
    return (values * np.iinfo(dtype).max).astype(dtype) if np.dtype(dtype).kind == "u" else values.astype(dtype)


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A package folder with a grey range network, a grey single-level one and, on request, an RGB range network."""
    folder = tmp_path / "weights"
    monkeypatch.setattr(checkpoint, "WEIGHTS_DIR", folder)
    inference._load.cache_clear()

    def release(name, channels=1, level=(0.0, 75.0), **fields):
        network = small_network(channels)
        header = header_for(network, id=name, noise_level=level, **fields)
        checkpoint.write_weights(folder / f"{name}.safetensors", network, header)

    release("mdrn.plain_n0-75_s0")
    release("mdrn.plain_n25_s0", level=(25.0, 25.0))
    yield release
    inference._load.cache_clear()


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (37, 31), (9, 40, 2), (20, 11, 3), (1, 5, 4)])
def test_the_same_kind_comes_back(network, dtype, shape):
    image = make(shape, dtype)
    before = image.copy()
    restored = denoise(image, 25, network) if shape[-1] not in (3, 4) else restore(image, 25, network).image
    assert restored.shape == image.shape and restored.dtype == image.dtype
    assert np.array_equal(image, before)
    if image.ndim == 3 and shape[2] in (2, 4):
        assert np.array_equal(restored[..., -1], image[..., -1])
    assert not np.array_equal(restored, image)


def test_depths_agree(network):
    image = make((37, 31), "uint8")
    exact = restore(image / 255.0, 25, network).image
    assert np.abs(restore(image, 25, network).image / 255.0 - exact).max() <= 0.5 / 255 + 1e-6
    sixteen = restore((image.astype(np.uint16) * 257), 25, network).image / 65535.0
    assert np.abs(sixteen - exact).max() <= 0.5 / 65535 + 1e-6


@pytest.mark.parametrize(
    "changes",
    [{}, {"stages": (SMALL_STAGE,)}, {"entry": 1}, {"stages": (SMALL_STAGE,) * 3}],
    ids=["two stages", "one stage", "full resolution", "three stages"],
)
@pytest.mark.parametrize("tile", [64, 100])
def test_tiled_equals_whole(changes, tile):
    network = small_network(**changes)
    image = make((203, 331), "float32")
    whole = restore(image, 25, network, tile=10_000, stages=True)
    tiled = restore(image, 25, network, tile=tile, stages=True)
    for a, b in zip(whole.stages, tiled.stages, strict=True):
        assert np.abs(a - b).max() <= 1e-5


def test_tiles_do_differ_from_whole_without_their_halo(monkeypatch):
    """The test above can fail: with half the halo, tiles show."""
    network = small_network()
    image = make((200, 200), "float32")
    whole = restore(image, 25, network, tile=10_000).image
    monkeypatch.setattr(type(network), "receptive_field_radius", 16)
    assert np.abs(restore(image, 25, network, tile=64).image - whole).max() > 1e-4


def test_memory_decides_the_tile(network, monkeypatch):
    import psutil

    def tile_with(free):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": free}))
        return inference._tile_from_memory(network, 88)

    assert 128 <= tile_with(2**20) < tile_with(2**28) <= 1024


def test_progress_counts_tiles_and_can_cancel(network):
    seen = []
    restore(make((64, 100, 3), "uint8"), 25, network, tile=64, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]

    def cancel(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        restore(make((64, 100), "uint8"), 25, network, tile=64, progress=cancel)


def test_colour_through_a_grey_network_is_channel_by_channel_and_says_so(network):
    image = make((33, 21, 3), "uint8")
    with pytest.warns(UserWarning, match="channel by channel"):
        restored = denoise(image, 25, network)
    for c in range(3):
        assert np.array_equal(restored[..., c], denoise(np.ascontiguousarray(image[..., c]), 25, network))


def test_the_header_maps_measured_noise_to_the_networks_level(released):
    """White noise is the same to all networks; of smooth noise one that knows it can take more away."""
    released("mdrn_rgb.plain_n0-75_s0", channels=3)
    released("photo.plain_n0-75_s0", channels=3, coarseness=1.3)
    white = np.random.default_rng(0).normal(0, 20, (160, 160, 3))
    smooth = 3 * gaussian_filter(white, (1.2, 1.2, 0))
    for noise, least, most in ((white, 0.95, 1.05), (smooth, 1.1, 1.6)):
        image = np.clip(np.round(120 + noise), 0, 255).astype(np.uint8)
        level, larger = (restore(image, model=name).noise_level for name in ("mdrn_rgb", "photo"))
        assert least < larger / level < most


def test_default_network(released):
    image = make((33, 21, 3), "uint8")
    assert default_model(1) == default_model(3) == "mdrn.plain_n0-75_s0"
    assert restore(image, 25).per_channel
    released("mdrn_tiny_rgb.plain_n0-75_s0", channels=3)
    assert default_model(3) == "mdrn_tiny_rgb.plain_n0-75_s0" and default_model(1) == "mdrn.plain_n0-75_s0"
    released("mdrn_rgb.plain_n0-75_s0", channels=3)
    assert default_model(3) == "mdrn_rgb.plain_n0-75_s0" and default_model(1) == "mdrn.plain_n0-75_s0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert denoise(image, 25).shape == image.shape
    result = restore(image, 25)
    assert result.model == "mdrn_rgb.plain_n0-75_s0" and not result.per_channel
    released("photo.plain_n0-75_s0", channels=3)
    assert default_model(3) == "photo.plain_n0-75_s0" and default_model(1) == "mdrn.plain_n0-75_s0"
    assert restore(image[..., 0], 25).model == "mdrn.plain_n0-75_s0"
    with pytest.raises(ValueError, match="grey"):
        restore(image[..., 0], 25, "mdrn_rgb.plain_n0-75_s0")


def test_level_is_estimated_or_the_networks_own(released):
    noisy = np.clip(128 + np.random.default_rng(0).normal(0, 20, (128, 128)), 0, 255).astype(np.uint8)
    result = restore(noisy)
    assert result.estimated and result.noise_level == pytest.approx(20, abs=1)
    assert np.array_equal(result.image, restore(noisy, result.noise_level).image)
    single = restore(noisy, model="mdrn.plain_n25_s0")
    assert not single.estimated and single.noise_level == 25
    with pytest.raises(ValueError, match="25 alone"):
        restore(noisy, 30, "mdrn.plain_n25_s0")


def test_strength_blends_without_the_network(network):
    for dtype in KINDS:
        image = make((37, 31), dtype)
        full = restore(image, 25, network).image
        for strength in (0.0, 0.3, 1.0):
            assert np.array_equal(restore(image, 25, network, strength=strength).image, blend(image, full, strength))
        assert np.array_equal(blend(image, full, 0.0), image)
        middle = blend(image, full, 0.5).astype(np.float64)
        mean = (image.astype(np.float64) + full) / 2
        assert np.abs(middle - mean).max() <= (0.5 if np.dtype(dtype).kind == "u" else 1e-3)


def test_a_mixture_makes_no_float_copy_of_the_image():
    image, restored = np.full((3000, 4000), 10, np.uint8), np.full((3000, 4000), 20, np.uint8)
    tracemalloc.start()
    mixed = blend(image, restored, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (mixed == 15).all() and peak < image.nbytes + 2**25


def test_stages_are_the_networks_progress(network):
    image = make((37, 31), "uint8")
    result = restore(image, 25, network, stages=True)
    assert len(result.stages) == 2 and np.array_equal(result.stages[-1], result.image)
    with torch.no_grad():
        first = network.progressive(torch.from_numpy(image / np.float32(255))[None, None], 25 / 255)[0][0, 0]
    assert np.abs(result.stages[0] / 255.0 - first.clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-5
    assert restore(image, 25, network).stages == ()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[1, 2]], "NumPy"),
        ("photo.png", "path"),
        (Path("photo.png"), "path"),
        (torch.zeros(3, 9, 9), "tensor"),
        (Image.new("CMYK", (9, 9)), "CMYK"),
        (np.zeros((2, 2, 5), np.uint8), "expected"),
        (np.zeros((0, 4), np.uint8), "expected"),
        (np.zeros((2, 2), np.int32), "uint8"),
        (np.zeros((2, 2), bool), "uint8"),
        (np.full((2, 2), np.nan, np.float32), "finite"),
        (np.full((2, 2), 128.0, np.float32), "divide"),
    ],
)
def test_images_that_do_not_fit_are_refused(network, image, message):
    with pytest.raises(ValueError, match=message):
        denoise(image, 25, network)


@pytest.mark.parametrize(
    "options",
    [
        {"noise_level": 76},
        {"noise_level": -1},
        {"strength": 2.1},
        {"strength": -0.1},
        {"strength": "much"},
        {"white_level": 0},
        {"tile": 0},
        {"tile": 64.5},
    ],
)
def test_options_out_of_range_are_refused(network, image, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        restore(image, **({"noise_level": 25, "model": network} | options))


def test_unclipped_noisy_floats_are_taken(network):
    noisy = make((37, 31), "float32") + np.float32(0.3)
    restored = restore(noisy, 25, network).image
    assert noisy.max() > 1 and restored.max() <= 1


def test_networks_of_other_makes_work():
    """The contract is enough: forward, stride, receptive_field_radius and config.channels."""
    network = small_network(channels=3)
    assert restore(make((9, 9, 3), "uint8"), 25, network).model == "MDRN"


class Shift:
    """A denoiser that is no torch module and says no more of itself than the contract asks for."""

    stride, receptive_field_radius, config = 1, 3, types.SimpleNamespace(channels=1)

    def __call__(self, noisy, sigma):
        return noisy + sigma


def test_what_obeys_the_contract_need_not_be_a_torch_module():
    image = make((300, 200), "float32") / 2
    result = restore(image, 25.5, Shift())
    assert result.model == "Shift" and np.abs(result.image - image - 0.1).max() < 1e-6
    assert np.array_equal(restore(image, 25.5, Shift(), tile=64).image, result.image)


def test_a_network_that_gives_no_numbers_is_refused(network, image):
    with torch.no_grad():
        network.tails[-1].bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        restore(image, 25, network)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(37, 31), (37, 31, 1), (20, 11, 2), (20, 11, 3), (20, 11, 4)])
def test_level_0_returns_the_image_itself(network, dtype, shape):
    image = make(shape, dtype)
    for level in (0, 0.0, np.zeros(shape[:2])):
        result = restore(image, level, network, stages=True)
        assert all(np.array_equal(out, image) for out in (result.image, *result.stages))
    if np.dtype(dtype).kind == "f":
        assert np.array_equal(restore(image + image, 0, network).image, image + image)


def test_a_lone_channel_axis_stays(network):
    image = make((37, 31), "uint8")
    restored = denoise(image[..., None], 25, network)
    assert restored.shape == (37, 31, 1) and np.array_equal(restored[..., 0], denoise(image, 25, network))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F"])
def test_images_of_pillow_are_taken_and_given(network, mode):
    kind = {"I;16": "uint16", "F": "float32"}.get(mode, "uint8")
    bands = {"LA": (2,), "RGB": (3,), "RGBA": (4,)}.get(mode, ())
    image = Image.fromarray(make((37, 31, *bands), kind))
    image = image.convert(mode) if mode in ("1", "P") else image
    image.info["icc_profile"] = b"colours"
    with warnings.catch_warnings(action="ignore"):
        restored = denoise(image, 25, network)
    assert restored.mode == {"1": "L", "P": "RGB"}.get(mode, mode) and restored.size == (31, 37)
    assert restored.info["icc_profile"] == b"colours"
    array = np.asarray(image.convert(restored.mode) if mode in ("1", "P") else image)
    assert np.array_equal(np.asarray(restored), restore(array, 25, network).image)


def test_equal_channels_are_grey_and_stay_equal(released):
    released("mdrn_rgb.plain_n0-75_s0", channels=3)
    grey = make((37, 31), "uint8")
    alpha = make((37, 31), "uint8", seed=1) | np.uint8(1)
    for image in (np.dstack([grey] * 3), np.dstack([grey] * 3 + [alpha])):
        result = restore(image, 25)
        assert result.model == "mdrn.plain_n0-75_s0" and not result.per_channel
        assert all(np.array_equal(result.image[..., c], restore(grey, 25).image) for c in range(3))
        named = restore(image, 25, "mdrn_rgb.plain_n0-75_s0").image
        assert all(np.array_equal(named[..., c], named[..., 0]) for c in range(3))
        assert not np.array_equal(named[..., 0], grey) and np.array_equal(named[..., 3:], image[..., 3:])


@pytest.mark.parametrize("shape", [(40, 50, 2), (41, 51, 4), (1, 9, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("level", [None, 25])
def test_colours_that_nobody_sees_change_nothing(shape, dtype, level):
    network = small_network(channels=3 if shape[-1] == 4 else 1)
    image = make(shape, dtype)
    image[..., -1] = estimate.white_of(image.dtype)
    hidden = np.random.default_rng(1).random(shape[:2]) < 0.2
    hidden[shape[0] // 2 :] = True
    image[hidden, -1] = 0
    results = []
    for value in (0, 1, 0.3):
        image[hidden, :-1] = value * estimate.white_of(image.dtype)
        results.append(restore(image, level, network, stages=True))
        assert np.array_equal(results[-1].image[hidden], image[hidden])
        assert np.array_equal(results[-1].image[..., -1], image[..., -1])
    assert len({result.noise_level for result in results}) == 1
    visible = [result.image[~hidden] for result in results]
    assert all(np.array_equal(visible[0], other) for other in visible[1:])


@pytest.mark.parametrize(("bits", "dtype"), [(10, "uint16"), (12, "uint16"), (14, "uint16")])
def test_dim_data_is_restored_in_its_own_scale(network, bits, dtype):
    white = 2**bits - 1
    image = np.round(make((37, 31), "float64") * white).astype(dtype)
    exact = restore(image / white, 25, network).image
    dim = restore(image, 25, network, white_level=white).image
    assert np.abs(dim / white - exact).max() <= 0.5 / white + 1e-6
    estimated = restore(image, None, network)
    assert np.abs(estimated.image - restore(image, None, network, white_level=white).image.astype(int)).max() == 0
    full = restore(np.round(image / white * 65535).astype(np.uint16), None, network)
    assert estimated.noise_level == pytest.approx(full.noise_level, rel=0.02)
    with pytest.raises(ValueError, match="highest value"):
        restore(image, 25, network, white_level=int(image.max()) - 1)


def test_floats_may_have_another_white(network):
    image = make((37, 31), "float32")
    scaled = restore(image * 255, 25, network, white_level=255).image
    assert np.abs(scaled / 255 - restore(image, 25, network).image).max() < 1e-5


def test_levels_may_differ_from_pixel_to_pixel(network):
    image = make((200, 150), "float32")
    levels = np.repeat(np.linspace(0, 50, 150)[None], 200, axis=0)
    whole = restore(image, levels, network)
    assert whole.noise_level == pytest.approx(np.sqrt(np.square(levels).mean())) and not whole.estimated
    assert np.abs(restore(image, levels, network, tile=64).image - whole.image).max() <= 1e-5
    same = restore(image, np.full((200, 150), 25), network).image
    assert np.abs(same - restore(image, 25, network).image).max() <= 1e-5
    for wrong in (levels[:-1], levels + 30, levels - 1, levels * np.nan):
        with pytest.raises(ValueError, match="noise_level"):
            restore(image, wrong, network)


def test_strength_above_1_multiplies_the_level(network):
    image = make((37, 31), "uint8")
    strong = restore(image, 20, network, 1.5)
    assert strong.noise_level == 30 and np.array_equal(strong.image, restore(image, 30, network).image)
    assert restore(image, 60, network, 2.0).noise_level == 75


def test_a_wrong_name_gets_a_true_message(image):
    with pytest.raises(TypeError, match=r"denoise\(\) got an unexpected keyword argument 'sigma'"):
        denoise(image, sigma=25)


def test_public_names():
    assert set(mdrn.__all__) >= {"denoise", "list_models", "load"}
    assert ModelConfig().channels == 1
