"""The page: its tabs, its look and its limits. `app.py` calls this module."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLCONFIGDIR", os.path.join(tempfile.gettempdir(), "mdrn-demo-matplotlib"))  # not at home

import gradio as gr  # noqa: E402, after its telemetry is off and its files are where they may be

from demo import catalogue, comparison, service  # noqa: E402
from demo.api import Api, wire  # noqa: E402
from demo.events import AT_ONCE, notice  # noqa: E402
from demo.tabs import benchmark, compare, denoise, files  # noqa: E402
from demo.workspace import KEEP_SECONDS, Workspace  # noqa: E402

TITLE = "MDRN image denoising"
INTRO = f"**{TITLE}.** Removes noise from an image and keeps its size, bit depth and transparency."
TABS = {"denoise": "Denoise", "files": "Several files", "compare": "Compare"}
TABS |= {"benchmark": "Benchmark", "about": "About"}
BAD_LINK = "This link asks for something that this page does not have, so it opened as usual."
MAX_WAITING = 40
_FOLDER = Path(__file__).parent

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    body_text_color_subdued="*neutral_600",
    block_info_text_color="*neutral_600",
    block_label_text_color="*neutral_700",
    block_info_text_color_dark="*neutral_300",
    body_text_color_subdued_dark="*neutral_300",
    block_label_text_color_dark="*neutral_200",
)


def build() -> gr.Blocks:
    """Lay out the page and wire its events; reads the released networks and starts nothing."""
    workspace = Workspace(Path(gr.utils.get_upload_folder()) / "results")
    first, several, scores = denoise.Denoise(workspace), files.Files(workspace), compare.Compare(workspace)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, KEEP_SECONDS)) as page:
        wire(Api(workspace))  # first, so that no other event takes its names
        gr.Markdown(INTRO)
        line = gr.Markdown(visible=False, elem_id="link-notice", elem_classes="notice")
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            opened = {name: gr.Tab(words, id=name, elem_id=f"tab-{name}") for name, words in TABS.items()}
            with opened["denoise"]:
                denoise.layout(page, first)
            with opened["files"]:
                files.layout(several)
            with opened["compare"]:
                asked = compare.layout(opened["compare"], scores)
            with opened["benchmark"]:
                benchmark.layout()
            with opened["about"]:
                networks = "\n".join(f"- {network.title}, {network}" for network in catalogue.networks())
                about = (_FOLDER / "about.md").read_text(encoding="utf-8").replace("{networks}", networks)
                gr.Markdown(about, elem_classes="reading")
        for name, tab in opened.items():
            tab.select(None, None, None, js=f"() => window.mdrnTab('{name}')", **AT_ONCE)
        linked = page.load(open_link, None, [tabs, line, *asked], **AT_ONCE)
        linked.then(None, None, None, js="() => { window.mdrnOpened = true; }", **AT_ONCE)
        for each in (first, several, scores):
            page.unload(each.leave)
    page.workspace = workspace
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=2)


def open_link(request: gr.Request):
    """Open the tab, and make the comparison, that a link asks for; say so if there is no such thing."""
    query = dict(request.query_params)
    tab = query.get("tab")
    if asked := comparison.from_link(query):
        photograph, level, seed, methods = asked
        colours = comparison.colours_of(comparison.photographs()[photograph])
        boxes = gr.CheckboxGroup(comparison.choices(level, colours), value=methods)
        return gr.Tabs(selected="compare"), notice(), photograph, level, seed, boxes
    bad = (tab is not None and tab not in TABS) or bool({"photograph", "level", "seed", "methods"} & set(query))
    selected = gr.Tabs(selected=tab) if tab in TABS else gr.skip()
    return selected, notice(BAD_LINK if bad else ""), *[gr.skip()] * 4


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    raise gr.Error("Please upload the file itself; addresses are not opened.", print_exception=False)


def launch(page: gr.Blocks, **options: object):
    """Serve the page with its look and its limits; `options` are those of Gradio's `launch`."""
    page.workspace.keep_swept()
    gr.processing_utils.async_ssrf_protected_download = _fetch_nothing  # Gradio fetches an address sent as a file
    return page.launch(
        theme=THEME,
        css_paths=_FOLDER / "page.css",
        head_paths=_FOLDER / "page.html",
        max_file_size=service.MAX_FILE_SIZE,
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        **options,
    )
