"""Through the command line and back: other software finds every file as it was, but for what was said."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
import tifffile
from image_files import LEVELS, SRGB, noise, pillow, png, tiff
from PIL import Image
from small_networks import header_for, small_network

from mdrn import checkpoint
from mdrn.cli import main

KINDS = [
    *((f"a{channels}.png", dtype, channels) for channels in (1, 2, 3, 4) for dtype in ("uint8", "uint16")),
    *((f"a{channels}.tif", dtype, channels) for channels in (1, 2, 3, 4) for dtype in LEVELS),
    ("a.jpg", "uint8", 1),
    ("a.jfif", "uint8", 3),
    ("a.webp", "uint8", 3),
    ("a.webp", "uint8", 4),
    ("a.bmp", "uint8", 1),
    ("a.bmp", "uint8", 3),
    ("a.bmp", "uint8", 4),
]
WRITTEN = {
    "EXIF": ["Artist=Zoë", "Make=Testcam", "ExposureTime=0.01", "DateTimeOriginal=2020:01:02 03:04:05", "LensModel=L"],
    "GPS": ["GPSLatitude=48.5", "GPSLatitudeRef=N"],
    "IFD0": ["XResolution=300", "YResolution=300", "ResolutionUnit=inches", "Orientation#=6"],
    "XMP": ["Title=Title", "Rating=4"],
    "IPTC": ["Caption-Abstract=caption", "Keywords=one", "Keywords=two"],
}
LAYOUT = (  # of exiftool's names: what a file is called, how its pixels lie, and what the turning changed
    r"SourceFile|System:|ExifTool:|Composite:|File:(?!Comment)|PNG:(Image|Filter|Interlace|Compression)|RIFF:Image|.*:"
    r"(ImageWidth|ImageHeight|Orientation|PlanarConfiguration|Predictor|RowsPerStrip|Strip\w+|SampleFormat)$"
)


@pytest.fixture
def weights(tmp_path):
    network = small_network()
    checkpoint.write_weights(tmp_path / "net" / "small.safetensors", network, header_for(network))
    return str(tmp_path / "net" / "small.safetensors")


def file_of(name: str, pixels: np.ndarray) -> bytes:
    """Return a file that this package has no part in."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    profile = {"icc_profile": SRGB} if channels > 2 else {}
    if name.endswith(".png"):
        bits, colour_type = 8 * pixels.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
        return png(pixels.shape[1], pixels.shape[0], bits, colour_type, rows)
    if name.endswith(".tif"):
        alpha = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
        kind = {
            "photometric": "rgb" if channels > 2 else "minisblack",
            "planarconfig": "contig" if channels > 1 else None,
        }
        return tiff(pixels, compression="lzw", iccprofile=profile.get("icc_profile"), metadata=None, **kind, **alpha)
    if name.endswith(".webp"):
        return pillow(pixels, "WEBP", lossless=True, exact=True, **profile)
    if name.endswith(".bmp") and channels == 4:
        return bmp_with_alpha(pixels)
    if name.endswith(".bmp"):
        return pillow(pixels, "BMP", dpi=(300, 300))
    return pillow(pixels, "JPEG", quality=95, dpi=(300, 300), **profile)


def bmp_with_alpha(pixels: np.ndarray) -> bytes:
    """Return a BMP of version 5 with masks, as GIMP writes it."""
    height, width = pixels.shape[:2]
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, pixels.size, 11811, 11811, 0, 0)
    header += struct.pack("<IIII", 0xFF000000, 0xFF0000, 0xFF00, 0xFF) + b"BGRs" + bytes(64)
    body = pixels[::-1, :, [3, 2, 1, 0]].tobytes()
    return b"BM" + struct.pack("<I4xI", 14 + len(header) + len(body), 14 + len(header)) + header + body


def pixels_of(name: str, data: bytes) -> np.ndarray:
    if name.endswith(".tif"):
        return tifffile.imread(io.BytesIO(data))
    if name.endswith(".png") and data[24] == 16:
        imagecodecs = pytest.importorskip("imagecodecs", reason="run `pip install imagecodecs` to run this test")
        return imagecodecs.png_decode(data)
    return np.asarray(Image.open(io.BytesIO(data)))


def through(path, weights, capsys) -> tuple[bytes, list[str]]:
    """Return the result of doing nothing to an image, and what was said."""
    result = path.with_stem("result")
    assert main(["denoise", str(path), "-o", str(result), "--strength", "0", "--model", weights]) == 0
    return result.read_bytes(), [line for line in capsys.readouterr().err.splitlines() if "warning" in line]


@pytest.mark.parametrize(("name", "dtype", "channels"), KINDS)
def test_pixels_depth_and_profile(tmp_path, weights, capsys, name, dtype, channels):
    pixels = noise(37, 31, dtype=dtype) if channels == 1 else noise(37, 31, channels, dtype=dtype)
    (tmp_path / name).write_bytes(file_of(name, pixels))
    data, said = through(tmp_path / name, weights, capsys)
    before, after = pixels_of(name, (tmp_path / name).read_bytes()), pixels_of(name, data)
    assert not said and (after.dtype, after.shape) == (before.dtype, before.shape) == (pixels.dtype, pixels.shape)
    if name.endswith((".jpg", ".jfif")):
        assert np.abs(after.astype(int) - before).mean() < 3
    else:
        assert np.array_equal(after, pixels)
    if name.endswith(".tif"):
        page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
        assert page.compression.name == "LZW" and page.extrasamples == ((2,) if channels in (2, 4) else ())
        assert (page.iccprofile == SRGB) == (channels > 2)
    elif channels > 2 and not name.endswith((".png", ".bmp")):
        assert Image.open(io.BytesIO(data)).info["icc_profile"] == SRGB
    if name.endswith((".jpg", ".jfif", ".bmp")):
        assert Image.open(io.BytesIO(data)).info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool: install libimage-exiftool-perl")
@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [kind for kind in KINDS if not kind[0].endswith(".bmp") and kind[2] in ((3,) if kind[1] == "uint8" else (1, 3))],
)
def test_exiftool_finds_every_tag_as_it_was(tmp_path, weights, capsys, name, dtype, channels):
    path = tmp_path / name
    pixels = noise(37, 31, dtype=dtype) if channels == 1 else noise(37, 31, channels, dtype=dtype)
    path.write_bytes(file_of(name, pixels))
    written = ["-Comment=mine", *(f"-{group}:{tag}" for group, tags in WRITTEN.items() for tag in tags)]
    subprocess.run(["exiftool", "-q", "-m", "-overwrite_original", *written, path], check=True)
    data, said = through(path, weights, capsys)
    (tmp_path / "result").write_bytes(data)

    told = subprocess.run(
        ["exiftool", "-j", "-G1", "-a", "-n", "-struct", path, tmp_path / "result"], capture_output=True, check=True
    )
    before, after = (
        {tag: value for tag, value in tags.items() if not re.match(LAYOUT, tag)} for tags in json.loads(told.stdout)
    )
    assert not said and after == before
    assert before["IFD0:Make"] == "Testcam" and before["XMP-dc:Title"] == "Title" and len(before) > 20
    assert pixels_of(name, data).shape[:2] == (31, 37)
