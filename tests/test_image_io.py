"""Files come back as they went in, and bad files end as one clear ImageFileError."""

from __future__ import annotations

import builtins
import errno
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms, ImageOps

from mdrn import image_io
from mdrn.image_io import ImageFile, ImageFileError, encode_image, read_image, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1.0}
CAMERA, DESCRIPTION, ORIENTATION, SOFTWARE, ARTIST = 271, 270, 274, 305, 315
EXIF_DIRECTORY, GPS_DIRECTORY, DATE_TAKEN, EXPOSURE, MAKER_NOTE = 34665, 34853, 36867, 33434, 37500
LATITUDE = 2


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A 37 x 31 photograph, so that swapped axes cannot hide."""
    return np.ascontiguousarray(skimage.data.astronaut()[100:137, 200:231])


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(0).random(shape)
    return values.astype(dtype) if dtype == "float32" else np.round(values * LEVELS[dtype]).astype(dtype)


def pillow(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    if format == "JPEG" and "exif" in options:
        options["exif"] = b"Exif\0\0" + options["exif"]  # Pillow leaves this to the caller here, and only here
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def tiff_page(data: bytes) -> tifffile.TiffPage:
    return tifffile.TiffFile(io.BytesIO(data)).pages[0]


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def exif(orientation: int = 6, endian: str = "<") -> bytes:
    tags = Image.Exif()
    tags.endian = endian
    tags[CAMERA], tags[ORIENTATION], tags[ARTIST] = "Testcam", orientation, "Someone"
    tags[EXIF_DIRECTORY] = {DATE_TAKEN: "2020:01:02 03:04:05", EXPOSURE: 0.01, MAKER_NOTE: b"secret of the maker"}
    tags[GPS_DIRECTORY] = {1: "N", LATITUDE: (48.0, 51.0, 30.0)}
    return tags.tobytes()[6:]


def exif_of(data: bytes) -> Image.Exif:
    """EXIF as Pillow sees it, whatever the bit depth; for a TIFF these are the tags of its first directory."""
    tags = Image.Exif()
    tags.load(data if data[:2] in (b"II", b"MM") else Image.open(io.BytesIO(data)).info.get("exif", b""))
    return tags


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


# ------------------------------------------------------------------------------------------------ round trips

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


# ------------------------------------------------------------------------------------- what others' files hold


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


def test_bigtiff_is_read():
    pixels = noise(37, 31, dtype="uint16")
    with pytest.warns(UserWarning, match="BigTIFF"):
        assert_same(read_image(tiff(pixels, bigtiff=True)).pixels, pixels)


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


# ------------------------------------------------------------------------------------------------- metadata

WITH_EXIF = [
    ("jpeg", "<"),
    ("jpeg", ">"),
    ("png", "<"),
    ("webp", ">"),
]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(photo, orientation):
    data = pillow(photo, "PNG", exif=exif(orientation))
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert_same(read_image(data).pixels, expected)


def test_orientation_of_tiff_is_applied(photo):
    image = read_image(tiff(photo, photometric="rgb", extratags=[(ORIENTATION, 3, 1, 8, True)]))
    assert_same(image.pixels, np.rot90(photo))
    assert tiff_page(encode_image(image.pixels, "tiff", image)).tags[ORIENTATION].value == 1


@pytest.mark.parametrize("source, endian", WITH_EXIF)
@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "tiff"])
def test_rotated_photo_keeps_exif_but_not_the_orientation(tmp_path, photo, source, endian, target):
    options = {"lossless": True} if source == "webp" else {}
    data = pillow(photo, source.upper(), exif=exif(6, endian), icc_profile=SRGB, **options)
    before = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = read_image(data)
    assert image.pixels.shape == (31, 37, 3)
    assert np.abs(image.pixels.astype(int) - before).max() <= 3  # JPEG decoders differ a little

    path = tmp_path / f"out.{target}"
    write_image(path, image.pixels, image)
    tags = exif_of(path.read_bytes())
    assert tags.get(ORIENTATION, 1) == 1 and (target == "tiff" or ORIENTATION not in tags)
    assert (tags[CAMERA], tags[ARTIST]) == ("Testcam", "Someone")
    assert tags.get_ifd(EXIF_DIRECTORY)[DATE_TAKEN] == "2020:01:02 03:04:05"
    assert float(tags.get_ifd(EXIF_DIRECTORY)[EXPOSURE]) == pytest.approx(0.01)
    assert tags.get_ifd(EXIF_DIRECTORY)[MAKER_NOTE] == b"secret of the maker"
    assert [float(v) for v in tags.get_ifd(GPS_DIRECTORY)[LATITUDE]] == [48, 51, 30]

    again = read_image(path)
    assert again.pixels.shape == (31, 37, 3)  # not turned a second time
    assert again.exif is not None and again.icc == SRGB
    if target != "jpeg":
        assert_same(again.pixels, image.pixels)


def test_exif_elsewhere_than_in_tiff_is_a_verbatim_copy(photo):
    image = read_image(pillow(photo, "JPEG", exif=exif()))
    for format in ("jpeg", "png", "webp"):
        assert read_image(encode_image(photo, format, image)).exif == image.exif


def test_exif_moves_through_16_bit_tiff_in_both_directions():
    pixels = noise(37, 31, 3, dtype="uint16")
    for endian in "<>":
        original = read_image(pillow(noise(4, 4, 3), "JPEG", exif=exif(1, endian)))
        image = read_image(encode_image(pixels, "tiff", original))
        assert_same(image.pixels, pixels)
        tags = exif_of(encode_image(pixels, "png", image))
        assert tags[CAMERA] == "Testcam"
        assert [float(v) for v in tags.get_ifd(GPS_DIRECTORY)[LATITUDE]] == [48, 51, 30]
        assert_same(tiff_page(encode_image(pixels, "tiff", image)).asarray(), pixels)


@pytest.mark.parametrize("order", "<>")
def test_thumbnail_of_the_old_pixels_is_unlinked(photo, order):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 2)
    entries = struct.pack(order + "HHI4s", CAMERA, 2, 4, b"Cam\0") + struct.pack(
        order + "HHIHH", ORIENTATION, 3, 1, 6, 0
    )
    rest = struct.pack(order + "I", 38) + struct.pack(order + "HHHIII", 1, 513, 4, 1, 56, 0) + b"pixels"
    got = read_image(pillow(photo, "PNG", exif=head + entries + rest)).exif
    kept = head[:8] + struct.pack(order + "H", 1) + entries[:12] + bytes(4 + 12)
    assert got == kept + rest[4:]


def test_text_that_is_not_ascii_survives(photo):
    artist = "Zoë Müller ©".encode()
    source = tiff(photo, photometric="rgb", extratags=[(ARTIST, 2, len(artist) + 1, artist + b"\0", True)])
    image = read_image(source)
    assert artist in encode_image(photo, "tiff", image) and artist in encode_image(photo, "png", image)


def test_text_in_another_encoding_does_not_stop_the_reading(photo):
    latin = "Müller".encode("latin-1")
    as_png = encode_image(photo, "png")
    block = exif().replace(b"Testcam", latin + b"x")
    files = [
        as_png[:33] + png_chunk(b"tEXt", b"Author\0" + latin) + as_png[33:],
        tiff(photo, photometric="rgb", description=latin, metadata=None),
        pillow(photo, "PNG", exif=block),
        pillow(photo, "JPEG", comment=latin, exif=block),
    ]
    for data in files:
        image = read_image(data)
        assert image.pixels.size == photo.size
    assert latin in image.exif and latin in encode_image(photo, "tiff", image)


def test_one_broken_tag_does_not_cost_the_others(photo):
    entries = [struct.pack("<HHI4s", CAMERA, 2, 4, b"Cam\0")]
    entries += [
        struct.pack("<HHII", tag, kind, n, 60_000) for tag, kind, n in ((ARTIST, 2, 99), (EXIF_DIRECTORY, 4, 1))
    ]
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    image = read_image(pillow(photo, "PNG", exif=block))
    assert image.exif == block
    assert exif_of(encode_image(photo, "tiff", image))[CAMERA] == "Cam"


def test_planes_become_pixels_and_tags_of_tiff_are_kept():
    planes = noise(3, 37, 31, dtype="uint16")
    tags = {"software": "Lab 3", "description": "unit=um", "metadata": None}
    image = read_image(tiff(planes, photometric="rgb", planarconfig="separate", **tags))
    assert_same(image.pixels, planes.transpose(1, 2, 0))
    data = encode_image(image.pixels, "tiff", image)
    assert_same(tifffile.imread(io.BytesIO(data)), image.pixels)
    assert (exif_of(data)[SOFTWARE], exif_of(data)[DESCRIPTION]) == ("Lab 3", "unit=um")


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_profile_xmp_and_resolution_are_kept(tmp_path, photo, format):
    like = ImageFile(photo, "png", icc=SRGB, xmp=XMP % 1, dpi=(300.0, 300.0))
    write_image(tmp_path / f"a.{format}", photo, like)
    image = read_image(tmp_path / f"a.{format}")
    assert image.icc == SRGB and image.xmp == XMP % 1
    assert Image.open(tmp_path / f"a.{format}").info["icc_profile"] == SRGB
    if format != "webp":  # it has no field for it
        assert image.dpi == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_profile_is_kept_at_16_bits(format):
    pixels = noise(37, 31, 4, dtype="uint16")
    image = read_image(encode_image(pixels, format, ImageFile(pixels, "tiff", icc=SRGB)))
    assert image.icc == SRGB
    assert_same(image.pixels, pixels)


def test_without_metadata_only_the_profile_stays(photo):
    image = read_image(pillow(photo, "JPEG", exif=exif(), icc_profile=SRGB, xmp=XMP % 6, dpi=(300, 300)))
    assert image.exif and image.xmp == XMP % 1 and image.dpi
    for format in ("jpeg", "png", "webp", "tiff"):
        data = encode_image(photo, format, image, keep_metadata=False)
        bare = read_image(data)
        assert (bare.icc, bare.exif, bare.xmp, bare.dpi) == (SRGB, None, None, None)
        assert b"Testcam" not in data and b"secret" not in data


def test_profile_of_another_kind_of_image_is_dropped_with_a_warning(photo):
    with pytest.warns(UserWarning, match="icc"):
        data = encode_image(photo[..., 0], "png", ImageFile(photo, "png", icc=SRGB))
    assert read_image(data).icc is None


@pytest.mark.parametrize("format, lost", [("bmp", {"icc", "exif"}), ("jpeg", {"exif"}), ("webp", set())])
def test_metadata_that_does_not_fit_is_dropped_with_a_warning(photo, format, lost):
    like = ImageFile(photo, "png", icc=SRGB, exif=exif() + bytes(70_000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = read_image(encode_image(photo, format, like))
    assert {name for name in ("icc", "exif") if getattr(image, name) is None} == lost
    assert len(caught) == len(lost) and all(name in " ".join(str(w.message) for w in caught) for name in lost)


@pytest.mark.parametrize(
    "block", [b"garbage", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"II*\0\x08\0\0\0\x02\0"]
)
def test_damaged_exif_never_stops_the_reading(photo, block):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = read_image(pillow(photo, "PNG", exif=block))
        assert_same(image.pixels, photo)
        for format in ("jpeg", "tiff"):
            assert (
                read_image(encode_image(photo, format, ImageFile(photo, "png", exif=block))).pixels.shape == photo.shape
            )


def test_exif_that_contains_itself_ends(photo):
    loop = (
        b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(struct.pack("<HHII", t, 4, 1, 8) for t in (34665, 34853))
    )
    image = read_image(pillow(photo, "PNG", exif=loop + bytes(4)))
    assert len(encode_image(photo, "tiff", image)) < 100_000


# ------------------------------------------------------------------------------------------------ bad input


def refusal(source, **options) -> str:
    """Return the message, after checking that it is one line."""
    with pytest.raises(ImageFileError) as caught:
        read_image(source, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def encoded(name: str) -> bytes:
    pixels = np.ascontiguousarray(skimage.data.astronaut()[:96, :80])
    return {
        "png": lambda: encode_image(pixels, "png"),
        "png 16": lambda: encode_image(pixels * np.uint16(257), "png"),
        "jpeg": lambda: encode_image(pixels, "jpeg"),
        "jpeg progressive": lambda: pillow(pixels, "JPEG", progressive=True),
        "webp": lambda: encode_image(pixels, "webp"),
        "webp lossy": lambda: pillow(pixels, "WEBP"),
        "tiff": lambda: encode_image(pixels, "tiff"),
        "tiff none": lambda: tiff(pixels, photometric="rgb"),
        "tiff lzw": lambda: tiff(pixels, photometric="rgb", compression="lzw", rowsperstrip=16),
        "tiff tiles": lambda: tiff(pixels, photometric="rgb", tile=(32, 32)),
        "tiff lzw tiles": lambda: tiff(pixels, photometric="rgb", tile=(32, 32), compression="lzw"),
        "tiff jpeg": lambda: tiff(pixels, photometric="rgb", compression="jpeg", rowsperstrip=16),
        "tiff big": lambda: tiff(pixels, photometric="rgb", tile=(32, 32), bigtiff=True),
        "bmp": lambda: encode_image(pixels, "bmp"),
    }[name]()


FILES = (
    "png,png 16,jpeg,jpeg progressive,webp,webp lossy,bmp,tiff,tiff none,tiff lzw,tiff tiles,tiff lzw tiles,tiff jpeg"
)
FILES += ",tiff big"


@pytest.mark.filterwarnings("ignore:.*EXIF cannot be read")
@pytest.mark.parametrize("name", FILES.split(","))
def test_truncated_files_are_refused(tmp_path, name):
    data = encoded(name)
    assert read_image(data).pixels.shape == (96, 80, 3)  # whole, it is fine
    cuts = {len(data) * tenths // 10 for tenths in range(1, 10)} | {16, 40, len(data) - 200, len(data) - 20}
    for cut in cuts | {len(data) - 1}:
        (tmp_path / "cut").write_bytes(data[:cut])
        refusal(tmp_path / "cut")


@pytest.mark.filterwarnings("ignore:.*EXIF cannot be read")
@pytest.mark.parametrize("name", FILES.split(","))
def test_garbage_behind_a_valid_signature_is_refused(name):
    for seed in range(5):
        refusal(encoded(name)[:12] + np.random.default_rng(seed).bytes(2000))


@pytest.mark.filterwarnings("ignore:.*EXIF")
@pytest.mark.parametrize("name", FILES.split(","))
def test_flipped_bytes_never_leak_another_exception(name):
    data = encoded(name)
    random = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(data)
        damaged[random.integers(8, min(len(data), 600))] = random.integers(256)
        try:
            assert read_image(bytes(damaged), max_pixels=10**6).pixels.size
        except ImageFileError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["tiff lzw tiles", "tiff lzw"])
def test_one_broken_block_of_a_tiff_is_not_read_as_black(kind):
    data = bytearray(encoded(kind))
    page = tiff_page(bytes(data))
    start = page.dataoffsets[2]
    data[start : start + page.databytecounts[2]] = b"\xff" * page.databytecounts[2]
    refusal(bytes(data))


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("this is not an image")
    assert "empty file" in refusal(tmp_path / "empty.png")
    assert "something else" in refusal(tmp_path / "text.png")
    assert "folder" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing.png")
    assert "null" in refusal("a\0b.png")
    assert "empty file" in refusal(b"")
    assert "HEIC" in refusal(b"\0\0\0\x18ftypheic" + bytes(50))
    assert refusal(tmp_path / "empty.png").startswith(str(tmp_path / "empty.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe" in refusal(tmp_path / "pipe.png")


def test_cmyk_is_refused_with_advice(photo):
    for format in ("JPEG", "TIFF"):
        message = refusal(pillow(Image.fromarray(photo).convert("CMYK"), format))
        assert "CMYK" in message and "convert to RGB first, for example" in message


def test_several_pages_or_frames_are_refused(photo):
    assert "one page, got a TIFF of 3 pages" in refusal(tiff(noise(3, 37, 31), photometric="minisblack"))
    second = {"save_all": True, "append_images": [Image.fromarray(255 - photo)]}
    assert "animation" in refusal(pillow(photo, "WEBP", **second))
    assert "animation" in refusal(pillow(photo, "PNG", **second))
    assert "GIF" in refusal(pillow(photo, "GIF", **second))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: tiff(noise(4, 5, dtype="float32") * 2), "rescale"),
        (lambda: tiff(noise(4, 5, dtype="float32") - 0.5), "rescale"),
        (lambda: tiff(np.full((4, 5), np.nan, np.float32)), "NaN"),
        (lambda: tiff(np.full((4, 5), np.inf, np.float32)), "infinity"),
        (lambda: tiff(noise(4, 5, dtype="float32"), photometric="miniswhite"), "MinIsBlack"),
        (lambda: tiff(noise(4, 5).astype(np.int16)), "short"),
        (lambda: tiff(noise(4, 5).astype(np.uint32)), "uint"),
        (lambda: tiff(noise(4, 5).astype(np.float64)), "unsupported"),
        (lambda: tiff(noise(4, 5, 5), photometric="minisblack", planarconfig="contig"), "5 channels"),
        (lambda: tiff(noise(4, 5, 3), photometric="minisblack", planarconfig="contig"), "each channel"),
        (lambda: tiff(noise(4, 5, 3), photometric="rgb", extratags=[(50706, 1, 4, b"\1\4\0\0", True)]), "camera raw"),
        (lambda: tiff(noise(4, 5, 3), photometric="rgb", subfiletype=1), "preview"),
    ],
)
def test_tiff_of_unsupported_kind_is_refused(make, words):
    assert words in refusal(make())


def tiff_bomb() -> bytes:
    data = bytearray(tiff(noise(4, 5)))
    tags = tiff_page(bytes(data)).tags
    for name in ("ImageWidth", "ImageLength"):
        struct.pack_into("<HI", data, tags[name].offset + 2, 4, 1)
        struct.pack_into("<I", data, tags[name].offset + 8, 100_000)
    return bytes(data)


def test_pixel_bombs_are_refused_by_their_header():
    message = refusal(png(100_000, 100_000, 8, 2, b""))
    assert "at most 500,000,000 pixels, got 100000 x 100000" in message
    bomb = bytearray(encoded("bmp"))
    bomb[18:26] = struct.pack("<ii", 100_000, 100_000)
    assert "100000 x 100000" in refusal(bytes(bomb))
    assert "100000 x 100000" in refusal(tiff_bomb())


def test_max_pixels_is_a_limit_and_not_a_bound_below():
    data = encode_image(noise(10, 10), "png")
    assert read_image(data, max_pixels=100).pixels.shape == (10, 10)
    assert "at most 99 pixels, got 10 x 10" in refusal(data, max_pixels=99)


# -------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "format, shape, dtype, advice",
    [
        ("jpeg", (4, 5, 3), "uint16", "PNG or TIFF"),
        ("jpeg", (4, 5, 4), "uint8", "PNG or WEBP or TIFF"),
        ("jpeg", (4, 5), "float32", "TIFF"),
        ("webp", (4, 5, 3), "uint16", "PNG or TIFF"),
        ("bmp", (4, 5), "uint16", "PNG or TIFF"),
        ("bmp", (4, 5, 4), "uint8", "PNG or WEBP or TIFF"),
        ("png", (4, 5), "float32", "TIFF"),
        ("webp", (1, 16_384), "uint8", "PNG or TIFF"),
        ("jpeg", (65_501, 1), "uint8", "PNG or TIFF"),
        ("gif", (4, 5), "uint8", "expected one of png"),
        ("tiff", (4, 5, 5), "uint8", "(4, 5, 5)"),
        ("png", (0, 5), "uint8", "(0, 5)"),
    ],
)
def test_formats_refuse_what_they_cannot_hold(format, shape, dtype, advice):
    with pytest.raises(ImageFileError) as caught:
        encode_image(noise(*shape, dtype=dtype), format)
    assert advice in str(caught.value)


def test_other_dtypes_and_float_values_are_refused():
    for pixels in (np.zeros((4, 5), np.float64), np.zeros((4, 5), bool), np.zeros((4, 5), np.int32)):
        with pytest.raises(ImageFileError, match="expected uint8, uint16 or float32"):
            encode_image(pixels, "tiff")
    for value in (-0.1, 1.1, np.nan):
        with pytest.raises(ImageFileError):
            encode_image(np.full((4, 5), value, np.float32), "tiff")


def test_existing_file_is_replaced_only_when_told(tmp_path):
    path = tmp_path / "a.PNG"
    write_image(path, noise(4, 5))
    with pytest.raises(ImageFileError, match="exists already"):
        write_image(path, noise(6, 7))
    assert read_image(path).pixels.shape == (4, 5)
    write_image(path, noise(6, 7), overwrite=True)
    assert read_image(path).pixels.shape == (6, 7)
    assert os.listdir(tmp_path) == ["a.PNG"]


def test_writing_goes_through_a_link_and_keeps_the_mode(tmp_path):
    target, link = tmp_path / "real.png", tmp_path / "link.png"
    write_image(target, noise(4, 5))
    target.chmod(0o640)
    link.symlink_to(target)
    write_image(link, noise(6, 7), overwrite=True)
    assert link.is_symlink() and read_image(target).pixels.shape == (6, 7)
    assert target.stat().st_mode & 0o777 == 0o640


def test_new_file_has_the_usual_mode(tmp_path):
    write_image(tmp_path / "a.png", noise(4, 5))
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_unusable_targets_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for target in ("a.gif", "noname", "folder.png", "missing/a.png", "file/a.png", "a\0b.png", "x" * 300 + ".png"):
        with pytest.raises(ImageFileError) as caught:
            write_image(f"{tmp_path}/{target}", noise(4, 5))
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


class FullDisk(io.BytesIO):
    """A file on a disk that fills up half way, after some bytes have really been written."""

    def __init__(self, file, error: BaseException):
        super().__init__()
        self.file, self.error = file, error

    def write(self, data: bytes) -> int:
        self.file.write(data[:10])
        raise self.error

    def __exit__(self, *details):
        self.file.close()
        return super().__exit__(*details)


@pytest.mark.parametrize("fails_in", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails_in, error):
    def fail(*_):
        raise error

    path = tmp_path / "a.png"
    write_image(path, noise(4, 5))
    old = path.read_bytes()
    opened: list[Path] = []
    real_open = builtins.open

    def open_on_full_disk(name, *mode):
        opened.append(Path(name))
        file = real_open(name, *mode)
        return FullDisk(file, error) if fails_in == "write" else file

    monkeypatch.setattr(image_io, "open", open_on_full_disk, raising=False)
    if fails_in != "write":
        monkeypatch.setattr(os, fails_in, fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ImageFileError
    with pytest.raises(expected) as caught:
        write_image(path, noise(60, 70), overwrite=True)
    monkeypatch.undo()
    if expected is ImageFileError:
        assert "No space left on device" in str(caught.value) and "free space" in str(caught.value)
    assert [name.parent for name in opened] == [tmp_path] and opened[0] != path
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ImageFileError, match="writable"):
            write_image(tmp_path / "a.png", noise(4, 5))
    finally:
        tmp_path.chmod(0o700)


def test_codec_libraries_are_not_imported_with_the_module():
    load = "util.module_from_spec(spec)"  # alone: the package's other modules import torch
    code = (
        "import sys; from importlib import util; spec = util.spec_from_file_location('image_io', sys.argv[1]);"
        f"module = sys.modules['image_io'] = {load}; spec.loader.exec_module(module);"
        "print(sorted({'PIL', 'pyvips', 'tifffile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, image_io.__file__], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
