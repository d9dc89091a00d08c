"""What users of other image software reported, tried here; each test names the report (project#issue on GitHub)."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import tifffile
from image_files import EXIF_DIRECTORY, EXPOSURE, SRGB, exif, exif_of, noise, pillow, png, png_chunk, tiff
from PIL import Image
from small_networks import header_for, small_network

from mdrn import checkpoint
from mdrn.cli import main
from mdrn.files import ImageFileError, encode_image, read_image, write_image


@pytest.fixture
def denoise(tmp_path):
    """Run `mdrn denoise` at a low level with a small network, and expect it to succeed."""
    network = small_network()
    checkpoint.write_weights(tmp_path / "net" / "small.safetensors", network, header_for(network))

    def run(*arguments, level="5"):
        options = ["--noise-level", level, "--model", str(tmp_path / "net" / "small.safetensors")]
        assert main(["denoise", *map(str, arguments), *options]) == 0

    return run


def test_exif_survives_a_tiff_on_the_way_to_a_jpeg(tmp_path, denoise, photo):
    """RapidRAW#878, RapidRAW#1200: the denoised TIFF, or what was exported from it, had no EXIF."""
    (tmp_path / "a.jpg").write_bytes(pillow(photo, "JPEG", exif=exif()))
    denoise(tmp_path / "a.jpg", "-o", tmp_path / "b.tif")
    denoise(tmp_path / "b.tif", "-o", tmp_path / "c.jpg")
    for name in ("b.tif", "c.jpg"):
        data = (tmp_path / name).read_bytes()
        tags = exif_of(data) if name == "b.tif" else Image.open(io.BytesIO(data)).getexif()
        assert tags[271] == "Testcam" and tags.get_ifd(EXIF_DIRECTORY)[EXPOSURE] == pytest.approx(0.01)


def test_capital_suffixes_and_letters_of_any_script(tmp_path, denoise, photo):
    """upscayl#687, upscayl#418: batches passed over .JPG files, and failed in folders with other than Latin letters."""
    names = ["IMAGE1.JPG", "IMAGE2.JPEG", "画像 ü.PNG", "ελλ.TIFF", "ру́сский.WebP"]
    for name in names:
        write_image(tmp_path / "写真 фото" / name, photo)
    denoise(tmp_path / "写真 фото", "-o", tmp_path / "λύση")
    assert sorted(path.name for path in (tmp_path / "λύση").iterdir()) == sorted(names)


def test_images_that_differ_in_suffix_alone_keep_apart(tmp_path, denoise, photo):
    """waifu2x-ncnn-vulkan#27: a.jpg and a.png both became a.png."""
    for name in ("a.jpg", "a.png", "a.tif"):
        write_image(tmp_path / "in" / name, photo)
    denoise(tmp_path / "in", "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "a.png", "a.tif"]
    assert all(read_image(path).format in ("png", "jpeg", "tiff") for path in (tmp_path / "out").iterdir())


def test_deep_images_with_transparency_are_not_black(tmp_path, denoise):
    """Real-ESRGAN#291: PNG files with 16 bits and alpha came out on black."""
    pixels = np.full((20, 24, 4), 40_000, np.uint16)
    pixels[:10, :, 3] = 0
    write_image(tmp_path / "a.png", pixels)
    denoise(tmp_path / "a.png", "-o", tmp_path / "b.png")
    result = read_image(tmp_path / "b.png").pixels
    assert result.dtype == np.uint16 and np.array_equal(result[..., 3], pixels[..., 3])
    assert abs(result[15, :, :3].astype(int) - 40_000).max() < 6_000


def test_white_stays_white(tmp_path):
    """Real-ESRGAN#246: white became 254, with the released networks and the level left to the program."""
    for name, shape in (("grey.png", (40, 48)), ("rgb.png", (40, 48, 3))):
        write_image(tmp_path / name, np.full(shape, 255, np.uint8))
        assert main(["denoise", str(tmp_path / name), "-o", str(tmp_path / f"out_{name}")]) == 0
        assert read_image(tmp_path / f"out_{name}").pixels.min() == 255


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_a_denoised_tiff_is_not_larger(tmp_path, denoise, compression):
    """careamics#787: 8-bit files became float files of 3.8 times the size."""
    data = tiff(noise(60, 70), compression=compression, rowsperstrip=1, byteorder=">")
    (tmp_path / "a.tif").write_bytes(data)
    denoise(tmp_path / "a.tif", "-o", tmp_path / "b.tif", level="20")
    page = tifffile.TiffFile(tmp_path / "b.tif").pages[0]
    assert page.dtype == np.uint8 and (tmp_path / "b.tif").stat().st_size < 1.05 * len(data) + 500


def test_floats_stay_floats_of_full_precision(tmp_path, denoise):
    """GraXpert#157: 32-bit TIFFs came out with steps."""
    ramp = np.linspace(0.2, 0.2001, 64 * 64, dtype=np.float32).reshape(64, 64)
    tifffile.imwrite(tmp_path / "a.tif", ramp)
    denoise(tmp_path / "a.tif", "-o", tmp_path / "b.tif")
    result = tifffile.imread(tmp_path / "b.tif")
    assert result.dtype == np.float32 and len(np.unique(result)) > 100  # there are 7 steps of 16 bits in it


def test_profile_of_an_avif_is_kept(tmp_path, denoise, photo):
    """libheif#310: Display P3 and Adobe RGB were taken for sRGB."""
    (tmp_path / "a.avif").write_bytes(pillow(photo, "AVIF", icc_profile=SRGB))
    denoise(tmp_path / "a.avif")
    assert Image.open(tmp_path / "a_denoised.png").info["icc_profile"] == SRGB


def test_a_profile_and_gamma_in_one_png(photo):
    """libjxl#4307: such an image came out dark, because both were applied or one was made up."""
    data = pillow(photo, "PNG", icc_profile=SRGB)
    data = data[:33] + png_chunk(b"gAMA", struct.pack(">I", 45455)) + data[33:]
    image = read_image(data)
    back = Image.open(io.BytesIO(encode_image(image.pixels, "png", image)))
    assert np.array_equal(image.pixels, photo)
    assert back.info["icc_profile"] == SRGB and back.info["gamma"] == pytest.approx(0.45455)


RAW = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (32, (b"Exif\0\0" + exif(6)).hex().encode())


def test_metadata_that_imagemagick_hides_in_text(photo):
    """OpenImageIO#2573, exif-be-gone#26: EXIF in a PNG's text was lost, and stayed where all was to be stripped."""
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    data = png(31, 37, 8, 2, rows)
    image = read_image(data[:33] + png_chunk(b"tEXt", RAW) + png_chunk(b"eXIf", exif(1)) + data[33:])
    assert np.array_equal(image.pixels, photo)  # no reader turns a PNG for what its text says
    assert RAW in encode_image(photo, "png", image)
    bare = encode_image(photo, "png", image, keep_metadata=False)
    assert b"Raw profile" not in bare and b"eXIf" not in bare and b"Testcam" not in bare


def test_a_truncated_progressive_jpeg_is_refused(photo):
    """Pillow#2717: it was read as black."""
    data = pillow(np.tile(photo, (4, 4, 1)), "JPEG", progressive=True)
    with pytest.raises(ImageFileError, match="truncated"):
        read_image(data[: len(data) // 2])


def test_an_animation_is_not_taken_for_its_first_frame(photo):
    """Found beside the others: an AVIF that moves was denoised as a still image without a word."""
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - photo)]}
    for format in ("AVIF", "WEBP", "PNG"):
        with pytest.raises(ImageFileError, match="animation"):
            read_image(pillow(photo, format, **frames))


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_links_and_permissions_stay_when_a_file_is_replaced(tmp_path, denoise, photo):
    """jpegoptim#5: replacing a file through a link replaced the link, and the file's mode was lost."""
    write_image(tmp_path / "real" / "a.png", photo)
    (tmp_path / "real" / "a.png").chmod(0o640)
    (tmp_path / "a.png").symlink_to(tmp_path / "real" / "a.png")
    before = (tmp_path / "real" / "a.png").read_bytes()
    denoise(tmp_path / "a.png", "-o", tmp_path / "a.png", "--overwrite", level="30")
    assert (tmp_path / "a.png").is_symlink() and (tmp_path / "real" / "a.png").read_bytes() != before
    assert (tmp_path / "real" / "a.png").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["a.png"]
