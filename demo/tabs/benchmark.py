"""The Benchmark tab: what the benchmark measured, and what others published, from `results/summary.csv` alone.

Tables by topic, and drawings as SVG.
"""

import io
from pathlib import Path

import gradio as gr
import pandas as pd

from demo.events import AT_ONCE, styled

RESULTS = Path(__file__).parents[2] / "results"
RELEASE, PUBLISHED = "release", "published"
_SHOWN = (RELEASE, PUBLISHED, "baselines")  # plans beside each other; the networks of studies are not for use
_SET_NAMES = {"Urban100_rgb": "Urban100, colour", "CBSD68": "CBSD68, colour"}
_INK = "#010203"  # stands for the page's own text colour while matplotlib draws
_OURS, _THEIRS = "#0d9488", "#d97706"  # readable on white and on black
_TIME = "ms at 512 × 512"
NOTHING = (
    "No benchmark results come with this copy. `python -m benchmark.run` evaluates the released networks, writes them "
    "into `results/`, and they appear here."
)
_SOURCES = """Methods marked *published* have the numbers that their authors printed; all others were measured here on
the same noise. Times are of one image of 512 × 512 pixels on the CPU. `python -m benchmark.run` measures again; the
sources are in the repository, in `results/README.md`."""
_NOISE = "Another seed alone changes the mean on Set12 by about 0.02 dB: a smaller difference says nothing."


def layout(results: Path = RESULTS) -> None:
    """Lay out the tab for a results folder, or say how to get one."""
    frame = read(results)
    ours = set(frame[frame.plan == RELEASE]["set"]) if frame is not None else ()
    if not ours:
        gr.Markdown(NOTHING)
        return
    topics = sorted(ours, key=lambda name: (name in _SET_NAMES, name))  # grey ones first
    set_name = "BSD68" if "BSD68" in topics else topics[0]
    with gr.Row():
        with gr.Column(min_width=320):
            gr.Markdown("### How good, and how fast")
            gr.HTML(quality_against_time(frame, set_name), elem_id="quality", elem_classes="drawing")
        if drawing := strategies(frame):
            with gr.Column(min_width=320):
                gr.Markdown("### What distillation (HMDS) gives")
                gr.HTML(drawing, elem_id="strategies", elem_classes="drawing")
                gr.Markdown(_NOISE)
    choices = [(_SET_NAMES.get(topic, f"{topic}, grey"), topic) for topic in topics]
    topic = gr.Radio(choices, value=set_name, label="Test set", elem_id="topic")
    shown = gr.Dataframe(
        styled(table(frame, set_name)), label="Click a title to sort, type to filter", interactive=False,
        show_search="filter", max_height=900, wrap=True, column_widths=["170px", *["105px"] * 9], elem_id="table",
    )  # fmt: skip
    gr.Markdown(_SOURCES)
    topic.change(lambda topic: styled(table(frame, topic)), topic, shown, **AT_ONCE)


def read(results: Path = RESULTS) -> pd.DataFrame | None:
    """Return the measured and published scores, one row a method, set and level; None if there are none."""
    try:
        frame = pd.read_csv(results / "summary.csv")
    except (OSError, ValueError):
        return None
    frame = frame[(frame.protocol == "awgn") & (frame.noise_seed.fillna(0) == 0) & frame.psnr.notna()]
    return frame if len(frame) else None


def table(frame: pd.DataFrame, topic: str) -> pd.DataFrame:
    """Return one row a method, best first: PSNR at each level with SSIM where it was computed, size and time."""
    rows = frame[(frame["set"] == topic) & frame.plan.isin(_SHOWN)]
    origins = rows.plan.where(rows.plan == PUBLISHED, "measured")
    rows = rows.assign(Method=[_named(row) for row in rows.itertuples()], Origin=origins)
    levels = sorted(rows[rows.plan == RELEASE].level.unique())
    index = ["Method", "Origin"]
    wide = rows.pivot_table(index=index, columns="level", values=["psnr", "ssim"])
    columns = {
        f"{title} at {level:g}": wide.get((name, level))
        for name, title in (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
        for level in levels
    }
    facts = rows.groupby(index)[["parameters", "ms_512"]].max()
    columns |= {"Size, million parameters": facts.parameters / 1e6, f"Time, {_TIME}": facts.ms_512}
    best_first = pd.DataFrame(columns).sort_values(f"PSNR, dB at {levels[len(levels) // 2]:g}", ascending=False)
    made = best_first.reset_index().dropna(axis=1, how="all")
    return made[[name for name in made if name != "Origin"] + ["Origin"]]


def _named(row) -> str:
    """Return a method's name for people: what an id says of a released network, without its levels and seed."""
    if row.plan != RELEASE:
        return row.method.replace("_", " ")
    estimated = ", level estimated" if row.method.endswith("+auto") else ""
    return f"{row.size.replace('_', ' ')}, {row.strategy}{estimated}"


def quality_against_time(frame: pd.DataFrame, topic: str = "BSD68", level: float = 25) -> str:
    """Draw PSNR against the time for one image, ours and published, each point labelled."""
    points = frame[(frame["set"] == topic) & (frame.level == level) & frame.ms_512.notna() & frame.plan.isin(_SHOWN)]
    points = points[~points.method.str.endswith("+auto")]
    ours = points[points.plan == RELEASE].sort_values("psnr").drop_duplicates("size", keep="last")
    others = points[points.plan != RELEASE]
    groups = ((ours, _OURS, "MDRN, this page"), (others, _THEIRS, "others (* PSNR as published)"))

    def draw(axes) -> None:
        for group, colour, label in groups:
            axes.scatter(group.ms_512, group.psnr, s=70, color=colour, label=label)
            for index, row in enumerate(group.sort_values("ms_512").itertuples()):
                name = row.method if row.plan != RELEASE else row.size
                name = name.replace("_", " ") + ("*" if row.plan == PUBLISHED else "")
                away = (0, -20 if index % 2 else 9)  # neighbours are labelled on different sides
                axes.annotate(name, (row.ms_512, row.psnr), away, textcoords="offset points", ha="center")
        axes.set_xscale("log")
        axes.margins(x=0.25, y=0.15)
        axes.set_xticks([20, 50, 100, 200, 500, 1000, 2000], labels=["20", "50", "100", "200", "500", "1000", "2000"])
        axes.set_xlabel(f"milliseconds for one {_TIME[6:]} image on the CPU (left is faster)")
        axes.set_ylabel(f"PSNR on {topic} at noise level {level:g}, dB")
        axes.legend(loc="center right", frameon=False)

    return _svg(draw, f"PSNR on {topic} against milliseconds: MDRN beside other methods")


def strategies(frame: pd.DataFrame, topic: str = "Set12", level: float = 50) -> str | None:
    """Draw what distillation (HMDS) gives, PSNR against steps of training; None without runs of several lengths."""
    study = frame[(frame["set"] == topic) & (frame.level == level) & frame.steps.notna() & frame.strategy.notna()]
    study = study[~study.plan.isin(_SHOWN) & ~study.method.str.endswith("+auto")]
    study = study[study.groupby("size").strategy.transform("nunique") > 1]  # without the teacher
    means = study.groupby(["size", "strategy", "steps"]).psnr.mean().reset_index()
    if not means.duplicated(["size", "strategy"]).any():
        return None

    def draw(axes) -> None:
        for (size, strategy), line in means.groupby(["size", "strategy"]):
            style = {"marker": "o", "linestyle": "--" if strategy == "plain" else "-"}
            axes.plot(line.steps, line.psnr, color=_THEIRS if "tiny" in size else _OURS, **style)
            last = line.iloc[-1]
            name = f"{size.replace('_', ' ')}, {strategy}"
            away = (8, -11 if strategy == "plain" else 3)  # the two are close
            axes.annotate(name, (last.steps, last.psnr), away, textcoords="offset points")
        axes.margins(x=0.22, y=0.2)
        axes.set_xlabel("steps of training")
        axes.set_ylabel(f"PSNR at noise level {level:g}, dB ({topic})")

    return _svg(draw, f"Networks trained with and without distillation (HMDS) on {topic}")


def _svg(draw, words: str) -> str:
    """Draw on axes whose texts take the page's colour and font, and return the SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    settings = {name: _INK for name in colours} | {"svg.fonttype": "none", "font.size": 11, "svg.hashsalt": "mdrn"}
    with rc_context(settings):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")  # its text is readable on a telephone too
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue()[text.getvalue().index("<svg") :].replace(_INK, "currentColor")
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{words}" style="width:100%;height:auto" ', 1)
