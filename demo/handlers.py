"""Handlers of the Denoise tab: they turn a visitor's request into calls of `demo.service`. `demo.ui` wires them."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr

from demo import catalogue, service, views
from demo.catalogue import AUTOMATIC
from demo.errors import DemoError, Stopped
from demo.service import Job
from demo.workspace import Workspace

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.png"))
LEVEL_HINT = "15 is fine grain, 25 is plain to see, 50 is heavy."
VIEWS = ("slider", "close_up", "removed", "stages")
_PROGRESS = gr.Progress()


def readable(handler: Callable) -> Callable:
    """Show a `DemoError` to the visitor as it is, and nothing of any other failure."""

    @functools.wraps(handler)
    def wrapped(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except DemoError as error:
            raise gr.Error(str(error), duration=12, print_exception=False) from error
        except Stopped as error:
            raise gr.Error("Stopped.", title="Stopped", duration=3, print_exception=False) from error

    return wrapped


class Stops:
    """Which sessions want their work to end."""

    def __init__(self) -> None:
        self._running: dict[str, threading.Event] = {}

    @contextlib.contextmanager
    def watch(self, session: str, report: Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
        """Yield a progress callback that reports on, and raises `Stopped` once the session asked for it."""
        wanted = self._running[session] = threading.Event()

        def step(done: int, total: int) -> None:
            if wanted.is_set():
                raise Stopped
            report(done, total)

        try:
            yield step
        finally:
            self._running.pop(session, None)

    def stop(self, request: gr.Request) -> None:
        """Ask a session's work to end at its next step."""
        if running := self._running.get(request.session_hash):
            running.set()

    def __len__(self) -> int:
        return len(self._running)


class Denoise:
    """What happens on each event; knows sessions and their folders."""

    def __init__(self, workspace: Workspace, stops: Stops) -> None:
        self.workspace = workspace
        self.stops = stops
        self.originals: dict[str, str] = {}  # preview -> the upload that it stands for, which browsers cannot show

    @readable
    def inspect(self, image: str | None, network: str, request: gr.Request):
        """Describe a new image, set the level to its estimate, and replace what browsers cannot show by a preview."""
        if image is None:
            return "", gr.skip(), gr.skip()
        if image in self.originals:
            return gr.skip(), gr.skip(), gr.skip()
        upload = service.inspect(Path(image))
        shown = gr.skip()
        if not upload.shown_by_browsers:
            shown = str(views.preview(Path(image), self.workspace.new(request.session_hash)))
            for gone in [preview for preview in list(self.originals) if not Path(preview).exists()]:
                self.originals.pop(gone, None)
            self.originals[shown] = image
        estimate = f"Estimated noise level {upload.noise_level:.1f} ({LEVEL_HINT[:-1]})"
        text = f"{upload.kind}. {estimate}. {self._duration(network, upload)}"
        low, high = self._range(network)
        level = gr.skip() if low == high else round(min(max(upload.noise_level, low), high), 1)
        return text, level, shown

    @readable
    def choose(self, network: str):
        """Describe the chosen network and fit the level controls to what it was trained for."""
        low, high = self._range(network)
        one = low == high
        note = "The only one this network knows." if one else None
        level = {"value": high} if one else {}
        return (
            describe(network),
            gr.Slider(interactive=not one, info=note, **level),
            gr.Checkbox(value=not one, interactive=not one),
        )

    @readable
    def denoise(
        self,
        image: str | None,
        automatic: bool,
        level: float,
        network: str,
        strength: float,
        view: str,
        keep: bool,
        as_png: bool,
        across: float,
        down: float,
        job: Job | None,
        request: gr.Request,
        progress: gr.Progress = _PROGRESS,
    ):
        """Run the network on the upload, keep the job for this session, and show the result."""
        if image is None:
            raise DemoError("Choose an image first: upload one, paste one, or take an example.")
        source = Path(self.originals.get(image, image))
        if not source.exists():
            raise DemoError("This upload has been cleared, as all are after a while. Please upload it again.")
        os.utime(source)
        session = request.session_hash
        low, high = self._range(network)
        wanted = None if automatic or low == high else level

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Denoising", unit="tiles")

        with self.workspace.made(session) as folder, self.stops.watch(session, report) as step:
            new = service.denoise(source, folder, wanted, network, step)
        if job is not None:
            self.workspace.discard(session, job.folder)
        removed = round(new.noise_level, 1) if low < high else gr.skip()
        return new, summary(new), removed, *self.render(new, strength, view, keep, as_png, across, down)

    @readable
    def render(self, job: Job | None, strength, view, keep, as_png, across, down):
        """Write the download and the view that is open, at a strength; no network runs."""
        if job is None:
            return [gr.skip()] * (1 + len(VIEWS))
        download = service.write_result(job, strength, keep, as_png)
        button = gr.DownloadButton(f"Download {download.suffix[1:].upper()}", value=str(download), interactive=True)
        return button, *self.show(job, strength, view, across, down)

    @readable
    def show(self, job: Job | None, strength, view, across, down):
        """Write the images of the view that is open, and leave the others as they are."""
        if job is None:
            return [gr.skip()] * len(VIEWS)
        makers = {
            "slider": lambda: views.before_after(job, strength),
            "close_up": lambda: views.close_up(job, strength, across, down),
            "removed": lambda: views.residual(job, strength),
            "stages": lambda: views.stages(job),
        }
        return [_as_text(makers[name]()) if name == view else gr.skip() for name in VIEWS]

    def leave(self, request: gr.Request) -> None:
        """Forget a session whose page was closed."""
        self.stops.stop(request)
        self.workspace.discard(request.session_hash)

    def open_example(self, request: gr.Request) -> str:
        """Give a new visitor something to look at."""
        return str(shutil.copy(EXAMPLES[0], self.workspace.new(request.session_hash)))

    def _range(self, network: str) -> tuple[float, float]:
        return catalogue.choose_network(network).noise_level

    def _duration(self, network: str, upload: service.Upload) -> str:
        colours = 3 if "RGB" in upload.kind else 1
        chosen = catalogue.choose_network(network, colours)
        passes = colours if chosen.channels == 1 else 1
        seconds = catalogue.expected_seconds(chosen.id, upload.pixels, passes)
        return f"About {max(seconds, 0.1):.1f} s here."


def _as_text(value):
    """Paths as strings, inside tuples and lists too: what Gradio takes."""
    if isinstance(value, Path):
        return str(value)
    return type(value)(_as_text(each) for each in value) if isinstance(value, (tuple, list)) else value


def describe(network: str) -> str:
    """Return one sentence about a choice of the network picker."""
    chosen = catalogue.choose_network(network)
    kind = "grey" if chosen.channels == 1 else "colour"
    lead = f"`{chosen.id}`: " if network == AUTOMATIC else ""
    seconds = catalogue.expected_seconds(chosen.id, 1_000_000, 1)
    text = f"{lead}{kind}, {chosen.levels}, {chosen.parameters / 1e6:.2f} million parameters, "
    return text + f"about {seconds:.1f} s per megapixel{' and colour' if chosen.channels == 1 else ''} on this server."


def model_card() -> str:
    """Return a list of the released networks: what they are for, how large they are and how they were trained."""
    lines = []
    for n in catalogue.released():
        kind = "colour" if n.channels == 3 else "grey"
        how = "alone" if n.strategy == "plain" else f"taught by a larger network ({n.strategy})"
        lines.append(f"- `{n.id}`: {kind}, {n.levels}, {n.parameters / 1e6:.2f} million parameters, trained {how}")
    return "\n".join(lines)


def summary(job: Job) -> str:
    """Return what was done, in one paragraph."""
    low, high = catalogue.choose_network(job.model).noise_level
    how = "estimated" if job.estimated else "what the network is made for" if low == high else "as set"
    text = (
        f"**Noise level {job.noise_level:.1f}** ({how}) removed by `{job.model}` in **{job.seconds:.2f} s**: "
        f"{job.pixels / 1e6 / job.seconds:.2f} megapixels/s. {job.kind}."
    )
    if job.per_channel:
        text += " It is a grey network, so red, green and blue were restored one by one."
    return text


def choices() -> list[tuple[str, str]]:
    """Return what the network picker offers: (label, id); empty if no network is released."""
    labels = []
    for n in catalogue.networks():
        kind = "colour, " if n.channels == 3 else ""
        seconds = catalogue.expected_seconds(n.id, 1_000_000, 1)
        size = f"{n.parameters / 1e6:.2f} M parameters"
        labels.append((f"{n.id}: {kind}{n.levels}, {size}, {seconds:.1f} s per megapixel", n.id))
    return [("Automatic: any level, grey or colour", AUTOMATIC), *labels] if catalogue.has_automatic() else labels
