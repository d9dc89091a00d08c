"""The Benchmark tab: what `python -m benchmark.run` left in `results/`, read from its files alone."""

from __future__ import annotations

import html
import re
from pathlib import Path

import gradio as gr
import pandas as pd

from demo import benchmark_plots
from demo.benchmark_plots import Drawing

RESULTS = Path(__file__).parent.parent / "results"
NOTHING = (
    "No benchmark results come with this copy. `python -m benchmark.run` evaluates the released networks, writes them "
    "into `results/`, and they appear here."
)
MEASURED, PUBLISHED = "measured", "published"
_MARK = re.compile(r",? as published\b")
_MILLIONS = re.compile(r"[\d.]+ M")
_PLOT_HEIGHT = 340


def read_tables(results: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of a results folder, title -> frame; a file that cannot be read is left out.

    Tables with levels as columns come first, since they are what most come for.
    """
    tables = {}
    for path in sorted((results / "tables").glob("*.csv")):
        try:
            table = pd.read_csv(path)
        except (ValueError, OSError):
            continue
        tables[_title(path.stem)] = tidy(table)
    return dict(sorted(tables.items(), key=lambda item: benchmark_plots.psnr_by_level(item[1]) is None))


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Make a table sortable: numbers as numbers, and where each row comes from as a column of its own."""
    table = table.copy()
    for name in list(table.columns):
        values = table[name].dropna().astype(str)
        if len(values) and values.str.fullmatch(_MILLIONS).all():
            table[name] = pd.to_numeric(table[name].str.removesuffix(" M"))
            table = table.rename(columns={name: f"{name}, millions"})
    if "method" in table.columns:
        published = table["method"].str.contains(_MARK)
        table["method"] = table["method"].str.replace(_MARK, "", regex=True)
        table.insert(1, "origin", published.map({True: PUBLISHED, False: MEASURED}))
    return table


def command(title: str) -> str:
    """Return what to say of how a table is made again."""
    measure = "python -m benchmark.speed" if title.startswith("Speed") else "python -m benchmark.run"
    return (
        f"`{measure}` measures this table again; `python -m benchmark.run --report-only` writes it again from the "
        f"committed rows. Rows marked *{PUBLISHED}* were printed by others, not measured here; the report says where."
    )


def _title(stem: str) -> str:
    first, _, rest = stem.partition("_")
    words = rest.replace("_", " ").removesuffix(" awgn").replace("bsd", "BSD").replace("cBSD", "CBSD")
    words = words[:1].upper() + words[1:]
    return f"{first.capitalize()}: {words}" if words and words != "Awgn" else first.capitalize()


def _shown(table: pd.DataFrame):
    """Return a table with as many decimals as its file has: 30.1 is 30.10 there."""
    decimals = {}
    for name in table.select_dtypes("number").columns:
        parts = table[name].dropna().astype(str).str.partition(".")[2]
        decimals[name] = 0 if parts.isin(["0", ""]).all() else int(parts.str.len().max())
    formats = {name: f"{{:.{places}f}}" for name, places in decimals.items()}
    return table.style.format(formats, na_rep="–")


def benchmark_tab(results: Path = RESULTS) -> None:
    """Lay out the tab for a results folder, or say how to get one."""
    tables = read_tables(results)
    report = results / "README.md"
    if not tables:
        gr.Markdown(report.read_text(encoding="utf-8") if report.exists() else NOTHING)
        return
    first = next(iter(tables))
    drawing = benchmark_plots.draw(tables[first])
    choice = gr.Dropdown(list(tables), value=first, label="Table", filterable=False, elem_id="table-choice")
    table = gr.Dataframe(
        _shown(tables[first]),
        label="Click a title to sort; type to filter",
        interactive=False,
        show_search="filter",
        max_height=420,
        wrap=True,
        column_widths=_widths(tables[first]),
        elem_id="table",
    )
    note = gr.Markdown(command(first), elem_id="table-command")
    picked = gr.Dropdown(
        drawing.names, value=drawing.first, multiselect=True, label="In the plots", visible=bool(drawing.names)
    )
    key = gr.HTML(_key(drawing, drawing.first), elem_id="plot-key")
    with gr.Row():
        with gr.Column(min_width=320):
            lines = gr.LinePlot(**_line_options(drawing, drawing.first))
        with gr.Column(min_width=320):
            points = gr.ScatterPlot(**_point_options(drawing, drawing.first))

    def plots(title: str, names: list[str]):
        made = benchmark_plots.draw(tables[title])
        pair = gr.LinePlot(**_line_options(made, names)), gr.ScatterPlot(**_point_options(made, names))
        return _key(made, names), *pair

    def show(title: str):
        made = benchmark_plots.draw(tables[title])
        names = gr.Dropdown(made.names, value=made.first, visible=bool(made.names))
        shown = gr.Dataframe(_shown(tables[title]), column_widths=_widths(tables[title]))
        return shown, command(title), names, *plots(title, made.first)

    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    choice.input(show, choice, [table, note, picked, key, lines, points], **quiet)
    picked.input(plots, [choice, picked], [key, lines, points], **quiet)
    if report.exists():
        with gr.Accordion("The whole report, with its notes and sources", open=False):
            gr.Markdown(re.sub(r"!\[[^\]]*\]\([^)]*\)", "", report.read_text(encoding="utf-8")))


def _widths(table: pd.DataFrame) -> list[str]:
    return ["200px", *["110px"] * (len(table.columns) - 1)]


def _line_options(drawing: Drawing, names: list[str]) -> dict:
    return _options(drawing, drawing.lines, drawing.line_axes, names)


def _point_options(drawing: Drawing, names: list[str]) -> dict:
    return _options(drawing, drawing.points, drawing.point_axes, names)


def _options(drawing: Drawing, frame: pd.DataFrame | None, axes: tuple[str, str], names: list[str]) -> dict:
    chosen = frame[frame["name"].isin(names)] if frame is not None else pd.DataFrame()
    if chosen.empty:
        return {"value": None, "visible": False}
    x, y = axes
    limits = {f"{name}_lim": benchmark_plots.limits(chosen[column]) for name, column in (("x", x), ("y", y))}
    return {
        "value": chosen,
        "x": x,
        "y": y,
        "color": "name",
        "color_map": benchmark_plots.colours(drawing.names, names),
        "title": y,
        "x_title": x,
        "y_title": " ",
        "tooltip": "all",
        "height": _PLOT_HEIGHT,
        "visible": True,
        "buttons": ["fullscreen", "export"],
        **limits,
    }


def _key(drawing: Drawing, names: list[str]) -> str:
    """Say which colour is which: the plots' own legends are cut off where they are too long."""
    colours = benchmark_plots.colours(drawing.names, names)
    dot = '<span style="color:{}" aria-hidden="true">&#9679;</span>&nbsp;{}'
    return " &emsp; ".join(dot.format(colours[name], html.escape(name)) for name in names if name in colours)
