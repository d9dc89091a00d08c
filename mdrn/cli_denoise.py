"""`mdrn denoise`: images, folders and pipes in, the same kind of images out. Only `mdrn.__main__` imports it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mdrn import checkpoint, export, image_io, inference
from mdrn.noise import check_noise_level

PIPE = "-"
EXIT_CODES = (
    "exit codes: 0 all is done, or was already; 2 a mistake in the call, or something that could not be done, said in "
    "one line each on stderr; 130 interrupted. Files are written whole or not at all."
)
_BAR = "{desc}{percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} left"
_NAME_SHOWN = 24  # characters, so that the time left has room
_EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)


def add_denoise_parser(commands: argparse._SubParsersAction) -> None:
    """Add `denoise` to the command line; `run` is what carries it out."""
    parser = commands.add_parser("denoise", help="remove noise from images or folders of images", epilog=EXIT_CODES)
    parser.add_argument("input", nargs="+", help="image files or folders, or - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        help="file for one image, else folder; - for standard output, in the input's format (default: NAME_denoised "
        "beside the input)",
    )
    parser.add_argument("--recursive", action="store_true", help="take folders within folders, keeping the tree")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files, the input too if it is named; without it a folder's finished files are skipped",
    )
    parser.add_argument("--noise-level", type=_noise_level, default=None, metavar="auto|0-75", help="8-bit scale")
    parser.add_argument("--strength", type=float, default=1.0, help="0 leaves the image, 1 is the full effect")
    parser.add_argument("--model", help="released id, weights file or ONNX file (see: mdrn info)")
    parser.add_argument("--runtime", choices=("torch", "onnx"), help="default: onnx for an ONNX file, else torch")
    metadata = parser.add_mutually_exclusive_group()
    metadata.add_argument("--keep-metadata", action="store_true", help="keep EXIF, XMP and resolution (the default)")
    metadata.add_argument("--strip", action="store_true", help="leave them out; the colour profile stays")
    parser.add_argument("--tile", type=int, help="side of tiles in pixels (default: from the memory at hand)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.set_defaults(run=run)


def fail(error: Exception | str) -> int:
    """Say in one line on stderr what went wrong, and return the exit code for it."""
    print(f"mdrn: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return 2


def run(options: argparse.Namespace) -> int:
    """Denoise what the options name, and go on after images that cannot be; return the exit code."""
    from tqdm import tqdm

    _check_options(options)
    jobs, problems = _plan(options)
    todo = [job for job in jobs if options.overwrite or not job.is_done()]
    began = time.perf_counter()
    records = sys.stderr if _to_stdout(options) else sys.stdout
    done = 0
    with tqdm(total=len(todo), disable=None, bar_format=_BAR, delay=1, leave=False) as bar:
        for index, job in enumerate(todo):
            name = job.source.name[:_NAME_SHOWN] if job.source else str(job)
            bar.set_description_str(f"{index + 1}/{len(todo)} {name} ", refresh=False)

            def show(fraction: float, bar: tqdm = bar, index: int = index) -> None:
                bar.update(index + fraction - bar.n)

            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                try:
                    record = _denoise(job, options, show)
                except BrokenPipeError:
                    raise
                except _EXPECTED as error:
                    record = None
                    problems.append(job.problem(error))
            for warning in caught:
                tqdm.write(f"mdrn: warning: {job}: {warning.message}", file=sys.stderr)
            if record:
                done += 1
                tqdm.write(record, file=records)
            show(1.0)
    for problem in problems:
        fail(problem)
    if len(jobs) > 1 or len(todo) < len(jobs):
        _summarise(done, len(jobs) - len(todo), len(problems), time.perf_counter() - began)
    return 2 if problems else 0


@dataclasses.dataclass(frozen=True)
class _Job:
    """One image: where it comes from and where it goes; None is standard input, and standard output."""

    source: Path | None
    target: Path | None
    one_of_many: bool

    def __str__(self) -> str:
        return str(self.source or "standard input")

    def is_done(self) -> bool:
        """Whether this result is there from an earlier run; a single image's is refused later instead."""
        both = self.one_of_many and self.target.exists() and self.source.exists()
        return both and not os.path.samefile(self.source, self.target)

    def problem(self, error: Exception) -> str:
        """Return an error's message, with the image that it is about."""
        if isinstance(error, OSError) and error.strerror and error.filename:
            error = f"{error.filename}: {error.strerror}"
        text = str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)
        return text if any(str(path) in text for path in (self, self.target)) else f"{self}: {text}"


def _noise_level(text: str) -> float | None:
    try:
        return None if text == "auto" else check_noise_level(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for what argparse lets pass, before any image is looked at."""
    if not 0.0 <= options.strength <= 1.0:
        raise ValueError(f"--strength: expected 0 to 1, got {options.strength:g}")
    if options.tile is not None and options.tile < 1:
        raise ValueError(f"--tile: expected at least 1 pixel, got {options.tile}")
    if PIPE in (*options.input, options.output) and len(options.input) > 1:
        raise ValueError(f"{PIPE}: expected one image for standard input or output, got {len(options.input)}")
    if options.input == [PIPE] and sys.stdin.isatty():
        raise ValueError(f"{PIPE}: expected an image on standard input, got a terminal; add < FILE")
    if _to_stdout(options) and sys.stdout.isatty():
        raise ValueError(f"{PIPE}: standard output is a terminal; add > FILE, or name the output with -o")
    if options.runtime is None:
        options.runtime = "onnx" if str(options.model).endswith(export.SUFFIX) else "torch"
    if options.runtime == "onnx" and options.device != "cpu":
        raise ValueError(f"--device: ONNX Runtime works on the cpu here, got {options.device}; leave out one of them")
    if options.model:
        (_onnx if options.runtime == "onnx" else checkpoint.load)(options.model)


_onnx = functools.lru_cache(export.load_onnx)


def _network(options: argparse.Namespace, pixels: np.ndarray) -> str | export.OnnxDenoiser | None:
    """Return what `restore` takes: the name that was given, if any, or a denoiser under ONNX Runtime."""
    if options.runtime == "torch":
        return options.model
    colours = 3 if pixels.ndim == 3 and pixels.shape[2] >= 3 else 1
    return _onnx(options.model or inference.default_model(colours))


def _to_stdout(options: argparse.Namespace) -> bool:
    return options.output == PIPE or options.output is None and options.input == [PIPE]


def _plan(options: argparse.Namespace) -> tuple[list[_Job], list[str]]:
    """Return what is to be done, and what is wrong with the rest."""
    if _to_stdout(options):
        source = None if options.input == [PIPE] else Path(options.input[0])
        return [_Job(source, None, one_of_many=False)], []
    output = None if options.output is None else Path(options.output)
    if options.input == [PIPE]:
        return [_Job(None, output, one_of_many=False)], []
    jobs, problems = [], []
    many = len(options.input) > 1
    into = output is not None and (many or output.is_dir() or options.output.endswith(("/", os.sep)))
    for source in map(Path, options.input):
        if source.is_dir():
            found = _images_in(source, output, options.recursive)
            if not found:
                suffixes = ", ".join(image_io.SUFFIXES)
                problems.append(f"{source}: expected images in this folder, found none ({suffixes})")
            jobs += [_Job(path, output / path.relative_to(source), one_of_many=True) for path in found]
        elif output is None:
            jobs.append(_Job(source, source.with_stem(f"{source.stem}_denoised"), one_of_many=many))
        else:
            jobs.append(_Job(source, output / source.name if into else output, one_of_many=many))
    _check_targets(jobs, output if many else None)
    return jobs, problems


def _images_in(folder: Path, output: Path | None, recursive: bool) -> list[Path]:
    """Return the images of a folder, less hidden files and what lies in an output folder within it."""
    if output is None or output.is_file() or output.suffix.lower() in image_io.SUFFIXES:
        raise ValueError(f"{folder}: is a folder; give another folder for its results with --output")
    inside = output if output.resolve() != folder.resolve() else None
    return [
        path
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in image_io.SUFFIXES
        and not path.name.startswith(".")
        and inside not in path.parents
        and path.is_file()
    ]


def _check_targets(jobs: list[_Job], folder: Path | None) -> None:
    """Raise ValueError if one result would replace another, or an input that is not its own."""
    if folder is not None and (folder.is_file() or folder.suffix.lower() in image_io.SUFFIXES):
        raise ValueError(f"{folder}: expected a folder for the results of {len(jobs)} images; name one with --output")
    sources = {Path(os.path.abspath(job.source)) for job in jobs}
    seen = set()
    for job in jobs:
        target = Path(os.path.abspath(job.target))
        if target in seen:
            raise ValueError(f"{job.target}: two inputs would be written to it; denoise them in two calls")
        if target in sources and target != Path(os.path.abspath(job.source)):
            raise ValueError(f"{job.target}: is an input, and the result of {job} would replace it; name another")
        seen.add(target)


def _denoise(job: _Job, options: argparse.Namespace, show: Callable[[float], None]) -> str:
    """Do one job and return the line that says so."""
    if job.target:
        if job.target.exists() and not options.overwrite:
            raise ValueError(f"{job.target}: exists already; add --overwrite to replace it")
        image_io.check_target(job.target, overwrite=options.overwrite)
    pages = image_io.open_pages(job.source or sys.stdin.buffer.read())
    restored, files = [], []
    for page in pages:
        if job.target and not files:
            image_io.check_target(job.target, page, len(pages), overwrite=options.overwrite)

        def progress(done: int, total: int, before: int = len(files)) -> None:
            show((before + done / total) / len(pages))

        result = inference.restore(
            page.pixels,
            options.noise_level,
            _network(options, page.pixels),
            strength=options.strength,
            tile=options.tile,
            device=options.device,
            progress=progress,
        )
        files.append(dataclasses.replace(page, pixels=result.image))
        restored.append(dataclasses.replace(result, image=None))
    _write(job, files, pages.format, options)
    return _record(job, files, restored)


def _write(job: _Job, files: list[image_io.ImageFile], format: str, options: argparse.Namespace) -> None:
    pixels = [file.pixels for file in files]
    if job.target:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        image_io.write_pages(job.target, pixels, files, keep_metadata=not options.strip, overwrite=options.overwrite)
    else:
        sys.stdout.buffer.write(image_io.encode_pages(pixels, format, files, keep_metadata=not options.strip))
        sys.stdout.buffer.flush()


def _record(job: _Job, files: list[image_io.ImageFile], restored: list[inference.Restoration]) -> str:
    height, width = files[0].pixels.shape[:2]
    pages = f"{len(files)} pages, the first " if len(files) > 1 else ""
    levels = [f"{result.noise_level:.1f}" for result in sorted(restored, key=lambda result: result.noise_level)]
    level = levels[0] if levels[0] == levels[-1] else f"{levels[0]} to {levels[-1]}"
    how = "estimated" if restored[0].estimated else "given"
    note = ", a grey network: colour channel by channel" if any(r.per_channel for r in restored) else ""
    return (
        f"{job} -> {job.target or 'standard output'}  {pages}{width}x{height} {files[0].pixels.dtype}, noise level "
        f"{level} ({how}), {restored[0].model}{note}, {sum(result.seconds for result in restored):.1f} s"
    )


def _summarise(done: int, skipped: int, failed: int, seconds: float) -> None:
    parts = [f"{done} done"]
    if skipped:
        parts.append(f"{skipped} skipped, already there (--overwrite redoes them)")
    if failed:
        parts.append(f"{failed} not done")
    print(f"mdrn: {', '.join(parts)}, {seconds:.1f} s", file=sys.stderr)
