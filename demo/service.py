"""What the demo does, without its page: files and settings in, files and facts out. It does not import Gradio.

A denoised image is kept as a `Job`: a folder that holds the upload, the restored pixels and what is shown of them. So
a change of strength runs no network, and the server's memory holds no visitor's image between two requests.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from demo import catalogue
from demo.errors import DemoError, told_to_the_visitor
from mdrn import files, inference, noise

MAX_PIXELS = 24_000_000
MAX_FILE_SIZE = "64mb"
NAME_LENGTH = 80


@dataclasses.dataclass(frozen=True)
class Upload:
    """What is known of an uploaded image before it is denoised.

    Args:
        name: the file's own name.
        kind: in words, such as '600 × 400 pixels, 16-bit RGB, PNG'.
        pixels: height times width.
        noise_level: the estimate, on the 8-bit scale.
        shown_by_browsers: whether a browser can show the file itself.
    """

    name: str
    kind: str
    pixels: int
    noise_level: float
    shown_by_browsers: bool


@dataclasses.dataclass(frozen=True)
class Job:
    """A denoised image on disk, from which everything the page shows is made.

    Args:
        folder: holds the upload, the restored pixels and what was made from them.
        source: the upload, under its own name.
        kind: as in `Upload`.
        noise_level: the level that was removed.
        estimated: whether it was estimated.
        model: id of the network.
        per_channel: whether a grey network restored the colours one by one.
        stages: number of stages whose images are kept.
        pixels: height times width.
        seconds: time of estimate and network.
    """

    folder: Path
    source: Path
    kind: str
    noise_level: float
    estimated: bool
    model: str
    per_channel: bool
    stages: int
    pixels: int
    seconds: float


def read(path: Path) -> files.ImageFile:
    """Read an upload, after its pixels have been counted from its header.

    Raises:
        DemoError: if it is not an image this page takes.
    """
    with told_to_the_visitor(path):
        return files.read_image(path, max_pixels=MAX_PIXELS)


def inspect(path: Path) -> Upload:
    """Say what an upload is, and estimate its noise level.

    Args:
        path: the upload.

    Raises:
        DemoError: if it is not an image this page takes.
    """
    source = read(path)
    with told_to_the_visitor(path):
        noise_level = noise.estimate_noise_level(source.pixels)
    height, width = source.pixels.shape[:2]
    return Upload(path.name, _kind(source), height * width, noise_level, source.format != "tiff")


def denoise(
    path: Path,
    folder: Path,
    noise_level: float | None = None,
    model: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Job:
    """Denoise an upload at full strength and keep the result in `folder`.

    Args:
        path: the upload.
        folder: an empty folder of this visitor's.
        noise_level: on the 8-bit scale, 0 to 75; None estimates it.
        model: a released id; `catalogue.AUTOMATIC` or None is the library's own choice.
        progress: called with (done, total) after each tile; it may raise `Stopped`.

    Raises:
        DemoError: if file, level or network do not fit.
    """
    source = read(path)
    image = source.pixels
    height, width = image.shape[:2]
    colours = 3 if image.ndim == 3 and image.shape[2] > 2 else 1
    network = catalogue.choose_network(model, colours)
    with told_to_the_visitor(path):
        result = inference.restore(image, noise_level, network.id, stages=True, progress=progress)
    catalogue.note_speed(network.id, height * width * (colours if result.per_channel else 1), result.seconds)
    for index, stage in enumerate(result.stages, start=1):
        np.save(folder / f"stage_{index}.npy", stage)
    kept = folder / f"{path.stem[:NAME_LENGTH]}{path.suffix.lower()}"
    shutil.copyfile(path, kept)
    return Job(
        folder=folder,
        source=kept,
        kind=_kind(source),
        noise_level=result.noise_level,
        estimated=result.estimated,
        model=result.model,
        per_channel=result.per_channel,
        stages=len(result.stages),
        pixels=height * width,
        seconds=result.seconds,
    )


def write_result(job: Job, strength: float = 1.0, keep_metadata: bool = True, as_png: bool = False) -> Path:
    """Write the restored image in the upload's own format and bit depth, or as PNG, and return the file.

    Args:
        job: what `denoise` returned.
        strength: 0 is the upload, 1 the restored image, between them a mixture; no network runs.
        keep_metadata: False leaves EXIF, XMP and resolution out; the colour profile stays.
        as_png: write PNG whatever the upload was; useful for JPEG, which loses a little each time.

    Raises:
        DemoError: if the job's files are gone, or the format cannot hold the image.
    """
    source = open_source(job)
    suffix = ".png" if as_png and source.format != "png" else job.source.suffix
    if files.SUFFIXES.get(suffix) != source.format and not as_png:
        suffix = next(end for end, kind in files.SUFFIXES.items() if kind == source.format)
    target = job.folder / f"{job.source.stem}_denoised{suffix}"
    with told_to_the_visitor(target):
        pixels = restored(job, source, strength)
        files.write_image(target, pixels, like=source, keep_metadata=keep_metadata, overwrite=True)
    return target


def keep_only(path: Path) -> None:
    """Remove what lies beside a file: stages of large images take hundreds of megabytes."""
    for other in path.parent.iterdir():
        if other != path:
            other.unlink()


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Round an image of any kind to 8 bits, for the screen alone."""
    if image.dtype == np.uint8:
        return image
    white = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    return np.round(image.astype(np.float32) * np.float32(255.0 / white)).astype(np.uint8)


def facts(job: Job) -> dict[str, object]:
    """Return what was done, for the API."""
    fields = {name: value for name, value in dataclasses.asdict(job).items() if name not in ("folder", "source")}
    return json.loads(json.dumps(fields))


def open_source(job: Job) -> files.ImageFile:
    """Read a job's upload again, and count this as a use of its folder.

    Raises:
        DemoError: if the folder has been removed.
    """
    if not job.source.exists():
        raise DemoError("This result has been cleared, as all are after a while. Press Denoise again.")
    os.utime(job.folder)
    return read(job.source)


def restored(job: Job, source: files.ImageFile, strength: float) -> np.ndarray:
    """Return the restored pixels at a strength, in the kind of the upload; no network runs."""
    return inference.blend(source.pixels, np.load(job.folder / f"stage_{job.stages}.npy"), strength)


def _kind(source: files.ImageFile) -> str:
    height, width = source.pixels.shape[:2]
    channels = 1 if source.pixels.ndim == 2 else source.pixels.shape[2]
    colours = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}[channels]
    bits = "32-bit float" if source.pixels.dtype.kind == "f" else f"{source.pixels.dtype.itemsize * 8}-bit"
    return f"{width} × {height} pixels, {bits} {colours}, {source.format.upper()}"
