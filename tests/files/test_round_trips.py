"""Files come back as they went in, and files of other software are understood."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from image_files import LEVELS, assert_same, noise, pillow, png, tiff, tiff_page
from PIL import Image

from mdrn.files import encode_image, read_image, write_image

SHAPES = [(37, 31), (37, 31, 2), (37, 31, 3), (37, 31, 4)]


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (1, 1, 3), (40, 5000)], ids=str)
@pytest.mark.parametrize("suffix, dtype", [("png", "uint8"), ("png", "uint16"), *(("tiff", d) for d in LEVELS)])
def test_lossless_formats_return_the_same_pixels(tmp_path, shape, suffix, dtype):
    pixels = noise(*shape, dtype=dtype)
    write_image(tmp_path / f"a.{suffix}", pixels)
    assert_same(read_image(tmp_path / f"a.{suffix}").pixels, pixels)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LEVELS)
def test_independent_reader_sees_the_bit_depth_of_tiff(shape, dtype):
    pixels = noise(*shape, dtype=dtype)
    page = tiff_page(encode_image(pixels, "tiff"))
    assert page.dtype == dtype
    assert_same(page.asarray(), pixels)
    assert page.compression.name == "ADOBE_DEFLATE" and page.predictor == (3 if dtype == "float32" else 2)
    assert page.photometric.name == ("RGB" if pixels.ndim == 3 and shape[2] > 2 else "MINISBLACK")
    assert len(page.extrasamples) == (pixels.ndim == 3 and shape[2] in (2, 4))


@pytest.mark.parametrize("shape, colour_type", list(zip(SHAPES, (0, 4, 2, 6), strict=True)))
@pytest.mark.parametrize("dtype, bits", [("uint8", 8), ("uint16", 16)])
def test_png_header_says_the_bit_depth(shape, colour_type, dtype, bits):
    data = encode_image(noise(*shape, dtype=dtype), "png")
    assert struct.unpack_from(">IIBB", data, 16) == (31, 37, bits, colour_type)


def test_independent_reader_sees_16_bit_png():
    imagecodecs = pytest.importorskip("imagecodecs", reason="run `pip install imagecodecs` to run this test")
    for shape in SHAPES:
        pixels = noise(*shape, dtype="uint16")
        assert_same(imagecodecs.png_decode(encode_image(pixels, "png")), pixels)


@pytest.mark.parametrize("shape", [(37, 31, 3), (37, 31, 4)], ids=str)
def test_webp_is_lossless_even_under_zero_alpha(shape):
    pixels = noise(*shape)
    pixels[:9, :, -1] = 0
    assert_same(read_image(encode_image(pixels, "webp")).pixels, pixels)


def test_webp_stores_grey_as_rgb():
    pixels = noise(37, 31)
    assert_same(read_image(encode_image(pixels, "webp")).pixels, np.dstack([pixels] * 3))


@pytest.mark.parametrize("shape", [(37, 31), (37, 31, 3), (1, 1)], ids=str)
def test_bmp(tmp_path, shape):
    pixels = noise(*shape)
    write_image(tmp_path / "a.bmp", pixels)
    image = read_image(tmp_path / "a.bmp")
    assert image.format == "bmp"
    assert_same(image.pixels, pixels)


def test_jpeg_is_close_and_full_colour(photo):
    data = encode_image(photo, "jpeg")
    assert np.abs(read_image(data).pixels.astype(int) - photo).mean() < 3
    header = Image.open(io.BytesIO(data))
    assert header.quantization == Image.open(io.BytesIO(pillow(photo, "JPEG", quality=95))).quantization
    assert [component[1:3] for component in header.layer] == [(1, 1)] * 3  # colour sampled as often as lightness
    assert read_image(encode_image(photo[..., 0], "jpeg")).pixels.shape == (37, 31)


def test_arrays_of_any_layout_are_written(photo):
    big_endian = noise(37, 31, dtype="uint16").astype(">u2")
    assert_same(read_image(encode_image(big_endian, "png")).pixels, big_endian.astype("<u2"))
    turned = photo[::-1].swapaxes(0, 1)
    assert_same(read_image(encode_image(turned, "png")).pixels, turned)


def test_pixels_read_can_be_changed_in_place():
    for format in ("png", "bmp"):
        pixels = read_image(encode_image(noise(4, 5, 3), format)).pixels
        pixels[:] = 7
        assert pixels.flags["C_CONTIGUOUS"]


def test_palette_with_transparency_becomes_rgba(photo):
    palette = Image.fromarray(photo).quantize(16)
    expected = palette.copy()
    expected.info["transparency"] = 3
    got = read_image(pillow(palette, "PNG", transparency=3)).pixels
    assert_same(got, np.array(expected.convert("RGBA")))
    assert set(np.unique(got[..., 3])) == {0, 255}
    assert_same(read_image(pillow(palette, "PNG")).pixels, np.array(palette.convert("RGB")))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_grey_png_fills_the_8_bit_range(bits):
    levels = np.arange(8) % 2**bits
    packed = np.packbits(((levels[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel())
    got = read_image(png(8, 1, bits, 0, b"\0" + packed.tobytes())).pixels
    assert_same(got, (levels * 255 // (2**bits - 1)).astype(np.uint8)[None])


def test_one_bit_files_of_pillow(photo):
    bilevel = Image.fromarray(photo).convert("1")
    for format in ("PNG", "TIFF", "BMP"):
        assert_same(read_image(pillow(bilevel, format)).pixels, np.array(bilevel.convert("L")))


@pytest.mark.parametrize(
    "options, compression",
    [
        ({}, "none"),
        ({"compression": "lzw"}, "lzw"),
        ({"compression": "lzw", "predictor": True}, "lzw"),
        ({"compression": "zlib", "predictor": True}, "deflate"),
        ({"compression": "packbits"}, "packbits"),
        ({"byteorder": ">"}, "none"),
        ({"tile": (16, 16), "compression": "lzw"}, "lzw"),
    ],
)
def test_tiff_16_bit_keeps_compression_and_depth(options, compression):
    pixels = noise(37, 31, 3, dtype="uint16")
    image = read_image(tiff(pixels, photometric="rgb", **options))
    assert_same(image.pixels, pixels)
    assert image.compression == compression
    page = tiff_page(encode_image(image.pixels, "tiff", image))
    assert page.compression.name.lower().replace("adobe_", "") == compression
    assert page.predictor == (2 if compression in ("lzw", "deflate") else 1)
    assert_same(page.asarray(), pixels)


@pytest.mark.parametrize("order", "<>")
def test_bigtiff_is_read_with_what_it_says(order):
    pixels = noise(37, 31, dtype="uint16")
    options = {"description": "from afar", "metadata": None, "resolution": (7, 7), "resolutionunit": "CENTIMETER"}
    image = read_image(tiff(pixels, bigtiff=True, byteorder=order, **options))
    assert_same(image.pixels, pixels)
    assert b"from afar" in image.exif and (image.resolution, image.resolution_unit) == ((7, 7), "cm")


def test_white_is_zero_is_turned_round():
    pixels = noise(37, 31, dtype="uint16")
    assert_same(read_image(tiff(pixels, photometric="miniswhite")).pixels, 65535 - pixels)


def test_premultiplied_alpha_is_divided_out():
    stored = np.full((4, 5, 4), (50, 20, 0, 100), np.uint8)
    got = read_image(tiff(stored, photometric="rgb", extrasamples=["assocalpha"])).pixels
    np.testing.assert_allclose(got[0, 0], (127, 51, 0, 100), atol=1)


def test_half_float_becomes_float32():
    pixels = noise(37, 31, dtype="float32").astype(np.float16)
    assert_same(read_image(tiff(pixels)).pixels, pixels.astype(np.float32))


def test_format_is_that_of_the_content_not_of_the_name(tmp_path, photo):
    (tmp_path / "a.jpg").write_bytes(encode_image(photo, "png"))
    image = read_image(str(tmp_path / "a.jpg"))
    assert image.format == "png"
    assert_same(image.pixels, photo)


def test_hundred_megapixels_pass_by_default(tmp_path):
    row = b"\0" + bytes(1250)  # 1-bit grey keeps this quick
    pixels = read_image(png(10_000, 10_000, 1, 0, row * 10_000)).pixels
    assert pixels.shape == (10_000, 10_000) and pixels.dtype == np.uint8
