"""The Several files tab: many uploads in, one zip out."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pandas as pd

from demo import batch, catalogue, upload
from demo.errors import DemoError
from demo.handlers import LEVEL_HINT, Stops, readable
from demo.workspace import Workspace
from mdrn.files import SUFFIXES
from mdrn.noise import MAX_NOISE_LEVEL

_PROGRESS = gr.Progress()
_COLUMNS = ["File", "In the zip", "Level", "Seconds", "Note"]
_HINT = f"""Up to {batch.MAX_FILES} images and {batch.MAX_PIXELS // 10**6} megapixels at a time. Each result has its
image's own name, format and bit depth; an image that cannot be done is named, and the others are done. Of noise
levels, {LEVEL_HINT}"""


class Files:
    """What happens on the tab's events."""

    def __init__(self, workspace: Workspace, stops: Stops) -> None:
        self.workspace = workspace
        self.stops = stops

    @readable
    def denoise(
        self,
        images: list[str] | None,
        automatic: bool,
        level: float,
        network: str,
        strength: float,
        keep: bool,
        as_png: bool,
        request: gr.Request,
        progress: gr.Progress = _PROGRESS,
    ):
        """Denoise all files and show what became of each."""
        if not images:
            raise DemoError("Choose some images first.")
        session = request.session_hash
        options = {"strength": strength, "keep_metadata": keep, "as_png": as_png}

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Denoising", unit="files")

        wanted = None if automatic else level
        with self.workspace.made(session) as folder, self.stops.watch(session, report) as step:
            made, lines = batch.denoise_files(
                [Path(each) for each in images], folder, wanted, network, progress=step, **options
            )
        done = sum(1 for line in lines if line.result)
        button = gr.DownloadButton(f"Download {done} image{'s' * (done != 1)} (zip)", value=str(made), interactive=True)
        failed = f", **{len(lines) - done} not**: see the last column" if done < len(lines) else ""
        return button, as_table(lines), f"**{done} of {len(lines)} done**{failed}."

    def fit(self, network: str):
        """Fit the level controls to what the chosen network was trained for."""
        one = not catalogue.choose_network(network).is_range
        level = {"value": catalogue.choose_network(network).noise_level[1]} if one else {}
        return gr.Checkbox(value=True, interactive=not one), gr.Slider(interactive=not one, **level)


def as_table(lines: list[batch.Line]) -> pd.DataFrame:
    """Return what became of each file, for the screen."""
    rows = [(line.file, line.result, line.noise_level, line.seconds, line.note) for line in lines]
    return pd.DataFrame(rows, columns=_COLUMNS)


def files_tab(handlers: Files, networks: list[tuple[str, str]], running: dict, private: dict) -> None:
    """Lay the tab out and wire it.

    Args:
        handlers: what its events do.
        networks: what the network picker offers.
        running: queue options of what runs a network.
        private: options that keep an event out of the API.
    """
    ready, first = bool(networks), networks[0][1] if networks else None
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            images = upload.File(
                label="Images", file_count="multiple", file_types=list(SUFFIXES), height=220, elem_id="files"
            )
            with gr.Row(equal_height=True):
                automatic = gr.Checkbox(True, label="Estimate each noise level", min_width=140)
                level = gr.Slider(0, MAX_NOISE_LEVEL, 25, step=0.1, label="Noise level", min_width=180)
            network = gr.Dropdown(networks, value=first, label="Network", filterable=False)
            strength = gr.Slider(0, 1, 1, step=0.01, label="Strength", info="0 is the upload, 1 the full effect.")
            with gr.Row():
                keep = gr.Checkbox(True, label="Keep metadata", info="camera, date, place", min_width=120)
                as_png = gr.Checkbox(False, label="Always PNG", info="lossless, also for JPEG", min_width=120)
        with gr.Column(scale=3, min_width=320):
            gr.Markdown(_HINT)
            with gr.Row():
                start = gr.Button(
                    "Denoise all", variant="primary", interactive=ready, scale=3, elem_id="files-start", min_width=160
                )
                stop = gr.Button("Stop", scale=1, min_width=80)
            done = gr.Markdown(elem_id="files-summary")
            download = gr.DownloadButton("Download", interactive=False, variant="primary", elem_id="files-download")
            table = gr.Dataframe(
                headers=_COLUMNS,
                label="What became of each",
                interactive=False,
                wrap=True,
                column_widths=["150px", "190px", "80px", "90px", "260px"],
                elem_id="files-table",
            )
    inputs = [images, automatic, level, network, strength, keep, as_png]
    begun = start.click(handlers.denoise, inputs, [download, table, done], show_progress_on=table, **running, **private)
    stop.click(handlers.stops.stop, None, None, queue=False, **private)
    stop.click(None, None, None, cancels=[begun], **private)
    quiet = {"queue": False, "show_progress": "hidden"}
    network.change(handlers.fit, network, [automatic, level], **quiet, **private)
    level.input(lambda: False, None, automatic, **quiet, **private)
