"""The Benchmark tab: what the benchmark measured, and what others published, from `results/summary.csv` alone."""

from pathlib import Path

import gradio as gr
import pandas as pd

from demo import benchmark
from demo.events import AT_ONCE

NOTHING = (
    "No benchmark results come with this copy. `python -m benchmark.run` evaluates the released networks, writes them "
    "into `results/`, and they appear here."
)
_SOURCES = """Methods marked *published* have the numbers that their authors printed; all others were measured here on
the same noise. Times are of one image of 512 × 512 pixels on the CPU. `python -m benchmark.run` measures again; the
sources are in the repository, in `results/README.md`."""


_NOISE = f"""Another seed alone changes the mean on Set12 by about {benchmark.SEED_DB} dB: a smaller difference, in the
grey band, says nothing."""


def layout(results: Path = benchmark.RESULTS) -> None:
    """Lay out the tab for a results folder, or say how to get one."""
    frame = benchmark.read(results)
    topics = benchmark.topics(frame) if frame is not None else []
    if not topics:
        gr.Markdown(NOTHING)
        return
    set_name = "BSD68" if "BSD68" in topics else topics[0]
    with gr.Row():
        with gr.Column(min_width=320):
            gr.Markdown("### How good, and how fast")
            gr.HTML(benchmark.quality_against_time(frame, set_name), elem_id="quality", elem_classes="drawing")
        drawing = benchmark.strategies(frame)
        if drawing:
            with gr.Column(min_width=320):
                gr.Markdown("### What distillation (HMDS) gives")
                gr.HTML(drawing, elem_id="strategies", elem_classes="drawing")
                gr.Markdown(_NOISE)
    choices = [(benchmark.title(topic), topic) for topic in topics]
    topic = gr.Radio(choices, value=set_name, label="Test set", elem_id="topic")
    made = benchmark.table(frame, set_name)
    table = gr.Dataframe(
        benchmark.styled(made), label="Click a title to sort, type to filter", interactive=False, show_search="filter",
        max_height=900, wrap=True, column_widths=_widths(made), elem_id="table",
    )  # fmt: skip
    gr.Markdown(_SOURCES)

    def show(topic: str):
        made = benchmark.table(frame, topic)
        return gr.Dataframe(benchmark.styled(made), column_widths=_widths(made))

    topic.change(show, topic, table, **AT_ONCE)


def _widths(made: pd.DataFrame) -> list[str]:
    return ["170px", *["105px"] * (len(made.columns) - 1)]
