"""What a file holds besides its pixels comes back, read by other software, or is named in one warning."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from image_files import SRGB, exif, noise, pillow, png_chunk, tiff
from PIL import Image

from mdrn.files import ImageFile, encode_image, read_image
from mdrn.files.blocks import png_chunks

PNG_HEADER = 33  # bytes: signature and IHDR


def said(make) -> tuple[object, list[str]]:
    """Return what a call returns and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = make()
    return result, [str(warning.message) for warning in caught]


def back(data: bytes, **options) -> tuple[bytes, list[str]]:
    """Read a file and write it again as what it is."""

    def both() -> bytes:
        image = read_image(data)
        return encode_image(image.pixels, image.format, image, **options)

    return said(both)


# ---------------------------------------------------------------------------------------------------------- PNG

COLOUR = {
    b"gAMA": struct.pack(">I", 100_000),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"cICP": bytes((9, 16, 0, 1)),
    b"sRGB": b"\0",
    b"mDCV": bytes(24),
    b"cLLI": bytes(8),
}
TEXT = {
    b"tEXt": b"Author\0Someone",
    b"zTXt": b"Comment\0\0" + zlib.compress(b"long ago"),
    b"iTXt": "Title\0\0\0de\0Titel\0Übersicht".encode(),
}
OTHERS = {b"oFFs": bytes(9), b"sCAL": b"\x011\x001", b"npTc": bytes(8)}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_chunks_of_a_png_are_kept_and_none_is_added(dtype):
    plain = encode_image(noise(37, 31, 3, dtype=dtype), "png")
    assert [kind for kind, _ in png_chunks(plain) if kind != b"IDAT"] == [b"IHDR", b"IEND"]
    chunks = COLOUR | TEXT | OTHERS | {b"pHYs": struct.pack(">IIB", 3, 2, 0)}
    data = plain[:PNG_HEADER] + b"".join(png_chunk(*chunk) for chunk in chunks.items()) + plain[PNG_HEADER:]
    result, warned = back(data)
    got = dict(png_chunks(result))
    assert not warned and {kind: got[kind] for kind in chunks} == chunks
    assert got.keys() == dict(png_chunks(data)).keys()
    image = Image.open(io.BytesIO(result))
    assert image.text["Author"] == "Someone" and image.text["Title"] == "Übersicht" and image.info["gamma"] == 1.0


def test_without_metadata_a_png_keeps_its_colours_alone():
    plain = encode_image(noise(37, 31, 3), "png")
    chunks = COLOUR | TEXT | {b"eXIf": exif()}
    data = plain[:PNG_HEADER] + b"".join(png_chunk(*chunk) for chunk in chunks.items()) + plain[PNG_HEADER:]
    got = dict(png_chunks(back(data, keep_metadata=False)[0]))
    assert got.keys() == COLOUR.keys() | {b"IHDR", b"IDAT", b"IEND"}


def test_a_chunk_that_is_true_of_the_old_pixels_alone_is_named():
    plain = encode_image(noise(37, 31, 3), "png")
    result, warned = back(plain[:PNG_HEADER] + png_chunk(b"caBX", b"signed") + plain[PNG_HEADER:])
    assert b"caBX" not in result and len(warned) == 1 and "not kept: content credentials" in warned[0]


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [(b"tIME", bytes(7), "time of the last change"), (b"sBIT", b"\5\6\5", "significant bits")],
)
def test_what_was_true_of_the_old_pixels_alone_is_named(kind, content, words):
    plain = encode_image(noise(37, 31, 3), "png")
    _, warned = back(plain[:PNG_HEADER] + png_chunk(kind, content) + plain[PNG_HEADER:])
    assert len(warned) == 1 and warned[0].endswith(f"not kept: {words}")


def test_the_background_colour_is_kept_while_its_units_are(photo):
    plain = encode_image(photo, "png")
    data = plain[:PNG_HEADER] + png_chunk(b"bKGD", bytes(5) + b"\7") + plain[PNG_HEADER:]
    assert dict(png_chunks(back(data)[0]))[b"bKGD"] == bytes(5) + b"\7"
    assert b"bKGD" not in back(data, depth=16)[0]


def test_premultiplied_alpha_is_said():
    pixels = np.full((4, 5, 4), (50, 20, 0, 100), np.uint8)
    _, warned = back(tiff(pixels, photometric="rgb", extrasamples=["assocalpha"]))
    assert len(warned) == 1 and "premultiplication" in warned[0]


def test_text_of_another_format_is_named(photo):
    image = read_image(pillow(photo, "JPEG", comment="by me"))
    _, warned = said(lambda: encode_image(photo, "png", image))
    assert len(warned) == 1 and "not kept: comment" in warned[0]


# ------------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("unit, name", [("NONE", "none"), ("INCH", "inch"), ("CENTIMETER", "cm")])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_resolution_and_its_unit(unit, name, dtype):
    image = read_image(tiff(noise(37, 31, dtype=dtype), resolution=(10, 12.5), resolutionunit=unit))
    assert (image.resolution, image.resolution_unit) == ((10, 12.5), name)
    page = tifffile.TiffFile(io.BytesIO(encode_image(image.pixels, "tiff", image))).pages[0]
    assert (page.resolution, page.resolutionunit.name) == ((10, 12.5), unit)


def test_scale_of_imagej(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", noise(37, 31, dtype="uint16"), imagej=True, resolution=(10, 10), metadata={"unit": "um"}
    )
    (tmp_path / "b.tif").write_bytes(back((tmp_path / "a.tif").read_bytes())[0])
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.imagej_metadata["unit"] == "um" and file.pages[0].resolution == (10, 10)
        assert file.pages[0].resolutionunit.name == "NONE"


def test_a_tiff_without_resolution_gets_none():
    page = tifffile.TiffFile(io.BytesIO(encode_image(noise(37, 31), "tiff"))).pages[0]
    assert not {"XResolution", "YResolution", "ResolutionUnit"} & {tag.name for tag in page.tags}


@pytest.mark.parametrize("channels, photometric", [(4, "rgb"), (2, "minisblack")])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_channel_that_is_not_transparency_stays_what_it_is(channels, photometric, dtype):
    pixels = noise(37, 31, channels, dtype=dtype)
    image = read_image(tiff(pixels, photometric=photometric, planarconfig="contig", extrasamples=["unspecified"]))
    assert not image.alpha
    page = tifffile.TiffFile(io.BytesIO(encode_image(image.pixels, "tiff", image))).pages[0]
    assert page.extrasamples == (0,) and np.array_equal(page.asarray(), pixels)
    if dtype != "float32":
        data, warned = said(lambda: encode_image(image.pixels, "png", image))
        assert len(warned) == 1 and "neither colour nor transparency" in warned[0]
        assert np.array_equal(read_image(data).pixels, pixels[..., 0] if channels == 2 else pixels[..., :3])


def test_transparency_stays_transparency():
    image = read_image(tiff(noise(37, 31, 4), photometric="rgb", extrasamples=["unassalpha"]))
    page = tifffile.TiffFile(io.BytesIO(encode_image(image.pixels, "tiff", image))).pages[0]
    assert image.alpha and page.extrasamples == (2,)


IPTC = b"\x1c\x02\x78\x00\x07caption" + b"\x1c\x02\x05\0\x05title" + bytes(2)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind, count", [(1, len(IPTC)), (7, len(IPTC)), (4, len(IPTC) // 4)])
def test_tags_of_tiff_alone(order, kind, count):
    value = np.frombuffer(IPTC, f"{order}u4").tolist() if kind == 4 else IPTC
    extra = [
        (33723, kind, count, value, True),
        (33550, 12, 3, (10.0, 10.0, 0.0), True),  # GeoTIFF
        (269, 2, 9, "document", True),
        (318, 5, 2, (3127, 10000, 329, 1000), True),
        (65000, 3, 1, 7, True),
    ]
    data = tiff(noise(37, 31, 3), photometric="rgb", byteorder=order, extratags=extra)
    result, warned = back(data)
    tags = tifffile.TiffFile(io.BytesIO(result)).pages[0].tags
    assert bytes(tags[33723].value)[: len(IPTC)] == IPTC
    assert tags[33550].value == (10.0, 10.0, 0.0) and tags[269].value == "document"
    assert tags[318].value == (3127, 10000, 329, 1000)
    assert len(warned) == 1 and "not kept: private tags 65000" in warned[0]
    _, warned = said(lambda: encode_image(read_image(data).pixels, "png", read_image(data)))
    assert any("TIFF tags 269, 318, 33550, 33723" in message for message in warned)


# ------------------------------------------------------------------------------------------------ JPEG


def jpeg(photo: np.ndarray, *segments: tuple[int, bytes], after: bytes = b"", **options) -> bytes:
    data = pillow(photo, "JPEG", **options)
    added = b"".join(struct.pack(">BBH", 255, marker, len(body) + 2) + body for marker, body in segments)
    return data[:20] + added + data[20:] + after


PHOTOSHOP = b"Photoshop 3.0\x00"
RESOURCE = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
PREVIEW = b"8BIM\x04\x0c\0\0" + struct.pack(">I", 6) + b"pixels"


def test_comment_iptc_and_long_xmp_of_a_jpeg_are_kept(photo):
    extended = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + b"<x/>"
    data = jpeg(photo, (0xED, PHOTOSHOP + RESOURCE), (0xE1, extended), (0xFE, b"by me"), exif=exif(), dpi=(300, 300))
    result, warned = back(data)
    image = Image.open(io.BytesIO(result))
    assert not warned and image.info["comment"] == b"by me" and image.info["dpi"] == (300, 300)
    assert image.info["photoshop"][0x0404] == IPTC and extended in result
    assert image.getexif()[271] == "Testcam"


def test_the_preview_of_the_old_pixels_leaves_the_image_resources(photo):
    result, warned = back(jpeg(photo, (0xED, PHOTOSHOP + PREVIEW + RESOURCE)))
    assert not warned and b"pixels" not in result
    assert Image.open(io.BytesIO(result)).info["photoshop"] == {0x0404: IPTC}


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_density_of_a_jpeg(photo, unit):
    data = pillow(photo, "JPEG")
    data = data[:13] + struct.pack(">BHH", unit, 118, 236) + data[18:]
    assert back(data)[0][13:18] == struct.pack(">BHH", unit, 118, 236)


@pytest.mark.parametrize(
    "segments, after, words",
    [
        ([(0xEB, b"JP\0\0c2pa")], b"", "content credentials"),
        ([(0xE2, b"MPF\0II*\0")], b"", "gain map"),
        ([(0xE2, b"urn:iso:std:iso:ts:21496:-1\0")], b"", "gain map"),
        ([(0xE5, b"private")], b"", "private data (APP5)"),
        ([], b"\0\0\0\x18ftypmp42" + bytes(40) + b"mdat", "motion video"),
        ([], None, "further images"),
        ([], b"trailer of a phone", "data after the image"),
    ],
)
def test_what_a_jpeg_loses_is_named(photo, segments, after, words):
    after = pillow(photo, "JPEG") if after is None else after
    result, warned = back(jpeg(photo, *segments, after=after))
    assert len(warned) == 1 and "not kept: " in warned[0] and words in warned[0]
    assert result.count(b"\xff\xd8\xff") == 1 and result.endswith(b"\xff\xd9")


ULTRA = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
    b'xmlns:C="http://ns.google.com/photos/1.0/container/" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
    b'hdrgm:Version="1.0" GCamera:MotionPhoto="1" GCamera:SpecialType="night" dc:title=\'kept\'>'
    b'<C:Directory><rdf:Seq><rdf:li><C:Item Item:Semantic="GainMap"/></rdf:li></rdf:Seq></C:Directory>'
    b"</rdf:Description></x:xmpmeta>"
)


def test_xmp_no_longer_announces_what_is_gone(photo):
    result, warned = back(pillow(photo, "JPEG", xmp=ULTRA))
    xmp = read_image(result).xmp
    assert len(warned) == 1 and "gain map" in warned[0]
    for gone in (b"hdrgm:Version", b"MotionPhoto", b"Directory", b"GainMap"):
        assert gone not in xmp
    for kept in (b'GCamera:SpecialType="night"', b"dc:title='kept'", b"</rdf:Description></x:xmpmeta>"):
        assert kept in xmp
    assert back(result)[1] == []


# ------------------------------------------------------------------------------------------------ every format


def test_turned_photographs_say_their_new_sides(photo):
    tags = Image.Exif()
    tags[274], tags[256], tags[257] = 6, 31, 37
    tags[34665] = {40962: 31, 40963: 37, 36867: "2020:01:02 03:04:05"}
    image = read_image(pillow(photo, "PNG", exif=tags.tobytes()[6:]))
    read = Image.Exif()
    read.load(image.exif)
    assert image.pixels.shape == (31, 37, 3) and (read[256], read[257]) == (37, 31)
    assert (read.get_ifd(34665)[40962], read.get_ifd(34665)[40963]) == (37, 31)


def test_colours_that_exif_alone_describes_stay_without_metadata(photo):
    """Cameras say Adobe RGB with EXIF's colour space and interoperability index, and no profile."""
    tags = Image.Exif()
    tags[271], tags[34665] = "Testcam", {40961: 65535, 40965: {1: "R03"}}
    for format in ("JPEG", "PNG", "WEBP"):
        data, _ = back(pillow(photo, format, exif=tags.tobytes()[6:]), keep_metadata=False)
        inner = Image.open(io.BytesIO(data)).getexif().get_ifd(34665)
        assert inner[40961] == 65535 and b"Testcam" not in data and b"R03" in data


@pytest.mark.parametrize(
    "format, dtype",
    [("png", "uint8"), ("png", "uint16"), ("jpeg", "uint8"), ("webp", "uint8")]
    + [("tiff", dtype) for dtype in ("uint8", "uint16", "float32")],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_reading_and_writing_twice_changes_nothing(format, dtype, channels):
    """What comes back from a file that this package wrote is what was written, in every field."""
    pixels = noise(37, 31, dtype=dtype) if channels == 1 else noise(37, 31, 3, dtype=dtype)
    like = ImageFile(
        pixels,
        format,
        icc=SRGB if channels == 3 else None,
        exif=exif(1),
        xmp=b"<x:xmpmeta/>",
        resolution=(300.0, 200.0),
    )
    once, _ = said(lambda: read_image(encode_image(pixels, format, like)))
    twice, warned = said(lambda: read_image(encode_image(once.pixels, format, once)))
    assert not warned
    for name in ("icc", "exif", "xmp", "resolution", "resolution_unit", "alpha", "blocks", "tags"):
        assert getattr(once, name) == getattr(twice, name), name
    assert once.xmp == b"<x:xmpmeta/>" and once.icc == like.icc
    assert once.resolution is None if format == "webp" else once.dpi == pytest.approx((300, 200), rel=1e-4)
