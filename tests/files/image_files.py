"""Image files made for tests, by other software than ours where it can be."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1.0}
CAMERA, DESCRIPTION, ORIENTATION, SOFTWARE, ARTIST = 271, 270, 274, 305, 315
EXIF_DIRECTORY, GPS_DIRECTORY, DATE_TAKEN, EXPOSURE, MAKER_NOTE = 34665, 34853, 36867, 33434, 37500
LATITUDE = 2


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
