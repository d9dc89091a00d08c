"""The Benchmark tab: what `python -m benchmark.run` left in `results/`, read from its files alone."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import pandas as pd

RESULTS = Path(__file__).parent.parent / "results"
NOTHING = (
    "No benchmark results come with this copy. `python -m benchmark.run` evaluates the released networks, writes them "
    "into `results/`, and they appear here."
)
MAKE_AGAIN = "Measured by `python -m benchmark.run`; `python -m benchmark.run --report-only` writes the tables again."
_LEVEL_PSNR = re.compile(r"^level ([\d.]+)(?: PSNR)?$")


def read_tables(results: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of a results folder, name -> frame; a file that cannot be read is left out."""
    tables = {}
    for path in sorted((results / "tables").glob("*.csv")):
        try:
            tables[path.stem.replace("_", " ")] = pd.read_csv(path)
        except (ValueError, OSError):
            continue
    return tables


def psnr_by_level(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return (method, noise level, PSNR) rows of a table with levels as columns; None for another kind of table."""
    columns = {name: float(found[1]) for name in table.columns if (found := _LEVEL_PSNR.match(name))}
    if len(columns) < 2 or table.columns[0] != "method":
        return None
    rows = table.melt(id_vars="method", value_vars=list(columns), var_name="noise level", value_name="PSNR, dB")
    rows["noise level"] = rows["noise level"].map(columns)
    rows["PSNR, dB"] = pd.to_numeric(rows["PSNR, dB"], errors="coerce")
    return rows.dropna()


def benchmark_tab(results: Path = RESULTS) -> None:
    """Lay out the tab for a results folder, or say how to get one."""
    tables = read_tables(results)
    report = results / "README.md"
    if not tables:
        gr.Markdown(report.read_text(encoding="utf-8") if report.exists() else NOTHING)
        return
    first = next(iter(tables))
    gr.Markdown(MAKE_AGAIN)
    choice = gr.Dropdown(list(tables), value=first, label="Table", filterable=False)
    table = gr.Dataframe(tables[first], label="Click a column's title to sort", interactive=False, show_search="filter")
    plot = gr.LinePlot(
        psnr_by_level(tables[first]),
        x="noise level",
        y="PSNR, dB",
        color="method",
        height=360,
        visible=psnr_by_level(tables[first]) is not None,
    )

    def show(name: str):
        lines = psnr_by_level(tables[name])
        return tables[name], gr.LinePlot(lines, visible=lines is not None)

    choice.change(show, choice, [table, plot], queue=False, show_progress="hidden", api_visibility="private")
    figures = sorted((results / "figures").glob("*.png"))
    if figures:
        gr.Gallery([(str(path), path.stem.replace("_", " ")) for path in figures], label="Figures", interactive=False)
    if report.exists():
        with gr.Accordion("The whole report, with its notes", open=False):
            gr.Markdown(re.sub(r"!\[[^\]]*\]\([^)]*\)", "", report.read_text(encoding="utf-8")))
