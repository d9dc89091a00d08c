"""Whatever the image, `mdrn.denoise` returns one of its kind or one clear ValueError; hypothesis hunts for others."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_networks import small_network

from mdrn.files import encode_image, read_image
from mdrn.inference import DTYPES, blend, denoise, restore

settings.register_profile(
    "project", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Several only get in each other's way on images this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


GREY, COLOUR = small_network(), small_network(channels=3)
SIDES = st.integers(1, 40)
LEVELS = st.floats(0, 75)


@st.composite
def images(draw, dtypes=DTYPES, channels=(None, 2, 3, 4), sides=SIDES) -> np.ndarray:
    """Draw an image of any supported kind: any size from 1x1, extreme and repeated values, any memory layout."""
    kind = np.dtype(draw(st.sampled_from(dtypes)))
    shape = (draw(sides), draw(sides)) + ((last,) if (last := draw(st.sampled_from(channels))) else ())
    top = np.iinfo(kind).max if kind.kind == "u" else 1
    extremes = draw(arrays.arrays(kind, shape, elements=st.sampled_from([0, top]), fill=st.just(0)))
    noise = np.random.default_rng(draw(st.integers(0, 99))).random(shape) * top
    image = np.where(draw(arrays.arrays(bool, shape, fill=st.just(True))), noise, extremes).astype(kind)
    layout = draw(st.sampled_from(["C", "F", "view", "swapped"]))
    if layout == "F":
        return np.asfortranarray(image)
    if layout == "view":
        return np.repeat(image[::-1], 2, axis=0)[::-2]
    return image.astype(kind.newbyteorder(">")) if layout == "swapped" and kind.itemsize > 1 else image


def network_for(image: np.ndarray):
    return COLOUR if image.ndim == 3 and image.shape[2] > 2 else GREY


@given(images(), st.none() | LEVELS, st.floats(0, 1), st.none() | st.integers(8, 100))
def test_an_image_comes_back_as_one_of_its_kind(image, level, strength, tile):
    before = image.copy()
    restored = denoise(image, level, network_for(image), strength=strength, tile=tile)
    assert restored.shape == image.shape and restored.dtype == image.dtype
    assert np.array_equal(image, before) and not np.shares_memory(restored, image)
    if image.dtype.kind == "f":
        assert np.isfinite(restored).all() and restored.min() >= 0 and restored.max() <= 1
    if image.ndim == 3 and image.shape[2] in (2, 4):
        assert np.array_equal(restored[..., -1], image[..., -1])


@given(images(dtypes=["float32"], channels=[None], sides=st.integers(1, 150)), LEVELS, st.integers(40, 120))
@settings(max_examples=10)
def test_tiles_change_nothing(image, level, tile):
    whole = restore(image, level, GREY, tile=10_000).image
    assert np.abs(restore(image, level, GREY, tile=tile).image - whole).max() <= 1e-5


@given(images(dtypes=["uint8", "uint16"], channels=[None, 3]), LEVELS)
def test_memory_layout_and_byte_order_change_nothing(image, level):
    plain = np.array(image, dtype=image.dtype.newbyteorder("="), order="C")
    assert np.array_equal(denoise(image, level, network_for(image)), denoise(plain, level, network_for(image)))


@given(images(), st.floats(0, 1))
def test_a_mixture_lies_between(image, strength):
    restored = image[::-1]
    mixed = blend(image, restored, strength).astype(np.float64)
    slack = 0 if image.dtype.kind == "u" else 1e-3
    assert (mixed >= np.minimum(image, restored) - slack).all() and (mixed <= np.maximum(image, restored) + slack).all()


JUNK = st.one_of(
    arrays.arrays(
        st.sampled_from([*DTYPES, "int8", "int32", "uint32", "bool", "complex64", "U3", "object"]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    ),
    arrays.arrays("float32", (3, 3), elements=st.floats(width=32)),
    st.lists(st.integers()),
    st.none(),
    st.text(),
)
ODD = st.one_of(st.none(), st.floats(), st.integers(-9, 99), st.text(max_size=3), st.booleans())


@given(JUNK, ODD, ODD, ODD)
@settings(max_examples=150)
def test_anything_else_is_one_clear_refusal(image, level, strength, tile):
    """A result or a ValueError of one line, and nothing else, whatever is handed in."""
    try:
        restored = restore(image, level, GREY, strength=strength, tile=tile).image
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert restored.shape == image.shape and restored.dtype == image.dtype


@given(images(dtypes=["uint8", "uint16"]), st.sampled_from(["png", "tiff"]))
def test_files_return_the_pixels_they_were_given(image, format):
    assert np.array_equal(read_image(encode_image(image, format)).pixels, image)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_one_pixel_without_a_value_is_refused(value, dtype):
    image = np.full((9, 9), 0.5, dtype)
    image[4, 5] = value
    with pytest.raises(ValueError, match="finite"):
        denoise(image, 25, GREY)
