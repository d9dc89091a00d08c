"""The Several files tab: many uploads in, one zip out."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pandas as pd

from demo import events, service
from demo.errors import DemoError, Stopped
from demo.events import DISABLE, EACH, NEWEST, PROGRESS, STAMPED, notice

_COLUMNS = ["File", "Result", "Level"]
_HINT = f"""Up to {service.MAX_FILES} images and {service.MAX_ZIP_PIXELS // 10**6} megapixels at a time. Each result
keeps the name, format and bit depth of its image, and `_denoised` is added to the name. If one cannot be done, the
others are."""
_AGAIN = "**Denoise all** makes the results for these files and these settings."


class Files(events.Tab):
    """What happens on each event; a result is kept with the values of the controls that it was made from."""

    def denoise(self, request: gr.Request, stamp: float, progress: gr.Progress = PROGRESS, *values) -> Iterator[tuple]:
        """Denoise all files, and show what became of each as soon as it is done; end when others are asked for."""
        images, network, automatic, level, exact, keep, as_png, strength = self.note(request, stamp, values)
        options = {"strength": strength, "keep_metadata": keep, "as_png": as_png}
        paths, lines = [Path(each) for each in images or []], []

        def report(step: tuple[int, int]) -> None:
            done, (tiles, total) = len(lines), step
            name = f"{paths[done].name}, file {done + 1} of {len(paths)}"
            progress((done * total + tiles, len(paths) * total), desc=name, unit="steps")

        def only(*answer):
            return self.only(request, values, answer)

        try:
            with self.work(request, values, report) as (folder, step):
                wanted = None if automatic else level
                for lines in service.denoise_files(paths, folder, wanted, exact or network, progress=step, **options):
                    yield only(notice(), gr.skip(), as_table(lines, paths))
        except (DemoError, Stopped) as error:
            yield only(notice(error.sentence), gr.skip(), None)
        else:
            yield only(notice(), (values, str(folder / service.ARCHIVE), lines), as_table(lines, paths))

    def show(self, request: gr.Request, stamp: float, made: tuple | None, *values):
        """Offer the zip if it is what the controls ask for."""
        self.note(request, stamp, values)
        nothing = gr.DownloadButton("Download", value=None, interactive=False)
        asked, path, lines = made or (None, "", [])
        if asked != values:
            return self.only(request, values, (nothing, _AGAIN if values[0] else "", None))
        good = sum(1 for line in lines if line.result)
        failed = f", **{len(lines) - good} not**: the table says why" if good < len(lines) else ""
        button = gr.DownloadButton(f"Download {good} image{'s' * (good != 1)} (zip)", value=path, interactive=True)
        answer = button if good else nothing, f"**{good} of {len(lines)} done**{failed}.", gr.skip()
        return self.only(request, values, answer)


def as_table(lines: list[service.Line], paths: list[Path]) -> pd.DataFrame:
    """Return what became of each file, for the screen."""
    rows = [(line.file, line.result or line.note, line.noise_level) for line in lines]
    rows += [(path.name, "waiting" if i else "working …", None) for i, path in enumerate(paths[len(lines) :])]
    return pd.DataFrame(rows, columns=_COLUMNS).round(1)


def layout(handlers: Files) -> None:
    """Lay the tab out and wire it."""
    made, stamp = gr.State(None), gr.Number(visible=False)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            images = gr.File(label="Images", file_count="multiple", height=220, elem_id="files")
            network = events.network_picker("files-network")
            strength = events.strength_slider("files-strength")
            further = events.advanced("files-advanced")
        with gr.Column(scale=3, min_width=320):
            gr.Markdown(_HINT)
            with gr.Row():
                start = gr.Button("Denoise all", variant="primary", scale=3, min_width=160, elem_id="files-start")
                stop = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id="files-stop")
            line = gr.Markdown(visible=False, elem_id="files-notice", elem_classes="notice")
            done = gr.Markdown(elem_id="files-summary")
            download = gr.DownloadButton("Download", interactive=False, variant="primary", elem_id="files-download")
            table = gr.Dataframe(
                headers=_COLUMNS, label="Results", interactive=False, wrap=True,
                column_widths=["32%", "50%", "18%"], elem_id="files-table",
            )  # fmt: skip
    controls = [images, network, *further, strength]
    handlers.wire_newest(stamp, controls)
    triggers = [each.change for each in (made, *controls)]
    gr.on(triggers, None, None, download, js=DISABLE, **EACH)
    gr.on(triggers, handlers.show, [stamp, made, *controls], [download, done, table], js=STAMPED, **NEWEST)
    handlers.wire_run([start.click], handlers.denoise, [stamp, *controls], [line, made, table], (start, stop), table)
