"""The Compare tab: noise is added to a clean image, each method takes it out, and the results are scored against it."""

import dataclasses
import functools
import os
from operator import attrgetter, itemgetter
from pathlib import Path

import gradio as gr
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from demo import comparison, events, service, views
from demo.comparison import Comparison, Result
from demo.errors import DemoError, Stopped
from demo.events import AT_ONCE, NEWEST, PICTURE, PROGRESS, STAMPED, notice, styled
from mdrn import metrics

COLUMNS = ["Method", "PSNR, dB", "SSIM", "LPIPS", "Seconds", "Params, M"]
_CROP, _SCALE = 192, 3
_AGAIN = "Nothing to show for these settings yet: press **Compare**."
_HINT = "Noise is added to a clean image, each method takes it out, and the results are scored against it."


@dataclasses.dataclass(frozen=True, eq=False)  # Gradio hashes states, and a table has no hash
class Made:
    """A comparison on disk."""

    asked: tuple  # the values of the controls that it was made from
    folder: Path  # holds a picture of each method
    scores: pd.DataFrame  # the table
    note: str  # what the scores are of
    captions: dict[str, str]  # method -> what is written under its picture; 'clean' and 'noisy' are methods here


class Compare(events.Tab):
    """What happens on each event."""

    def compare(self, request: gr.Request, stamp: float, progress: gr.Progress = PROGRESS, *values):
        """Run a comparison and keep it for this session; end when another one is asked for."""
        image, photograph, level, seed, methods = self.note(request, stamp, values)
        path, seed = _path(image, photograph), int(seed or 0)
        report = functools.partial(progress, desc="Comparing", unit="methods")
        try:
            offered = comparison.choices(level, comparison.colours_of(path))
            ordered = [method for _, method in offered if method in methods]
            if not ordered:
                raise DemoError("Tick at least one method.")
            with self.work(request, values, report) as (folder, step):
                made = comparison.compare(path, level, seed, ordered, step)
                link = None if image else comparison.link(photograph, level, seed, ordered)
                kept = keep(made, folder, _asked(*values), describe(made, level, link))
        except (DemoError, Stopped) as error:
            return self.only(request, values, (notice(error.sentence), *[gr.skip()] * 3))
        names = [("clean", "clean"), *((comparison.name_of(each.method), each.method) for each in made.results)]
        best = max(made.results, key=attrgetter("psnr")).method
        answer = notice(), kept, gr.Dropdown(names, value="noisy"), gr.Dropdown(names, value=best)
        return self.only(request, values, answer)

    def show(self, request: gr.Request, stamp: float, made: Made | None, left: str, right: str, spot, *values):
        """Show the comparison if it is what the controls ask for."""
        self.note(request, stamp, values)
        if made is None or made.asked != _asked(*values) or not made.folder.exists():
            nothing = None, "" if made is None else _AGAIN, *[None] * 4
            return self.only(request, values, nothing)
        os.utime(made.folder)
        place = spot[1:] if spot and spot[0] == made.asked else (0.5, 0.5)
        chosen = [name if name in made.captions else "clean" for name in (left, right)]
        with Image.open(made.folder / "clean.png") as clean:
            part = views.part_at(clean.size[::-1], (_CROP, _CROP), place)
        pair = tuple(enlarged(made, name, part) for name in chosen)
        captions = made.captions.items()
        pictures = [(str(made.folder / f"{name}.png"), caption) for name, caption in captions]
        errors = [(str(made.folder / f"error_{name}.png"), caption) for name, caption in captions if name != "clean"]
        answer = styled(made.scores), made.note, pair, outlined(made, part), pictures, errors
        return self.only(request, values, answer)

    def offer(self, request: gr.Request, stamp: float, *values):
        """Offer the methods for an image and a level."""
        image, photograph, level, *_ = self.note(request, stamp, values)
        try:
            colours = comparison.colours_of(_path(image, photograph))
            first = comparison.first_choice(level, colours)
            answer = notice(), gr.CheckboxGroup(comparison.choices(level, colours), value=first)
        except DemoError as error:
            answer = notice(error.sentence), gr.skip()
        return self.only(request, values, answer, itemgetter(0, 1, 2))

    def place(self, made: Made | None, event: gr.SelectData):
        """Note where the small picture was clicked."""
        if made is None or not made.folder.exists():
            return gr.skip()
        with Image.open(made.folder / "clean.png") as clean:
            return made.asked, event.index[0] / clean.width, event.index[1] / clean.height


def _asked(image: str | None, photograph: str, level: int, seed: int, methods: list[str]) -> tuple:
    return image or photograph, level, int(seed or 0), tuple(sorted(methods))


def keep(made: Comparison, folder: Path, asked: tuple, note: str) -> Made:
    """Write the pictures of a comparison, and return what is shown of it."""
    Image.fromarray(made.clean).save(folder / "clean.png")
    captions = {"clean": "clean"}
    for result in made.results:
        Image.fromarray(result.image).save(folder / f"{result.method}.png")
        Image.fromarray(comparison.difference(result, made.clean)).save(folder / f"error_{result.method}.png")
        captions[result.method] = f"{result.psnr:.2f} dB, {comparison.name_of(result.method)}"
    return Made(asked, folder, scores(made.results), note, captions)


def enlarged(made: Made, method: str, part: tuple[slice, slice]) -> str:
    """Write the chosen part of a method's picture, each pixel as a block."""
    rows, columns = part
    path = made.folder / f"part_{method}_{columns.start}_{rows.start}.png"
    if not path.exists():
        pixels = np.asarray(Image.open(made.folder / f"{method}.png"))[part]
        Image.fromarray(pixels.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)).save(path)
    return str(path)


def outlined(made: Made, part: tuple[slice, slice]) -> str:
    """Write the clean image with the chosen part outlined."""
    rows, columns = part
    path = made.folder / f"where_{columns.start}_{rows.start}.png"
    if not path.exists():
        image = Image.open(made.folder / "clean.png").convert("RGB")
        box = [columns.start, rows.start, min(columns.stop, image.width) - 1, min(rows.stop, image.height) - 1]
        ImageDraw.Draw(image).rectangle(box, outline="white", width=3)
        image.save(path)
    return str(path)


def _path(image: str | None, photograph: str) -> Path:
    return Path(image) if image else comparison.photographs()[photograph]


def scores(results: list[Result]) -> pd.DataFrame:
    """Return the table of scores, best first."""
    rows = []
    for each in results:
        millions = each.parameters / 1e6 if each.parameters else None
        rows.append((comparison.name_of(each.method), each.psnr, each.ssim, each.lpips, each.seconds, millions))
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("PSNR, dB", ascending=False)
    return frame.drop(columns="LPIPS") if frame["LPIPS"].isna().all() else frame


def describe(made: Comparison, level: int, link: str | None) -> str:
    """Return what the scores are of, and a link that makes them again."""
    height, width = made.clean.shape[:2]
    where = ", the middle of the image" if made.cropped else ""
    return (
        f"{width} × {height} pixels{where}; every method is told the noise level, {level}. "
        "PSNR and SSIM: higher is closer to the clean image. The noisy image is scored clipped. "
        + ("LPIPS: lower looks closer. " if made.results[0].lpips is not None else "")
        + (f"[A link to exactly this comparison]({link})" if link else "Comparisons of your own image have no link.")
    )


def layout(tab: gr.Tab, handlers: Compare) -> list:
    """Lay the tab out and wire it; return the controls that a link sets."""
    names = list(comparison.photographs())
    made, spot, go = (gr.State(None) for _ in range(3))
    stamp = gr.Number(visible=False)
    colours = comparison.colours_of(_path(None, names[0]))
    columns = [name for name in COLUMNS if name != "LPIPS" or metrics.lpips_available()]
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(_HINT)
            photograph = gr.Dropdown(names, label="Clean photograph", filterable=False, elem_id="photograph")
            with gr.Accordion("Or your own clean image", open=False):
                image = gr.File(label="Clean image", file_types=service.accepted(), height=110, elem_id="clean")
            level = gr.Radio(list(comparison.LEVELS), value=25, label="Noise level", elem_id="noise")
            offered, first = comparison.choices(25, colours), comparison.first_choice(25, colours)
            methods = gr.CheckboxGroup(offered, value=first, label="Methods", elem_id="methods")
            seed = gr.Number(0, label="Seed", info="Another seed, other noise.", precision=0, minimum=0, elem_id="seed")
            line = gr.Markdown(visible=False, elem_id="compare-notice", elem_classes="notice")
            with gr.Row():
                start = gr.Button("Compare", variant="primary", scale=3, elem_id="compare-start")
                stop = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id="compare-stop")
            where = gr.Image(
                label="Click to choose the part that is enlarged", height=220, elem_id="compare-where",
                alt_text="The clean image; the frame is the part that is enlarged", **{**PICTURE, "buttons": []},
            )  # fmt: skip
        with gr.Column(scale=3, min_width=320):
            table = gr.Dataframe(
                headers=columns, label="Scores", interactive=False, buttons=["copy"], wrap=True,
                column_widths=["190px", *[f"{475 // (len(columns) - 1)}px"] * (len(columns) - 1)], elem_id="scores",
            )  # fmt: skip
            note = gr.Markdown(elem_id="compare-note")
            with gr.Row():
                left = gr.Dropdown(["noisy"], value="noisy", label="Left", filterable=False, min_width=200)
                right = gr.Dropdown(["clean"], value="clean", label="Right", filterable=False, min_width=200)
            label = f"The same part of both, {_SCALE} times enlarged"
            pair = gr.ImageSlider(label=label, max_height=_CROP * _SCALE, elem_id="pair", **PICTURE)
            gr.Button("Hold for the left one (O)", elem_id="compare-original")
            gallery = {"columns": 3, "height": "auto", "object_fit": "contain", **PICTURE}
            with gr.Tabs():
                with gr.Tab("Images"):
                    images = gr.Gallery(label="Results", elem_id="compare-images", **gallery)
                with gr.Tab("Differences"):
                    label = f"Absolute error, one scale: black 0, white {255 // comparison.DIFFERENCE_GAIN + 1} or more"
                    differences = gr.Gallery(label=label, elem_id="compare-differences", **gallery)
    asked = [image, photograph, level, seed, methods]
    handlers.wire_newest(stamp, asked)
    looked, shown = [made, left, right, spot], [table, note, pair, where, images, differences]
    show = {"fn": handlers.show, "inputs": [stamp, *looked, *asked], "outputs": shown, "js": STAMPED, **NEWEST}
    gr.on([each.change for each in (*looked, seed, methods)], **show)
    changed = [level.input, photograph.input, image.change]  # what is offered first: Gradio refuses ticks not on offer
    gr.on(changed, handlers.offer, [stamp, *asked], [line, methods], js=STAMPED, **NEWEST).then(**show)
    where.select(handlers.place, made, spot, **AT_ONCE)
    tab.select(lambda: "first visit", None, go, **AT_ONCE)
    begin, outputs = [start.click, go.change], [line, made, left, right]
    handlers.wire_run(begin, handlers.compare, [stamp, *asked], outputs, (start, stop), table)
    return [photograph, level, seed, methods]
