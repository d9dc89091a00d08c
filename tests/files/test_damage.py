"""Bad files end as one clear ImageFileError."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import skimage.data
from image_files import noise, pillow, png, tiff, tiff_page
from PIL import Image

from mdrn.files import ImageFileError, encode_image, read_image


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


@pytest.mark.filterwarnings("ignore:.*metadata cannot be read")
@pytest.mark.parametrize("name", FILES.split(","))
def test_truncated_files_are_refused(tmp_path, name):
    data = encoded(name)
    assert read_image(data).pixels.shape == (96, 80, 3)  # whole, it is fine
    cuts = {len(data) * tenths // 10 for tenths in range(1, 10)} | {16, 40, len(data) - 200, len(data) - 20}
    for cut in cuts | {len(data) - 1}:
        (tmp_path / "cut").write_bytes(data[:cut])
        refusal(tmp_path / "cut")


@pytest.mark.filterwarnings("ignore:.*metadata cannot be read")
@pytest.mark.parametrize("name", FILES.split(","))
def test_garbage_behind_a_valid_signature_is_refused(name):
    for seed in range(5):
        refusal(encoded(name)[:12] + np.random.default_rng(seed).bytes(2000))


@pytest.mark.filterwarnings("ignore:.*")
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
    assert "none of these" in refusal(tmp_path / "text.png")
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
        (lambda: tiff(noise(4, 5), photometric=32803), "camera raw"),
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
