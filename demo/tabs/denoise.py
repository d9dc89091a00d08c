"""The Denoise tab: one image in, its result in its own format out.

All that is shown is a function of the controls and the last job (`Denoise.show`, `Denoise.offer`), called anew on every
change: so the download is always what the controls say, and there is none while they ask for what has not been made.
"""

import contextlib
import functools
import shutil
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from demo import catalogue, events, service, views
from demo.errors import DemoError, Stopped, told_to_the_visitor
from demo.events import AT_ONCE, DISABLE, EACH, NEWEST, PICTURE, PROGRESS, STAMPED, WRITING, notice
from demo.service import Asked, Job

_EXAMPLE_NAMES = ("coffee_camera.png", "chelsea_15.png", "camera_25.png")  # a photograph first: most people bring one
EXAMPLES = [Path(__file__).parents[1] / "examples" / name for name in _EXAMPLE_NAMES]
VIEWS = {"crop": "Close-up", "whole": "Whole image", "removed": "Removed noise", "stages": "Stage by stage"}
STRENGTHS = {"Light": 0.5, "Medium": 0.75, "Strong (recommended)": 1.0}
AGAIN = "**Denoise** makes the result for this image and these settings."
IMAGE, ASKED = attrgetter("image"), attrgetter("asked")  # what each answer depends on
FILE = attrgetter("asked", "strength", "keep", "as_png")
_LABEL = 26  # pixels, above a picture
_SCROLL = "() => { if (innerWidth < 640) document.getElementById('result').scrollIntoView(); }"


class Controls(NamedTuple):
    """The values of all controls, in the order in which they are wired."""

    image: str | None
    network: str
    automatic: bool
    level: float
    exact: str
    keep: bool
    as_png: bool
    strength: float
    view: str
    spot: tuple[str, float, float] | None
    seen: tuple[str, str] | None

    @property
    def asked(self) -> Asked | None:
        """What the controls ask the network for."""
        level = None if self.automatic else self.level
        return Asked(self.image, level, self.exact or self.network, self.strength) if self.image else None

    @property
    def place(self) -> views.Spot | None:
        """The crop that was chosen on this image."""
        return self.spot[1:] if self.spot and self.spot[0] == self.image else None

    @property
    def thumbnail(self) -> str | None:
        """The small picture of this image."""
        return self.seen[1] if self.seen and self.seen[0] == self.image else None


class Denoise(events.Tab):
    """What happens on each event."""

    controls = Controls._make

    def inspect(self, request: gr.Request, stamp: float, *values):
        """Describe a new image and show it small; set the level to its estimate.

        Gradio repeats the event of a call that others waited for: of an image that has been seen, nothing may change.
        """
        controls = self.note(request, stamp, values)
        image = controls.image
        if controls.seen and controls.seen[0] == image:
            return (gr.skip(),) * 4
        answer = notice(), "", gr.skip(), None
        if image is not None:
            try:
                source, estimate = service.inspect(Path(image))
                shown = views.thumbnail(source, self.workspace.new(request.session_hash) / "upload.png")
                about = f"{service.kind(source)}. Estimated noise level {estimate:.1f}."
                level = round(estimate, 1) if controls.automatic else gr.skip()
                answer = notice(), about, level, (image, shown)
            except DemoError as error:
                answer = notice(error.sentence), "", gr.skip(), None
        return self.only(request, controls, answer, IMAGE)

    def denoise(self, request: gr.Request, stamp: float, progress: gr.Progress = PROGRESS, job: Job = None, *values):
        """Run the network on the upload and keep the job for this session; end when something else is asked for."""
        controls = self.note(request, stamp, values)
        asked, made, said = controls.asked, gr.skip(), ""
        report = functools.partial(progress, desc="Denoising", unit="tiles")
        try:
            if asked is None:
                raise DemoError("Choose an image: upload one, or take an example.")
            with self.work(request, controls, report, ASKED) as (folder, step):
                made = service.denoise(asked, folder, step)
            if job is not None:
                self.workspace.discard(request.session_hash, job.folder)
        except (DemoError, Stopped) as error:
            said = error.sentence
        return self.only(request, controls, (notice(said),), ASKED)[0], made

    def show(self, request: gr.Request, stamp: float, job: Job | None, *values):
        """Show what the controls ask for, or that it has not been made."""
        controls = self.note(request, stamp, values)
        nothing = (AGAIN if controls.image else "", controls.thumbnail, *[None] * len(VIEWS))
        if job is None or job.asked != controls.asked:
            return self.only(request, controls, nothing)
        strength, place = controls.strength, controls.place
        makers = {
            "crop": lambda: views.crop(job, strength, place),
            "whole": lambda: views.whole(job, strength),
            "removed": lambda: views.removed(job, strength, place),
            "stages": lambda: views.stages(job, place),
        }
        try:
            with told_to_the_visitor():
                panes = [makers[name]() if name == controls.view else gr.skip() for name in VIEWS]
                answer = summary(job, strength), views.navigator(job, place), *panes
        except DemoError as error:
            answer = error.sentence, *nothing[1:]
        return self.only(request, controls, answer)

    def offer(self, request: gr.Request, stamp: float, job: Job | None, *values):
        """Offer the download that the controls ask for, if it has been made."""
        controls = self.note(request, stamp, values)
        button = gr.DownloadButton("Download", value=None, interactive=False)
        if job is not None and job.asked == controls.asked:
            with contextlib.suppress(DemoError):  # which `show` says
                made = service.write_result(job, controls.strength, controls.keep, controls.as_png)
                button = gr.DownloadButton(f"Download {made.suffix[1:].upper()}", value=str(made), interactive=True)
        return self.only(request, controls, (button,), FILE)[0]

    def place(self, image: str | None, job: Job | None, event: gr.SelectData):
        """Note where the small picture was clicked, as a share of its sides."""
        if job is None or not job.folder.exists():
            return gr.skip()
        height, width = job.stage(0).shape[:2]
        scale = min(1.0, views.NAVIGATOR_SIDE / max(height, width))
        return image, event.index[0] / (width * scale), event.index[1] / (height * scale)

    def take_example(self, index: int, request: gr.Request):
        """Put an example into the place of the upload, and ask for a run."""
        path = str(shutil.copy(EXAMPLES[index], self.workspace.new(request.session_hash)))
        return path, path


def summary(job: Job, strength: float) -> str:
    """Return what was done, in one paragraph."""
    how = ("estimated" if job.estimated else "as set") + (", raised by the strength" if job.asked.strength > 1 else "")
    name = catalogue.find(job.model).title
    text = f"**Noise level {job.noise_level:.1f}** ({how}) removed by “{name}” in **{job.seconds:.1f} s**"
    text += f", strength {strength:.2f}. {job.kind}."
    if job.per_channel:
        text += " It is a grey network, so red, green and blue were restored one by one."
    return text


def layout(page: gr.Blocks, handlers: Denoise) -> None:
    """Lay the tab out and wire it."""
    job, spot, seen, go = (gr.State(None) for _ in range(4))
    view, stamp = gr.State("crop"), gr.Number(visible=False)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            label = "Image (PNG, JPEG, WebP, TIFF or BMP)"
            image = gr.File(label=label, file_types=service.accepted(), height=130, elem_id="upload")
            line = gr.Markdown(visible=False, elem_id="notice", elem_classes="notice")
            with gr.Row():
                start = gr.Button("Denoise", variant="primary", scale=3, elem_id="start")
                stop = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id="stop")
            navigator = gr.Image(
                label="Click to choose the part shown at 100 %", height=180, show_label=True, elem_id="navigator",
                alt_text="Your image; the frame is the part at 100 %", **{**PICTURE, "buttons": []},
            )  # fmt: skip
            about = gr.Markdown(elem_id="about-image")
            examples = gr.Dataset(
                label="Examples", components=[gr.Image(render=False)], samples=[[str(path)] for path in EXAMPLES],
                type="index", elem_id="examples",
            )  # fmt: skip
            network = events.network_picker("network")
            further = events.advanced("advanced")
        with gr.Column(scale=3, min_width=320, elem_id="result"):
            panes = _panes(view)
            with gr.Row():
                strength = events.strength_slider("strength", scale=3, min_width=300)
                with gr.Column(scale=1, min_width=170, elem_classes="presets"):
                    for name, value in STRENGTHS.items():
                        preset = gr.Button(name, size="sm", elem_id=f"strength-{name.split()[0].lower()}")
                        preset.click(functools.partial(float, value), None, strength, **AT_ONCE)
            with gr.Row():
                download = gr.DownloadButton(
                    "Download", interactive=False, variant="primary", scale=2, min_width=200, elem_id="download"
                )
                gr.Button("Hold for the original (O)", scale=1, min_width=200, elem_id="original")
            done = gr.Markdown(elem_id="summary")
    file = [image, network, *further, strength]
    controls = [*file, view, spot, seen]
    disabled = gr.on([each.change for each in (job, *file)], None, None, download, js=DISABLE, **EACH)
    handlers.wire_newest(stamp, controls)
    sent = [stamp, job, *controls]
    changed, shown = [each.change for each in (job, *controls)], [done, navigator, *panes]
    gr.on(changed, handlers.show, sent, shown, js=STAMPED, **NEWEST)
    disabled.then(handlers.offer, sent, download, js=STAMPED, **WRITING)
    empty = "() => ['', '', null, null, null, null, null]"
    image.clear(None, None, [about, *shown], js=empty, **AT_ONCE)  # before an answer
    job.change(None, None, None, js=_SCROLL, **EACH)
    level = further[1]
    brought = image.change(None, None, None, js="() => {}", **EACH)
    brought.then(handlers.inspect, [stamp, *controls], [line, about, level, seen], js=STAMPED, **NEWEST)
    navigator.select(handlers.place, [image, job], spot, **AT_ONCE)
    examples.click(handlers.take_example, examples, [image, go], **AT_ONCE)
    page.load(handlers.take_example, gr.State(0), [image, go], **AT_ONCE)  # something to look at for a new visitor
    handlers.wire_run([start.click, go.change], handlers.denoise, sent, [line, job], (start, stop), panes[0])


def _panes(view: gr.State) -> list:
    """Lay out the views of a result; `view` becomes the name of the open one."""
    height = views.CROP_HEIGHT
    before_after = "before on the left, after on the right"
    with gr.Tabs(elem_id="views", overflow_behavior="wrap"):
        tabs = {name: gr.Tab(words) for name, words in VIEWS.items()}
        for name, tab in tabs.items():
            tab.select(functools.partial(str, name), None, view, **AT_ONCE)
        with tabs["crop"]:
            crop = gr.ImageSlider(label=f"At 100 %: {before_after}", max_height=height, elem_id="crop", **PICTURE)
        with tabs["whole"]:
            whole = gr.ImageSlider(label=before_after.capitalize(), max_height=height, elem_id="whole", **PICTURE)
        with tabs["removed"]:
            label = f"Upload minus result at 100 %, {views.RESIDUAL_GAIN} times stronger, around mid grey"
            removed = gr.Image(label=label, height=height + _LABEL, alt_text=label, elem_id="removed", **PICTURE)
        with tabs["stages"]:
            gallery = {"columns": 3, "height": height + _LABEL, "object_fit": "contain", **PICTURE}
            stages = gr.Gallery(label="The same part after each stage, at full strength", elem_id="stages", **gallery)
    return [crop, whole, removed, stages]
