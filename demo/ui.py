"""The page: layout and wiring. What happens on an event is in the handlers' modules; `app.py` calls this one."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLCONFIGDIR", os.path.join(tempfile.gettempdir(), "mdrn-demo-matplotlib"))  # not at home

import gradio as gr  # noqa: E402, after its telemetry is off and its files are where they may be

from demo import comparison, service, upload, views  # noqa: E402
from demo.api import Api, wire  # noqa: E402
from demo.benchmark_tab import benchmark_tab  # noqa: E402
from demo.compare_handlers import COLUMNS, Compare, offer  # noqa: E402
from demo.files_tab import Files, files_tab  # noqa: E402
from demo.handlers import EXAMPLES, LEVEL_HINT, VIEWS, Denoise, Stops, choices, describe, model_card  # noqa: E402
from demo.workspace import KEEP_SECONDS, Workspace  # noqa: E402
from mdrn.noise import MAX_NOISE_LEVEL  # noqa: E402

TITLE = "MDRN image denoising"
INTRO = f"""# {TITLE}
Takes Gaussian noise out of a photograph, keeps its size, bit depth and transparency, and shows what was taken away."""
NO_NETWORK = (
    "No network is released with this copy yet: train one (`python -m mdrn train`) and put it in `mdrn/weights/`."
)
ABOUT = Path(__file__).parent / "about.md"
HEAD = Path(__file__).parent / "head.html"
MAX_WAITING = 40
VIEW_HEIGHT = 350
_NETWORK = {"concurrency_id": "network", "concurrency_limit": 1}  # one image at a time goes through a network
_LIGHT = {"concurrency_id": "light", "concurrency_limit": 2}
_PRIVATE = {"api_visibility": "private"}
_QUIET = {"show_progress": "hidden"}
_PICTURE = {"format": "png", "type": "filepath", "interactive": False, "buttons": ["fullscreen"]}

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
CSS = """
.gradio-container { --layout-gap: 12px; padding-top: 8px !important; }
.gradio-container > main, main.fillable { padding-top: 8px !important; }
.gradio-container h1 { font-size: 1.3rem !important; margin: 0 !important; }
.gradio-container .prose p { margin: 2px 0; }
.caption-label { white-space: normal !important; max-width: 100% !important; }
#compare-images .grid-wrap, #compare-differences .grid-wrap { max-height: none !important; }
.vega-embed .role-legend { display: none; }
footer .divider { display: none !important; }
:focus-visible { outline: 2px solid var(--primary-500) !important; outline-offset: 1px; }
.reading { max-width: 46rem; }
.reading .prose p, .reading .prose li { margin: 8px 0; }
@media (max-width: 640px) {
  .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
  button[role="tab"] { padding-inline: 6px !important; }
  .grid-container { padding-top: 24px; }
}
"""


def build() -> gr.Blocks:
    """Lay out the page and wire its events; reads the released networks and starts nothing."""
    workspace = Workspace(Path(gr.utils.get_upload_folder()) / "results")
    stops = Stops()
    denoise, compare, files = Denoise(workspace, stops), Compare(workspace), Files(workspace, stops)
    networks = choices()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, KEEP_SECONDS)) as page:
        wire(Api(workspace), _NETWORK, _LIGHT)  # first, so that no other event takes its names
        gr.Markdown(INTRO)
        with gr.Tabs() as tabs:
            with gr.Tab("Denoise", id="denoise"):
                _denoise_tab(page, denoise, networks)
            with gr.Tab("Several files", id="files"):
                files_tab(files, networks, _NETWORK, _PRIVATE)
            with gr.Tab("Compare", id="compare"):
                _compare_tab(page, tabs, compare)
            with gr.Tab("Benchmark", id="benchmark"):
                benchmark_tab()
            with gr.Tab("About", id="about"):
                about = ABOUT.read_text(encoding="utf-8").replace("{networks}", model_card() or NO_NETWORK)
                gr.Markdown(about, elem_classes="reading")
        page.unload(denoise.leave)
    page.workspace = workspace
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=2)


def launch(page: gr.Blocks, **options: object):
    """Serve the page with its look and its limits; `options` are those of Gradio's `launch`."""
    page.workspace.keep_swept()
    return page.launch(
        theme=THEME,
        css=CSS,
        head=HEAD.read_text(encoding="utf-8"),
        max_file_size=service.MAX_FILE_SIZE,
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        **options,
    )


def _denoise_tab(page: gr.Blocks, handlers: Denoise, offered: list[tuple[str, str]]) -> None:
    ready, first = bool(offered), offered[0][1] if offered else None
    job, view = gr.State(None, time_to_live=KEEP_SECONDS), gr.State(VIEWS[0])
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            image = _image_field("Image", "upload")
            about = gr.Markdown(elem_id="about-image")
            with gr.Row():
                start = gr.Button("Denoise", variant="primary", interactive=ready, scale=3, elem_id="start")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
            with gr.Row(equal_height=True):
                automatic = gr.Checkbox(True, label="Estimate the noise level", min_width=140, elem_id="automatic")
                level = gr.Slider(0, MAX_NOISE_LEVEL, 25, step=0.1, label="Noise level", min_width=180, elem_id="level")
            network = gr.Dropdown(offered, value=first, label="Network", filterable=False)
            note = gr.Markdown(describe(first) if ready else NO_NETWORK, elem_id="about-network")
            gr.Examples([[str(path)] for path in EXAMPLES], [image], label="Examples", **_PRIVATE)
        with gr.Column(scale=3, min_width=320):
            tabs, panes, across, down = _panes()
            strength = gr.Slider(
                0, 1, 1, step=0.01, label="Strength", info="0 is the upload, 1 the full effect.", elem_id="strength"
            )
            with gr.Row(equal_height=True):
                download = gr.DownloadButton("Download", interactive=False, variant="primary", elem_id="download")
                keep = gr.Checkbox(True, label="Keep metadata", info="camera, date, place", min_width=120)
                as_png = gr.Checkbox(False, label="Always PNG", info="lossless, also for JPEG", min_width=120)
            done = gr.Markdown(elem_id="summary")

    inputs, settings = [image, automatic, level, network], [strength, view, keep, as_png, across, down]
    shown = {"outputs": panes, **_QUIET, **_LIGHT, **_PRIVATE}
    image.change(handlers.inspect, [image, network], [about, level, image], **_QUIET, **_LIGHT, **_PRIVATE)
    network.change(handlers.choose, network, [note, level, automatic], **_QUIET, **_LIGHT, **_PRIVATE)
    level.input(lambda: False, None, automatic, queue=False, **_QUIET, **_PRIVATE)
    results = [job, done, level, download, *panes]
    running = start.click(
        handlers.denoise, [*inputs, *settings, job], results, show_progress_on=panes[0], **_NETWORK, **_PRIVATE
    )
    stop.click(handlers.stops.stop, None, None, queue=False, **_PRIVATE)
    stop.click(None, None, None, cancels=[running], **_PRIVATE)
    again = [strength.release, keep.input, as_png.input]
    gr.on(again, handlers.render, [job, *settings], [download, *panes], **_QUIET, **_LIGHT, **_PRIVATE)
    look = [job, strength, view, across, down]
    for name, tab in zip(VIEWS, tabs, strict=True):
        opened = tab.select(functools.partial(str, name), None, view, queue=False, **_QUIET, **_PRIVATE)
        opened.then(handlers.show, look, **shown)
    gr.on([across.release, down.release], handlers.show, look, **shown)
    if ready:
        opened = page.load(handlers.open_example, None, image, **_QUIET, **_LIGHT, **_PRIVATE)
        opened.success(handlers.denoise, [*inputs, *settings, job], results, **_QUIET, **_NETWORK, **_PRIVATE)


def _image_field(label: str, elem_id: str) -> gr.Image:
    return upload.Image(
        label=label,
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard", "webcam"],
        height=170,
        buttons=["fullscreen"],
        placeholder="Drop an image here\nPNG, JPEG, WebP, TIFF or BMP, 8 or 16 bits",
        alt_text="The image to work on",
        elem_id=elem_id,
    )


def _panes():
    with gr.Tabs():
        with gr.Tab("Before / after") as tab_slider:
            label = "Before on the left, after on the right"
            slider = gr.ImageSlider(label=label, max_height=VIEW_HEIGHT, elem_id="slider", image_mode=None, **_PICTURE)
        with gr.Tab("Close-up") as tab_close:
            label = f"{views.CLOSE_UP_PIXELS} × {views.CLOSE_UP_PIXELS} pixels, enlarged: before, after"
            close_up = gr.ImageSlider(label=label, max_height=VIEW_HEIGHT, image_mode=None, **_PICTURE)
            with gr.Row():
                across = gr.Slider(0, 1, 0.5, step=0.01, label="Left to right", min_width=140)
                down = gr.Slider(0, 1, 0.5, step=0.01, label="Top to bottom", min_width=140)
        with gr.Tab("Removed noise") as tab_removed:
            label = f"Upload minus result, {views.RESIDUAL_GAIN} times stronger, around mid grey"
            removed = gr.Image(label=label, height=VIEW_HEIGHT, alt_text="What the network took away", **_PICTURE)
        with gr.Tab("Stage by stage") as tab_stages:
            label = "The image after each stage of the network, at full strength"
            stages = gr.Gallery(label=label, columns=3, height=VIEW_HEIGHT, object_fit="contain", **_PICTURE)
    return [tab_slider, tab_close, tab_removed, tab_stages], [slider, close_up, removed, stages], across, down


def _compare_tab(page: gr.Blocks, tabs: gr.Tabs, handlers: Compare) -> None:
    names = list(comparison.photographs())
    offered, chosen, lacking = offer(None, names[0], 25)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(
                "Noise is added to a clean image, each method takes it out, and the results are scored against it."
            )
            photograph = gr.Dropdown(names, value=names[0], label="Clean photograph", filterable=False)
            with gr.Accordion("Or your own clean image", open=False):
                image = _image_field("Clean image", "clean")
            with gr.Row():
                level = gr.Radio(
                    list(comparison.LEVELS), value=25, label="Noise level", info=LEVEL_HINT, scale=3, min_width=220
                )
                seed = gr.Number(
                    0, label="Seed", info="Another seed, other noise.", precision=0, minimum=0, scale=2, min_width=120
                )
            methods = gr.CheckboxGroup(offered, value=chosen, label="Methods")
            missing = gr.Markdown(lacking)
            start = gr.Button("Compare", variant="primary", elem_id="compare-start")
        with gr.Column(scale=3, min_width=320):
            table = gr.Dataframe(headers=COLUMNS, label="Scores", interactive=False, buttons=["copy"], elem_id="scores")
            note = gr.Markdown("Press *Compare*: it takes a few seconds, most of them for the classical methods.")
            with gr.Tabs():
                with gr.Tab("Images"):
                    images = gr.Gallery(
                        label="Results",
                        columns=3,
                        height="auto",
                        object_fit="contain",
                        elem_id="compare-images",
                        **_PICTURE,
                    )
                with gr.Tab("Differences"):
                    label = f"Absolute error, one scale: black 0, white {255 // comparison.DIFFERENCE_GAIN + 1} or more"
                    differences = gr.Gallery(
                        label=label,
                        columns=3,
                        height="auto",
                        object_fit="contain",
                        elem_id="compare-differences",
                        **_PICTURE,
                    )
    asked, results = [photograph, level, seed, methods], [table, note, images, differences]
    changed = [level.input, photograph.input, image.change]
    gr.on(changed, handlers.offer, [image, photograph, level], [methods, missing], **_QUIET, **_LIGHT, **_PRIVATE)
    options = {"show_progress_on": table, **_NETWORK, **_PRIVATE}
    start.click(handlers.compare, [image, *asked], results, **options)
    linked = page.load(handlers.open_link, None, [tabs, *asked], queue=False, **_QUIET, **_PRIVATE)
    linked.then(handlers.compare_linked, asked, results, **options)
