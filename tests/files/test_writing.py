"""What cannot be written is refused, and a failed write leaves the old file and nothing else."""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_files import LEVELS, noise

from mdrn.files import ImageFileError, encode_image, read_image, write_image, writing


@pytest.mark.parametrize(
    "format, shape, dtype, advice",
    [
        ("jpeg", (4, 5, 4), "uint8", "PNG or WEBP or TIFF or BMP"),
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


@pytest.mark.parametrize(
    ("format", "dtype", "depth", "expected"),
    [
        ("jpeg", "uint16", None, "uint8"),
        ("webp", "uint16", None, "uint8"),
        ("bmp", "uint16", None, "uint8"),
        ("jpeg", "float32", None, "uint8"),
        ("png", "float32", None, "uint16"),
        ("png", "float32", 8, "uint8"),
        ("png", "uint16", 8, "uint8"),
        ("tiff", "uint16", 8, "uint8"),
        ("tiff", "float32", 16, "uint16"),
        ("tiff", "uint8", 16, "uint16"),
        ("jpeg", "uint8", 16, "uint8"),
    ],
)
def test_depth_is_what_was_asked_for_or_the_most_that_fits_and_said(format, dtype, depth, expected):
    pixels = noise(37, 31, 3, dtype=dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        back = read_image(encode_image(pixels, format, depth=depth)).pixels
    assert back.dtype == expected
    assert [("not kept: the depth" in str(warning.message)) for warning in caught] == [True] * (depth is None)
    if format != "jpeg":
        exact = pixels / LEVELS[dtype] * LEVELS[expected]
        assert np.abs(back - exact).max() <= 0.502


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


def test_missing_folders_are_made_and_long_names_work(tmp_path):
    path = tmp_path / "new" / "er" / f"{'x' * 250}.png"
    write_image(path, noise(4, 5))
    assert os.listdir(path.parent) == [path.name]


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
    for target in ("a.gif", "noname", "folder.png", "file/a.png", "a\0b.png", "x" * 300 + ".png"):
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

    monkeypatch.setattr(writing, "open", open_on_full_disk, raising=False)
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


def test_codec_libraries_are_not_imported_with_the_package():
    code = "import sys, mdrn.files; print(sorted({'PIL', 'pyvips', 'tifffile'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readme_s_way_to_read_and_write(tmp_path):
    import mdrn

    write_image(tmp_path / "photo.tif", noise(37, 31, dtype="uint16"))
    file = mdrn.read_image(tmp_path / "photo.tif")
    mdrn.write_image(tmp_path / "clean.tif", file.pixels, like=file)
    assert np.array_equal(mdrn.read_image(tmp_path / "clean.tif").pixels, file.pixels)
