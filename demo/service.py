"""What the demo does, without its page: files and settings in, files and facts out. It does not import Gradio.

A denoised image is kept as a `Job`: a folder that holds the upload, its pixels and the restored ones. So a change of
strength runs no network, and the server's memory holds no visitor's image between two requests. This module and
`demo.catalogue` are the only ones of the page that call the library's inference.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from demo import catalogue
from demo.errors import DemoError, told_to_the_visitor
from mdrn import files, inference

MAX_PIXELS = 26_000_000  # a camera of 24 megapixels writes a little more
MAX_FILE_SIZE = "160mb"  # such a camera's 16-bit TIFF has 144 MB
MAX_STRENGTH = 2.0
MAX_FILES = 50
MAX_ZIP_PIXELS = 2 * MAX_PIXELS  # of several files
ARCHIVE, REPORT = "denoised.zip", "report.csv"
NAME_LENGTH = 80


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a result was asked for; a result fits the page while the page asks for the same."""

    upload: str  # path of the upload
    noise_level: float | None = None  # on the 8-bit scale; None estimates it
    model: str | None = None  # a released id or short name; `catalogue.AUTOMATIC` or None leave it to the library
    strength: float = 1.0  # above 1 it multiplies the noise level; at 1 and below it mixes, for which no network runs

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", max(1.0, self.strength))


@dataclasses.dataclass(frozen=True)
class Job:
    """A denoised image on disk, from which everything the page shows is made."""

    asked: Asked  # what it was made from
    folder: Path  # holds the upload and the pixels before and after each stage
    source: Path  # the upload, under its own name
    kind: str  # what `kind` says of the upload
    noise_level: float  # the level that was removed
    estimated: bool  # whether it was estimated
    model: str  # id of the network
    per_channel: bool  # whether a grey network restored the colours one by one
    stages: int  # number of stages whose images are kept
    pixels: int  # height times width
    seconds: float  # time of estimate and network

    def stage(self, index: int) -> np.ndarray:
        """Map the pixels after a stage, 0 for those of the upload; this counts as a use of the folder."""
        os.utime(self.folder)
        return np.load(self.folder / f"stage_{index}.npy", mmap_mode="r")

    def facts(self) -> dict[str, object]:
        """Return what was done as plain data, for the API."""
        hidden = ("asked", "folder", "source")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of one file."""

    file: str  # its name as uploaded
    result: str  # its name in the zip; empty if there is none
    noise_level: float | None  # the level that was removed, on the 8-bit scale
    seconds: float | None  # time of estimate and network
    note: str  # what kind of image it is, or why there is no result


@functools.cache
def accepted() -> list[str]:
    """Return the suffixes of the files that can be read here; AVIF and HEIC only where libvips has their codecs."""
    import pyvips

    found = list(files.SUFFIXES)
    for codec, suffixes in (("av1", (".avif",)), ("hevc", (".heic", ".heif", ".hif"))):
        with contextlib.suppress(pyvips.Error):
            data = pyvips.Image.black(16, 16).heifsave_buffer(compression=codec)
            pyvips.Image.new_from_buffer(data, "").avg()
            found += suffixes
    return found


def read(path: Path) -> files.ImageFile:
    """Read an upload, after its pixels have been counted from its header.

    Raises:
        DemoError: if it is not an image this page takes.
    """
    with told_to_the_visitor(path):
        return files.read_image(path, max_pixels=MAX_PIXELS)


def inspect(path: Path) -> tuple[files.ImageFile, float]:
    """Read an upload, and estimate its noise level on the 8-bit scale: what the default network would be told.

    Raises:
        DemoError: if it is not an image this page takes.
    """
    source = read(path)
    with told_to_the_visitor(path):
        return source, inference.estimated_level(source.pixels)


def denoise(asked: Asked, folder: Path, progress: Callable[[int, int], None] | None = None) -> Job:
    """Denoise an upload, at strength 1 at least, and keep the result in `folder`, an empty one of this visitor's.

    `progress` is called with (done, total) after each tile; it may raise `Stopped`.

    Raises:
        DemoError: if file, level or network do not fit.
    """
    path = Path(asked.upload)
    source = read(path)
    with told_to_the_visitor(path):
        os.utime(path)  # Gradio removes what has not been used for some time
        model = catalogue.model_argument(asked.model)
        settings = source.pixels, asked.noise_level, model, asked.strength
        result = inference.restore(*settings, stages=True, progress=progress)
    for index, pixels in enumerate((source.pixels, *result.stages)):
        np.save(folder / f"stage_{index}.npy", pixels)
    (folder / "profile.icc").write_bytes(source.icc or b"")
    kept = folder / f"{path.stem[:NAME_LENGTH]}{path.suffix.lower()}"
    shutil.copyfile(path, kept)
    return Job(
        asked=asked,
        folder=folder,
        source=kept,
        kind=kind(source),
        noise_level=result.noise_level,
        estimated=result.estimated,
        model=result.model,
        per_channel=result.per_channel,
        stages=len(result.stages),
        pixels=source.pixels.shape[0] * source.pixels.shape[1],
        seconds=result.seconds,
    )


def write_result(job: Job, strength: float = 1.0, keep_metadata: bool = True, as_png: bool = False) -> Path:
    """Write the restored image in the upload's own format and bit depth, or as PNG, and return the file.

    Args:
        job: what `denoise` returned.
        strength: 0 is the upload, 1 and above the job's image, between them a mixture; no network runs.
        keep_metadata: False leaves EXIF, XMP and resolution out; the colour profile stays.
        as_png: write PNG whatever the upload was; useful for JPEG, which loses a little each time.

    Raises:
        DemoError: if the job's files are gone, or the format cannot hold the image.
    """
    with told_to_the_visitor():
        pixels = restored(job, strength)
    source, suffix = read(job.source), job.source.suffix
    format = "png" if as_png else source.format
    if files.SUFFIXES.get(suffix) != format:
        suffix = next(end for end, kind in files.SUFFIXES.items() if kind == format)
    target = job.folder / f"{job.source.stem}_denoised{suffix}"
    with told_to_the_visitor(target):
        files.write_image(target, pixels, like=source, keep_metadata=keep_metadata, overwrite=True)
    return target


def denoise_files(
    paths: list[Path],
    folder: Path,
    noise_level: float | None = None,
    model: str | None = None,
    *,
    strength: float = 1.0,
    keep_metadata: bool = True,
    as_png: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[list[Line]]:
    """Denoise files one after the other, each into its own format and bit depth, and put the results into a zip.

    A file that cannot be done is named in the answer and in the zip's report, and the others are done.

    Args:
        paths: the uploads.
        folder: an empty folder of this visitor's; the zip is `folder / ARCHIVE`.
        noise_level: on the 8-bit scale, 0 to 75, for all; None estimates it for each.
        model: a released id or short name; `catalogue.AUTOMATIC` or None is the library's own choice for each.
        strength: as in `Asked` and `write_result`.
        keep_metadata: False leaves EXIF, XMP and resolution out.
        as_png: write PNG whatever the uploads were.
        progress: called with (done, total) within each file; it may raise `errors.Stopped`.

    Yields:
        What became of the files so far: of none, and then after each.

    Raises:
        DemoError: if there is no file, or too many.
    """
    if not 1 <= len(paths) <= MAX_FILES:
        raise DemoError(f"expected 1 to {MAX_FILES} files, got {len(paths)}")
    lines, pixels = [], 0
    yield []
    target = folder / ARCHIVE
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
        for path in paths:
            try:
                if pixels >= MAX_ZIP_PIXELS:
                    raise DemoError(f"Left out: {MAX_ZIP_PIXELS:,} pixels are done. Please send it again by itself.")
                job = denoise(Asked(str(path), noise_level, model, strength), folder, progress)
                result = write_result(job, strength, keep_metadata, as_png)
            except DemoError as error:
                lines.append(Line(path.name, "", None, None, error.sentence))
            else:
                name = _free_name(result.name, archive)
                archive.write(result, name)
                pixels += job.pixels
                lines.append(Line(path.name, name, round(job.noise_level, 2), round(job.seconds, 3), job.kind))
            keep_only(target)
            yield list(lines)
        archive.writestr(REPORT, pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))


def _free_name(name: str, archive: zipfile.ZipFile) -> str:
    """Return the name, numbered if the zip has it already: visitors send files of several folders."""
    stem, suffix = name.rsplit(".", 1)
    taken = {each.lower() for each in archive.namelist()}
    names = [name, *(f"{stem}_{number}.{suffix}" for number in range(2, MAX_FILES + 2))]
    return next(each for each in names if each.lower() not in taken)


def keep_only(path: Path) -> None:
    """Remove what lies beside a file: the pixels of large images take hundreds of megabytes."""
    for other in path.parent.iterdir():
        if other != path:
            other.unlink()


def restored(job: Job, strength: float, at: tuple[slice, slice] = (slice(None), slice(None))) -> np.ndarray:
    """Return the restored pixels, or a part of them, at a strength and in the kind of the upload; no network runs."""
    before, after = (np.ascontiguousarray(job.stage(index)[at]) for index in (0, job.stages))
    return inference.blend(before, after, min(1.0, strength))


def kind(source: files.ImageFile) -> str:
    """Return in words what kind of image it is, such as '600 × 400 pixels, 16-bit RGB, PNG'."""
    height, width = source.pixels.shape[:2]
    channels = 1 if source.pixels.ndim == 2 else source.pixels.shape[2]
    colours = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}[channels]
    bits = "32-bit float" if source.pixels.dtype.kind == "f" else f"{source.pixels.dtype.itemsize * 8}-bit"
    return f"{width} × {height} pixels, {bits} {colours}, {source.format.upper()}"
