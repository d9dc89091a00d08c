"""Orientation, EXIF, profiles and other metadata: kept, moved between formats, or dropped with a word."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
import tifffile
from image_files import (
    ARTIST,
    CAMERA,
    DATE_TAKEN,
    DESCRIPTION,
    EXIF_DIRECTORY,
    EXPOSURE,
    GPS_DIRECTORY,
    LATITUDE,
    MAKER_NOTE,
    ORIENTATION,
    SOFTWARE,
    SRGB,
    XMP,
    assert_same,
    exif,
    exif_of,
    noise,
    pillow,
    png_chunk,
    tiff,
    tiff_page,
)
from PIL import Image, ImageOps

from mdrn.files import ImageFile, encode_image, read_image, write_image

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
    like = ImageFile(photo, "png", icc=SRGB, xmp=XMP % 1, resolution=(300.0, 300.0))
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
    said = [str(warning.message) for warning in caught]
    assert len(said) == bool(lost) and all(name in said[0] for name in lost)


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
