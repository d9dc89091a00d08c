"""What `mdrn denoise` does: images, folders and pipes in, the same kind of images out. Only `mdrn.cli` imports it.

It is apart from `mdrn.cli` because it is as long as all other commands, and imports what they need not wait for.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mdrn import checkpoint, export, files, inference
from mdrn.files.formats import to_depth

PIPE = "-"
_BAR = "{desc}{percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} left"
_NAME_SHOWN = 24  # characters, so that the time left has room
_EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)
_READ = (*files.SUFFIXES, *files.ALSO_READ)
_DONE = "_denoised"
_BITS = {"uint8": "8 bit", "uint16": "16 bit", "float32": "32-bit float"}


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


@dataclasses.dataclass
class _Plan:
    """What there is to do, what cannot be done, and what else lies in the folders: suffix -> number of files."""

    jobs: list[_Job] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)


def run(options: argparse.Namespace, fail: Callable[[str], int]) -> int:
    """Denoise what the options name, and go on after images that cannot be; return the exit code.

    `options` are as `mdrn.cli` parses them, and `fail` says in one line what went wrong.
    """
    from tqdm import tqdm

    _check_options(options)
    plan = _plan(options)
    todo = [job for job in plan.jobs if options.overwrite or not job.is_done()]
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
                    plan.problems.append(job.problem(error))
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                tqdm.write(f"mdrn: warning: {message if str(job) in message else f'{job}: {message}'}", file=sys.stderr)
            if record:
                done += 1
                tqdm.write(record, file=records)
            show(1.0)
    for problem in plan.problems:
        fail(problem)
    if len(plan.jobs) > 1 or len(todo) < len(plan.jobs) or plan.ignored:
        _summarise(done, len(plan.jobs) - len(todo), plan, time.perf_counter() - began)
    return 2 if plan.problems else 0


def _check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for what argparse lets pass, before any image is looked at."""
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


def _plan(options: argparse.Namespace) -> _Plan:
    """Say which image goes where.

    Raises:
        ValueError: if the results of all cannot go where the options say.
    """
    plan = _Plan()
    output = None if options.output is None or _to_stdout(options) else Path(options.output)
    if options.input == [PIPE]:
        plan.jobs.append(_Job(None, output, one_of_many=False))
        return plan
    many = len(options.input) > 1
    into = output is not None and (many or output.is_dir() or options.output.endswith(("/", os.sep)))
    for source in map(Path, options.input):
        if source.is_dir():
            _plan_folder(source, output, options.recursive, plan)
        elif _to_stdout(options):
            plan.jobs.append(_Job(source, None, one_of_many=False))
        elif output is None:
            plan.jobs.append(_Job(source, _result(source, source.with_stem(source.stem + _DONE)), many))
        else:
            plan.jobs.append(_Job(source, _result(source, output / source.name) if into else output, many))
    _check_targets(plan.jobs, output if many else None)
    return plan


def _result(source: Path, target: Path) -> Path:
    """Return a result's name, with a suffix that fits what the source is whatever its own suffix says."""
    kind = files.format_of(source)
    if kind is None or files.SUFFIXES.get(target.suffix.lower()) == kind:
        return target
    suffix = next(suffix for suffix, format in files.SUFFIXES.items() if format == kind)
    named = source.with_suffix(suffix)
    return target.with_name(target.name + suffix) if named != source and named.exists() else target.with_suffix(suffix)


def _plan_folder(folder: Path, output: Path | None, recursive: bool, plan: _Plan) -> None:
    """Plan the images of a folder, less hidden files and what lies in an output folder within it."""
    if output is None or output.is_file() or output.suffix.lower() in _READ:
        raise ValueError(f"{folder}: is a folder; name a folder for the results with --output")
    inside = output if output.resolve() != folder.resolve() else None
    found, ignored = [], Counter()
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if path.name.startswith(".") or inside in path.parents or not path.is_file():
            continue
        if path.stem.endswith(_DONE) and path.with_stem(path.stem.removesuffix(_DONE)).exists():
            ignored["results of earlier runs"] += 1
        elif path.suffix.lower() in _READ:
            found.append(path)
        else:
            ignored[path.suffix.lower() or "without a suffix"] += 1
    if not found:
        held = f"; it holds {_counted(ignored)}" if ignored else ""
        plan.problems.append(f"{folder}: expected images in this folder, found none ({', '.join(_READ)}){held}")
    plan.jobs += [_Job(path, _result(path, output / path.relative_to(folder)), one_of_many=True) for path in found]
    plan.ignored += ignored


def _check_targets(jobs: list[_Job], folder: Path | None) -> None:
    """Raise ValueError if one result would replace another, or an input that is not its own."""
    if folder is not None and (folder.is_file() or folder.suffix.lower() in files.SUFFIXES):
        raise ValueError(f"{folder}: expected a folder for the results of {len(jobs)} images; name one with --output")
    sources = {Path(os.path.abspath(job.source)) for job in jobs}
    seen = set()
    for job in jobs:
        if job.target is None:
            continue
        target = Path(os.path.abspath(job.target))
        if target in seen:
            raise ValueError(f"{job.target}: two inputs would be written to it; denoise them in two calls")
        if target in sources and target != Path(os.path.abspath(job.source)):
            raise ValueError(f"{job.target}: is an input, and the result of {job} would replace it; name another")
        seen.add(target)


def _denoise(job: _Job, options: argparse.Namespace, show: Callable[[float], None]) -> str:
    """Do one job and return the line that says so; the input is looked at before the output's name."""
    with _interrupts_wait():
        pages = files.open_pages(job.source or sys.stdin.buffer.read())
    restored, done = [], []
    reader = iter(pages)
    for index in range(len(pages)):
        with _interrupts_wait():
            page = next(reader)
        if job.target and not index:
            if job.target.exists() and not options.overwrite:
                raise ValueError(f"{job.target}: exists already; add --overwrite to replace it")
            files.check_target(job.target, page, len(pages), overwrite=options.overwrite, depth=options.depth)

        def progress(part: int, total: int, before: int = index) -> None:
            show((before + part / total) / len(pages))

        page, result = _restore(page, options, progress)
        done.append(page)
        restored.append(dataclasses.replace(result, image=None))
    _write(job, done, pages.format, options)
    _say_what_changed(job, pages)
    return _record(job, done, restored, options.strength)


def _say_what_changed(job: _Job, pages: files.Pages) -> None:
    kind, result = pages.kind, job.target or f"a {pages.format.upper()} file"
    suffix = job.source.suffix.lower() if job.source else ""
    if kind == "heif":
        warnings.warn(f"AVIF and HEIC are read but not written; the result is {result}", stacklevel=2)
    elif suffix in files.ALSO_READ or files.SUFFIXES.get(suffix, kind) != kind:
        warnings.warn(f"is a {kind.upper()} file, whatever its name says; the result is {result}", stacklevel=2)


def _restore(
    page: files.ImageFile, options: argparse.Namespace, progress: Callable[[int, int], None]
) -> tuple[files.ImageFile, inference.Restoration]:
    """Return the page with its image restored; a channel that is neither colour nor transparency stays as it is."""
    pixels = to_depth(page.pixels, 16) if options.depth == 16 else page.pixels  # first, so that the depth is real
    image = pixels if page.alpha else pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    result = inference.restore(
        image,
        options.noise_level,
        _network(options, image),
        strength=options.strength,
        tile=options.tile,
        device=options.device,
        progress=progress,
    )
    restored = result.image if page.alpha else np.dstack([result.image, pixels[..., -1]])
    return dataclasses.replace(page, pixels=restored), result


def _write(job: _Job, pages: list[files.ImageFile], format: str, options: argparse.Namespace) -> None:
    pixels = [page.pixels for page in pages]
    how = {"keep_metadata": not options.strip, "depth": options.depth}
    with _interrupts_wait():
        if job.target:
            files.write_pages(job.target, pixels, pages, overwrite=options.overwrite, **how)
            return
        data = files.encode_pages(pixels, format, pages, **how)
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _record(job: _Job, pages: list[files.ImageFile], restored: list[inference.Restoration], strength: float) -> str:
    height, width = pages[0].pixels.shape[:2]
    count = f"{len(pages)} pages, the first " if len(pages) > 1 else ""
    levels = [f"{result.noise_level:.1f}" for result in sorted(restored, key=lambda result: result.noise_level)]
    level = levels[0] if levels[0] == levels[-1] else f"{levels[0]} to {levels[-1]}"
    how = "estimated, --noise-level changes it" if restored[0].estimated else "given"
    how += f", times strength {strength:g}" if strength > 1 else ""
    mixed = f"strength {strength:g}, " if strength < 1 else ""
    note = ", a grey network: colour channel by channel" if any(r.per_channel for r in restored) else ""
    return (
        f"{job} -> {job.target or 'standard output'}  {count}{width} x {height}, {_BITS[pages[0].pixels.dtype.name]}, "
        f"noise level {level} of 75 ({how}), {mixed}{restored[0].model}{note}, "
        f"{sum(result.seconds for result in restored):.1f} s"
    )


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _summarise(done: int, skipped: int, plan: _Plan, seconds: float) -> None:
    parts = [f"{done} done"]
    if skipped:
        parts.append(f"{skipped} skipped: their results exist, perhaps from other options (--overwrite redoes them)")
    if plan.problems:
        parts.append(f"{len(plan.problems)} failed")
    if plan.ignored:
        parts.append(f"{plan.ignored.total()} left out ({_counted(plan.ignored)})")
    print(f"mdrn: {', '.join(parts)}, {seconds:.1f} s", file=sys.stderr)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until libvips is done: raised in the callback by which pyvips logs, it would be lost."""
    waiting: list[int] = []
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    handlers = {signum: handler for signum, handler in handlers.items() if callable(handler)}
    for signum in handlers:
        signal.signal(signum, lambda signum, _: waiting.append(signum))
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for signum in waiting:
            signal.raise_signal(signum)
