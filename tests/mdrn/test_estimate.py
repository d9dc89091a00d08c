import io
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from mdrn import estimate, metrics, noise
from mdrn.estimate import estimate_level, estimate_noise_level, measure


def add_noise(clean, level, seed=0):
    noisy = clean + np.random.default_rng(seed).normal(0, level, clean.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def jpeg(image, quality, subsampling):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "jpeg", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(stream))


CROP = data.camera()[100:420, 60:380]


@pytest.mark.parametrize("level", [5, 15, 25, 50, 70])
@pytest.mark.parametrize("kind", ["float", "uint8", "uint16", "rgba"])
def test_white_noise(level, kind):
    clean = data.camera()[::2, ::2]
    noisy = noise.benchmark_noisy(clean, level)
    if kind == "uint8":
        noisy = metrics.to_uint8(noisy)
    elif kind == "uint16":
        noisy = np.round(np.clip(noisy, 0, 1) * 65535).astype(np.uint16)
    elif kind == "rgba":
        clean = data.astronaut()[::2, ::2]
        noisy = np.dstack([noise.benchmark_noisy(clean, level), np.ones((256, 256), np.float32)])
    assert estimate_noise_level(noisy) == pytest.approx(level, rel=0.15, abs=1.0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (8, 8), (5, 5, 3), (9, 9, 2), (9, 9, 1), (40, 3, 4)])
def test_any_size(shape):
    assert estimate_noise_level(np.full(shape, 7, np.uint8)) == 0
    noisy = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert 0 <= estimate_noise_level(noisy) <= 75


@pytest.mark.parametrize("value", [0, 1, 16, 128, 235, 250, 255])
@pytest.mark.parametrize("place", ["rows", "letterbox", "label", "screenshot"])
def test_flat_parts_do_not_outvote_the_photograph(value, place):
    noisy = add_noise(CROP, 25)
    if place == "rows":
        noisy[:29] = value
    elif place == "letterbox":
        noisy[:60] = noisy[-60:] = value
    elif place == "label":
        noisy[200:280, 40:200] = value
    else:
        noisy = np.pad(noisy, 120, constant_values=value)
    assert estimate_noise_level(noisy) == pytest.approx(25, rel=0.12)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "rgb"])
def test_flat_parts_of_other_kinds(dtype):
    clean = data.astronaut()[:320, :320] if dtype == "rgb" else CROP
    noisy = add_noise(clean, 25)
    noisy[:29] = 0
    noisy = noisy / np.float32(255) if dtype == "float32" else noisy * np.uint16(257) if dtype == "uint16" else noisy
    assert estimate_noise_level(noisy) == pytest.approx(25, rel=0.12)


def written(size, ink=0, paper=255):
    page = Image.new("L", (400, 300), paper)
    draw = ImageDraw.Draw(page)
    for top in range(5, 290, int(size * 1.4)):
        draw.text((5, top), "The quick brown fox jumps over the lazy dog 0123 " * 3, ink, ImageFont.load_default(size))
    return np.asarray(page)


def drawn():
    page = Image.new("L", (400, 300), 255)
    rng = np.random.default_rng(0)
    for ends in rng.integers(0, 300, (30, 4)):
        ImageDraw.Draw(page).line([int(end) for end in ends], fill=0)
    return np.asarray(page)


CLEAN_PAGES = {
    **{f"{size} px": written(size) for size in (8, 10, 16, 24)},
    **{f"{size} px, two tones": np.where(written(size) > 127, 255, 0).astype(np.uint8) for size in (10, 16, 24)},
    "grey on grey": written(12, ink=60, paper=200),
    "lines": drawn(),
    "checkerboard": (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8),
}


@pytest.mark.parametrize("page", CLEAN_PAGES.values(), ids=CLEAN_PAGES.keys())
def test_clean_pages_have_no_noise(page):
    for image in (page, 255 - page, np.repeat(page[..., None], 3, axis=2), page * np.uint16(257)):
        assert estimate_noise_level(image) < 2


@pytest.mark.parametrize("clean", [CROP, data.chelsea()], ids=["grey", "colour"])
def test_a_negative_has_the_same_noise(clean):
    noisy = add_noise(clean, 20)
    assert estimate_noise_level(255 - noisy) == pytest.approx(estimate_noise_level(noisy), rel=1e-3)


def test_colours_that_nobody_sees_are_not_looked_at():
    noisy = add_noise(data.astronaut()[:300, :300], 25)
    alpha = np.zeros((300, 300), np.uint8)
    alpha[40:220, 50:260] = 255
    levels = set()
    for hidden in ((0, 0, 0), (255, 255, 255), (255, 0, 255)):
        image = np.dstack([np.where(alpha[..., None] > 0, noisy, np.uint8(hidden)), alpha])
        levels.add(estimate_noise_level(image))
    assert len(levels) == 1 and levels.pop() == pytest.approx(25, rel=0.12)


def test_smooth_noise_counts_for_more():
    rng = np.random.default_rng(0)
    small = rng.normal(0, 12, (160, 160))
    doubled = np.asarray(Image.fromarray(small.astype(np.float32)).resize((320, 320), Image.Resampling.BILINEAR))
    noisy = np.clip(np.round(CROP + doubled), 0, 255).astype(np.uint8)
    whole, _ = measure(noisy)
    assert whole.fine == pytest.approx(doubled.std(), rel=0.3) and whole.coarse > 1.4 * whole.fine


@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_noise_that_went_through_jpeg_is_seen(quality, subsampling):
    clean = data.chelsea()[:256, :256]
    image = jpeg(add_noise(clean, 25), quality, subsampling)
    deviation = (image.astype(float) - clean).std()
    assert estimate_noise_level(image) > 0.8 * deviation


def test_levels_that_differ_over_the_image_are_mapped():
    ramp = np.linspace(5, 50, 512)
    noisy = data.camera() + np.random.default_rng(0).normal(0, 1, (512, 512)) * ramp
    level, parts = estimate_level(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    assert 0 < level < 50 and parts is not None
    columns = parts.mean(axis=0)
    places = (np.arange(len(columns)) + 0.5) * 512 / len(columns)
    assert np.abs(columns - np.interp(places, np.arange(512), ramp)).mean() < 7
    assert estimate_level(add_noise(data.camera(), 25))[1] is None


def test_twelve_megapixels_take_half_a_second():
    image = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    measure(image[:64, :64])
    began = time.process_time()
    measure(image)
    assert time.process_time() - began < 1.0  # 0.4 s on a quiet core


def test_the_networks_are_small():
    for kind in ("grey", "colour"):
        assert sum(tensor.size for tensor in estimate._network(kind).values()) < 50_000
