"""TIFFs of several pages: each comes back with its own size, depth, compression and metadata, as others see it too."""

import io
import struct
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from mdrn.files import ImageFile, ImageFileError, encode_pages, open_pages, read_image, write_pages, writing

CAMERA, DATE_TAKEN, EXIF_DIRECTORY, GPS_DIRECTORY, LATITUDE = 271, 36867, 34665, 34853, 2


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)
    return values if dtype == "float32" else np.round(values * np.iinfo(dtype).max).astype(dtype)


def exif(camera: str) -> bytes:
    tags = Image.Exif()
    tags[CAMERA] = camera
    tags[EXIF_DIRECTORY] = {DATE_TAKEN: "2020:01:02 03:04:05"}
    tags[GPS_DIRECTORY] = {1: "N", LATITUDE: (48.0, 51.0, 30.0)}
    return tags.tobytes()[6:]


MIXED = [
    pixels(37, 31),
    pixels(20, 50, 3, dtype="uint16"),
    pixels(9, 9, 4),
    pixels(64, 48, dtype="float32"),
    pixels(1, 1, 2, dtype="uint16"),
]


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "packbits"])
def test_pages_of_every_size_and_depth_come_back(compression):
    like = [ImageFile(page, "tiff", compression=compression) for page in MIXED]
    data = encode_pages(MIXED, "tiff", like)
    back = list(open_pages(data))
    with tifffile.TiffFile(io.BytesIO(data)) as file:  # an independent reader agrees
        assert len(file.pages) == len(MIXED)
        for mine, theirs, page in zip(back, file.pages, MIXED, strict=True):
            assert mine.pixels.dtype == theirs.dtype == page.dtype and mine.compression == compression
            assert np.array_equal(mine.pixels, page) and np.array_equal(theirs.asarray(), page)


def test_each_page_keeps_its_own_metadata():
    pages = [pixels(37, 31, 3, dtype="uint16"), pixels(20, 50), pixels(9, 9)]
    like = [
        ImageFile(page, "tiff", exif=exif(f"Camera number {i}"), resolution=(100.0 + i, 100.0 + i))
        for i, page in enumerate(pages)
    ]
    data = encode_pages(pages, "tiff", like)
    for i, page in enumerate(open_pages(data)):
        assert page.exif == read_image(encode_pages(pages[i : i + 1], "tiff", like[i : i + 1])).exif
        assert f"Camera number {i}".encode() in page.exif and page.dpi == pytest.approx(like[i].dpi, rel=1e-4)
    with Image.open(io.BytesIO(data)) as file:
        for i in range(3):
            file.seek(i)
            tags = file.getexif()
            assert tags[CAMERA] == f"Camera number {i}"
            assert tags.get_ifd(EXIF_DIRECTORY)[DATE_TAKEN] == "2020:01:02 03:04:05"
            assert [float(v) for v in tags.get_ifd(GPS_DIRECTORY)[LATITUDE]] == [48, 51, 30]
    assert all(page.exif is None for page in open_pages(encode_pages(pages, "tiff", like, keep_metadata=False)))


def test_stacks_of_others_are_read_and_written_back(tmp_path):
    stack = pixels(5, 37, 31, dtype="uint16")
    for name, options in {"imagej": {"imagej": True}, "plain": {}, "big": {"bigtiff": True}}.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, stack, photometric="minisblack", **options)
        pages = list(open_pages(path))
        assert np.array_equal([page.pixels for page in pages], stack)
        write_pages(tmp_path / f"{name}_back.tif", [page.pixels for page in pages], pages)
        assert np.array_equal(tifffile.imread(tmp_path / f"{name}_back.tif"), stack)
    assert tifffile.TiffFile(tmp_path / "imagej_back.tif").is_imagej


def test_a_file_of_one_page_is_a_file_of_pages(tmp_path):
    for name in ("a.png", "a.tif", "a.jpg", "a.bmp"):
        write_pages(tmp_path / name, [pixels(9, 7)])
        assert len(open_pages(tmp_path / name)) == 1
        assert [page.pixels.shape for page in open_pages(tmp_path / name)] == [(9, 7)]


def test_formats_of_one_image_refuse_several(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        with pytest.raises(ImageFileError, match="2 pages; write TIFF"):
            write_pages(tmp_path / name, [pixels(4, 5), pixels(4, 5)])
    assert not list(tmp_path.iterdir())


def test_a_damaged_page_is_named():
    data = bytearray(encode_pages([pixels(64, 64), pixels(64, 64)], "tiff"))
    page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[1]
    start, length = page.dataoffsets[0], page.databytecounts[0]
    data[start : start + length] = b"\xff" * length
    pages = iter(open_pages(bytes(data)))
    assert next(pages).pixels.shape == (64, 64)
    with pytest.raises(ImageFileError, match="page 2 of 2"):
        next(pages)


@pytest.mark.parametrize("tags", [{"subfiletype": 1}, {"extratags": [(255, 3, 1, 2, True)]}])
@pytest.mark.parametrize("first", [True, False])
def test_smaller_copies_and_masks_are_left_out_and_said(tmp_path, tags, first):
    whole, small = pixels(64, 64), pixels(32, 32)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        for image, options in ((small, tags), (whole, {})) if first else ((whole, {}), (small, tags)):
            file.write(image, photometric="minisblack", **options)
    with pytest.warns(UserWarning, match="not kept: 1 smaller"):
        (page,) = open_pages(tmp_path / "pyramid.tif")
    assert np.array_equal(page.pixels, whole)


def test_a_preview_alone_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels(32, 32), photometric="minisblack", subfiletype=1)
    with pytest.raises(ImageFileError, match="a preview alone"):
        open_pages(tmp_path / "a.tif")


def test_pages_that_share_their_pixels_count_each_time():
    """A small file cannot claim a great many pixels by naming the same ones again and again."""
    pages = open_pages(encode_pages([pixels(100, 100)] * 3, "tiff"), max_pixels=29_999)
    seen = 0
    with pytest.raises(ImageFileError, match="page 3 of 3: expected at most 9,999 pixels, got 100 x 100"):
        for _ in pages:
            seen += 1
    assert seen == 2


def test_directories_that_go_in_circles_end():
    data = bytearray(encode_pages([pixels(8, 8), pixels(8, 8)], "tiff"))
    first = struct.unpack_from("<I", data, 4)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0])[0]
    struct.pack_into("<I", data, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], first)
    try:
        assert len(list(open_pages(bytes(data)))) <= 2
    except ImageFileError as error:
        assert "\n" not in str(error)


def test_big_files_become_bigtiff(monkeypatch):
    monkeypatch.setattr(writing, "_CLASSIC_TIFF_BYTES", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is lost where there was nothing
        data = encode_pages(MIXED, "tiff")
    with pytest.warns(UserWarning, match="over 4 GB: not kept"):
        encode_pages(MIXED[:1], "tiff", [ImageFile(MIXED[0], "tiff", exif=exif("Camera"))])
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.is_bigtiff and all(np.array_equal(p.asarray(), q) for p, q in zip(file.pages, MIXED, strict=True))
