import io
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from mdrn import estimate, inference, metrics, noise, restore
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


PAGES = [page[:160, :160] for page in list(CLEAN_PAGES.values())[1::3]]


def in_colour(page):
    return np.repeat(page[..., None], 3, axis=2)


@pytest.mark.parametrize("page", CLEAN_PAGES.values(), ids=CLEAN_PAGES.keys())
def test_clean_pages_have_no_noise(page):
    for image in (page, 255 - page, in_colour(page), page * np.uint16(257)):
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


@pytest.mark.parametrize("peak", [30, 120])
@pytest.mark.parametrize("clean", [data.camera(), data.coins(), data.coffee()], ids=["camera", "coins", "coffee"])
def test_noise_that_rises_with_brightness_is_mapped(clean, peak):
    noisy = metrics.to_uint8(np.random.default_rng(0).poisson(clean / 255 * peak) / peak)
    level, parts = estimate_level(noisy)
    true = np.sqrt(255 / peak * clean.reshape(*clean.shape[:2], -1).mean(axis=2))
    told = inference._sigma(parts, true.shape, (slice(0, true.shape[0]), slice(0, true.shape[1]))) * 255
    visible = true > 0.5 * true.mean()  # what is nearly black gets the level of the darkest part
    assert np.abs(np.log(told[visible] / true[visible])).mean() < 0.15 and 0 < level < 75
    crop = (slice(37, 120), slice(101, 300))
    assert np.allclose(inference._sigma(parts, true.shape, crop) * 255, told[crop])
    white = add_noise(clean, 25)
    assert estimate_level(white)[1] is None


def loss(noisy, clean, levels):
    """Return how many dB the estimate gives away to the best of some given levels, with the fast networks."""
    model = "photo_tiny" if clean.ndim == 3 else "mdrn_tiny"
    given = [metrics.psnr(restore(noisy, level, model).image, clean) for level in levels]
    return max(given) - metrics.psnr(restore(noisy, None, model).image, clean)


CAT, MAN = data.chelsea()[60:220, 120:280], data.camera()[60:220, 160:320]


@pytest.mark.parametrize(("quality", "subsampling"), [(75, 0), (75, 2), (85, 2), (95, 0), (95, 2)])
@pytest.mark.parametrize("level", [10, 25, 40])
def test_white_noise_saved_as_jpeg(quality, subsampling, level):
    noisy = jpeg(add_noise(CAT, level), quality, subsampling)
    assert loss(noisy, CAT, (0.8 * level, level, 1.3 * level, 1.6 * level)) < 0.3


@pytest.mark.parametrize("clean", [CAT, MAN], ids=["colour", "grey"])
def test_correlated_and_poisson_noise(clean):
    rng = np.random.default_rng(0)
    losses = []
    for level in (12, 25):
        small = rng.normal(0, level, (80, 80, *clean.shape[2:]))
        noisy = clean + small.repeat(2, axis=0).repeat(2, axis=1)
        losses.append(loss(metrics.to_uint8(noisy / 255), clean, (1.3 * level, 1.7 * level, 2.2 * level)))
    for peak in (30, 60):
        noisy = rng.poisson(clean / 255 * peak) / peak
        losses.append(loss(metrics.to_uint8(noisy), clean, np.sqrt(30 / peak) * np.array((25, 30, 36))))
    assert np.mean(losses) < 0.5 and max(losses) < 1.2


@pytest.mark.parametrize("ends", [(5, 50), (50, 5), (10, 40)])
def test_levels_that_differ_do_as_well_as_the_best_single_one(ends):
    clean = data.camera()
    ramp = np.linspace(*ends, 512)
    noisy = clean + np.random.default_rng(0).normal(0, 1, clean.shape) * ramp
    assert loss(metrics.to_uint8(noisy / 255), clean, (25, 30, 35)) < 0


FAINT_ON_WHITE = pytest.mark.xfail(reason="clipped at white, noise is not what it is told: text loses 0.6 dB")
TEXT, GREY_TEXT = (written(12, *tones)[:160, :160] for tones in ((), (60, 200)))
LOW = [(image, level) for image in (CAT, MAN, GREY_TEXT) for level in (1, 2, 3, 5)] + [(TEXT, 3), (TEXT, 5)]


@pytest.mark.parametrize(("clean", "level"), [*LOW, *(pytest.param(TEXT, n, marks=FAINT_ON_WHITE) for n in (1, 2))])
def test_low_levels_do_no_harm(clean, level):
    noisy = add_noise(clean, level)
    for given in (level, None):
        assert metrics.psnr(restore(noisy, given).image, clean) > metrics.psnr(noisy, clean) - 0.1


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_clean_images_stay_as_they_are(kind):
    photographs = [
        CAT,
        data.coffee()[100:260, 200:360],
        data.astronaut()[:160, 150:310],
        data.rocket()[200:360, 200:360],
    ]
    images = [image if kind == "colour" else image[..., 1] for image in [*photographs, *map(in_colour, PAGES)]]
    kept = [min(metrics.psnr(restore(image).image, image), 60) for image in images]
    assert np.mean(kept) >= 45 and min(kept) >= 38


def test_twelve_megapixels_take_half_a_second():
    """On a quiet core. A busy one is as much slower at a known workload, so their ratio is tested, at its best."""

    def seconds(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    def known():  # 0.1 s on a quiet core
        for scale in range(8):
            np.quantile(np.log(1.0 + scale * values), (0.1, 0.3, 0.6), axis=0)

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    values = rng.random((8000, 64), dtype=np.float32)
    assert 4000 < len(estimate._windows(image, 255.0)[0]) <= 8500
    measure(image[:64, :64])
    assert min(seconds(lambda: measure(image)) / seconds(known) for _ in range(3)) < 10
    assert seconds(lambda: measure(image[:300, :400])) < seconds(lambda: measure(image)) / 2


def test_the_networks_are_small():
    for kind in ("grey", "colour"):
        assert sum(tensor.size for tensor in estimate._network(kind).values()) < 50_000
