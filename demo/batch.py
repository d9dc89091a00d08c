"""Denoise several uploads into one zip, without a page. It does not import Gradio."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from demo import service
from demo.errors import DemoError
from demo.service import Asked

MAX_FILES = 50
MAX_PIXELS = 2 * service.MAX_PIXELS  # of all files together
ARCHIVE, REPORT = "denoised.zip", "report.csv"


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of one file."""

    file: str  # its name as uploaded
    result: str  # its name in the zip; empty if there is none
    noise_level: float | None  # the level that was removed, on the 8-bit scale
    seconds: float | None  # time of estimate and network
    note: str  # what kind of image it is, or why there is no result


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
        strength: as in `service.Asked` and `service.write_result`.
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
                if pixels >= MAX_PIXELS:
                    raise DemoError(f"Left out: {MAX_PIXELS:,} pixels are done. Please send it again by itself.")
                job = service.denoise(Asked(str(path), noise_level, model, strength), folder, progress)
                result = service.write_result(job, strength, keep_metadata, as_png)
            except DemoError as error:
                lines.append(Line(path.name, "", None, None, error.sentence))
            else:
                name = _free_name(result.name, archive)
                archive.write(result, name)
                pixels += job.pixels
                lines.append(Line(path.name, name, round(job.noise_level, 2), round(job.seconds, 3), job.kind))
            service.keep_only(target)
            if len(lines) == len(paths):
                archive.writestr(REPORT, pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
            yield list(lines)


def _free_name(name: str, archive: zipfile.ZipFile) -> str:
    """Return the name, numbered if the zip has it already: visitors send files of several folders."""
    stem, suffix = name.rsplit(".", 1)
    taken = {each.lower() for each in archive.namelist()}
    names = [name, *(f"{stem}_{number}.{suffix}" for number in range(2, MAX_FILES + 2))]
    return next(each for each in names if each.lower() not in taken)
