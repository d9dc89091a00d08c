"""Figures from the tidy tables of a results folder: the same tables give the same bytes.

A figure whose data are not there is not drawn. `report` imports this module; how figures look is `drawing`'s business.
"""

import math

import numpy as np
import pandas as pd

from benchmark.compare import BASELINE
from benchmark.drawing import COLOURS, GREY, Figure, Label, finish, open_axes, plain_log_ticks, style
from benchmark.plan import CHOICE_SEEDS
from benchmark.rows import AUTO, BASELINES, RELEASE
from benchmark.summary import PUBLISHED, Results

STUDY = "hmds"  # the plan that the figures of training are about
_PREFERRED = ("BSD68", "Set12", "Urban100", "CBSD68", "samples", "samples_held_out")
_LEVEL = 25.0
_DISTILLED = "hmds"


def all_figures(results: Results) -> list[Figure]:
    """Draw what the tables allow."""
    drawn = [
        against(results, "ms_512", "psnr_against_cpu_time", "ms for 512 x 512 on the CPU"),
        against(results, "parameters", "psnr_against_parameters", "parameters (millions)"),
        *steps(results),
        gain_by_level(results),
        *cost(results),
        stages(results),
        throughput(results),
    ]
    return [figure for figure in drawn if figure is not None]


def against(results: Results, column: str, name: str, title: str) -> Figure | None:
    """PSNR against what it takes, published methods in grey; None without a network of ours."""
    summary = results.summary
    summary = summary[summary.protocol.eq("awgn") & summary[column].notna() & summary.psnr.notna()]
    summary = summary[summary.plan.isin([RELEASE, PUBLISHED, BASELINES]) & ~summary.method.str.endswith(AUTO)]
    ours = summary[(summary.plan == RELEASE) & (summary["size"] != "teacher")]
    set_name = _first_set(ours)
    if set_name is None:
        return None
    level = min(ours.level[ours["set"] == set_name], key=lambda level: (level != _LEVEL, level))
    summary = summary[(summary["set"] == set_name) & (summary.level == level)]
    unit = 1e6 if column == "parameters" else 1.0
    with open_axes() as axes:
        theirs = summary[summary.plan != RELEASE]
        axes.scatter(theirs[column] / unit, theirs.psnr, color=GREY, s=12)
        labels = [Label(getattr(line, column) / unit, line.psnr, line.method) for line in theirs.itertuples()]
        best = summary[summary.plan == RELEASE].sort_values("psnr").drop_duplicates("size", keep="last")
        for index, line in enumerate(best.sort_values("size").itertuples()):
            x, colour = getattr(line, column) / unit, COLOURS[index % len(COLOURS)]
            axes.scatter([x], [line.psnr], color=colour, s=30, zorder=3)
            labels.append(Label(x, line.psnr, line.size, colour, bold=True))
        axes.set(xscale="log", xlabel=title, ylabel=f"PSNR (dB), {set_name}, level {level:g}")
        axes.margins(x=0.2, y=0.12)
        plain_log_ticks(axes)
        caption = f"{set_name} at level {level:g}, `awgn`: ours in colour; grey: as published, or classical."
        return finish(axes, labels, name, caption)


def steps(results: Results) -> list[Figure]:
    """Validation PSNR against training steps, plain and distilled from nothing, a figure for each size."""
    runs, level = _study_runs(results)
    figures = []
    for size, of_size in runs.items():
        ends = _by_steps(of_size)
        labels = []
        with open_axes() as axes:
            for index, strategy in enumerate((BASELINE, _DISTILLED)):
                chosen, colour = of_size[of_size.strategy == strategy], COLOURS[index]
                for run in chosen.itertuples():
                    curve = results.curves[(results.curves.config == run.config) & (results.curves.level == level)]
                    axes.plot(curve.step, curve.psnr, color=colour, linewidth=0.5, alpha=0.5)
                    axes.scatter([run.steps], [run.psnr], color=colour, s=8, alpha=0.5)
                axes.plot(ends.index, ends[strategy], **style(index))
                labels.append(Label(ends.index[-1], ends[strategy].iloc[-1], strategy, colour, bold=True))
            note = ""
            if (found := times_the_steps(ends)) is not None:
                at, factor = found
                target = ends[_DISTILLED][at]
                arrow = {"arrowstyle": "->", "color": GREY, "lw": 0.8}
                axes.annotate("", (at * factor, target), (at, target), arrowprops=arrow)
                labels.append(Label(at * math.sqrt(factor), target, f"plain needs {factor:.1f} times the steps"))
                note = f" Plain training needs {factor:.1f} times the {at:,.0f} steps to be as good."
            axes.set(xscale="log", xlabel="training steps", ylabel=f"validation PSNR (dB), level {level:g}")
            axes.set_ylim(bottom=min(ends.min()) - 0.15)
            axes.margins(x=0.15)
            plain_log_ticks(axes)
            caption = f"`{size}` from nothing: thick, the ends of runs (mean over seeds); thin, each run on its way."
            figures.append(finish(axes, labels, f"validation_psnr_against_steps_{size}", caption + note))
    return figures


def times_the_steps(ends: pd.DataFrame) -> tuple[float, float] | None:
    """Return steps, and how many times as many plain training needs for the distilled networks' PSNR after them.

    Interpolated in the logarithm of the steps; the longest runs for which plain ones reach it count. None if none do.
    `ends` are mean PSNRs at the end of runs as `_by_steps` returns them.
    """
    both = ends.dropna()
    if len(both) < 2:
        return None
    for count in reversed(both.index[:-1]):
        target = both[_DISTILLED][count]
        later = both[both.index >= count]
        if later[BASELINE].iloc[0] < target <= later[BASELINE].max():
            reached = np.interp(target, later[BASELINE], np.log(later.index.to_numpy(dtype=float)))
            return float(count), float(np.exp(reached) / count)
    return None


def gain_by_level(results: Results) -> Figure | None:
    """Gain of distillation against the noise level, a line for each size; None without several single levels."""
    gains = results.gains
    gains = gains[(gains.strategy == _DISTILLED) & (gains.arm == "") & ~gains.trained.astype(str).str.contains("-")]
    set_name = _first_set(gains)
    gains = gains[gains["set"] == set_name]
    wide = gains.groupby(["plan", "size", "steps"])["level"].transform("nunique")
    gains = gains[wide == wide.max()]
    if not (wide > 1).any():
        return None
    gains = gains[gains.steps == gains.steps.max()]
    labels = []
    with open_axes() as axes:
        for index, (size, line) in enumerate(gains.sort_values("level").groupby("size")):
            x = line.level + 0.8 * index  # so that intervals do not cover each other
            reach = [line.gain - line.low, line.high - line.gain]
            axes.errorbar(x, line.gain, yerr=reach, capsize=2, **style(index))
            labels.append(Label(x.iloc[-1], line.gain.iloc[-1], size, style(index)["color"], bold=True))
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(sorted(set(gains.level)))
        axes.margins(x=0.25, y=0.2)
        axes.set(xlabel="noise level", ylabel=f"gain over plain (dB), {set_name}")
        taken = f"{gains.steps.iloc[0]:,.0f} steps each"
        caption = f"What `hmds` gains over plain training on {set_name}, {taken}, with 95 % intervals over images."
        return finish(axes, labels, "gain_against_level", caption)


def cost(results: Results) -> list[Figure]:
    """Validation PSNR against minutes of training, with and without the teacher's, a figure for each size."""
    runs, level = _study_runs(results)
    teachers = results.runs[results.runs.run.str.startswith("teacher.")]
    figures = []
    for size, of_size in runs.items():
        of_size = of_size[of_size.minutes.notna()]
        if not {BASELINE, _DISTILLED} <= set(of_size.strategy):
            continue
        means = of_size.groupby(["strategy", "steps"])[["minutes", "psnr"]].mean()
        lines = {BASELINE: (means.loc[BASELINE], 0.0), _DISTILLED: (means.loc[_DISTILLED], 0.0)}
        used = teachers[[f"{t.run}@{t.config}" in set(of_size.teacher) for t in teachers.itertuples()]]
        if used.minutes.notna().any():
            lines["hmds and its teacher"] = (means.loc[_DISTILLED], float(used.minutes.iloc[0]))
        labels = []
        with open_axes() as axes:
            for index, (name, (line, more)) in enumerate(lines.items()):
                axes.plot(line.minutes + more, line.psnr, linestyle=":" if more else "-", **style(index))
                labels.append(Label(line.minutes.iloc[-1] + more, line.psnr.iloc[-1], name, COLOURS[index], bold=True))
            axes.set(xscale="log", xlabel="minutes of one core", ylabel=f"validation PSNR (dB), level {level:g}")
            axes.margins(x=0.25, y=0.15)
            plain_log_ticks(axes)
            caption = f"`{size}`: what training costs; the teacher is trained once for all students."
            figures.append(finish(axes, labels, f"validation_psnr_against_minutes_{size}", caption))
    return figures


def stages(results: Results) -> Figure | None:
    """Mean PSNR of the noisy input and after each stage of the released networks; None without several stages."""
    summary = results.summary
    chosen = summary[(summary.plan == RELEASE) & (summary.stages != "") & ~summary.method.str.endswith(AUTO)]
    set_name = _first_set(chosen)
    chosen = chosen[(chosen["set"] == set_name) & (chosen.protocol == "awgn")]
    if chosen.empty:
        return None
    noisy = summary[(summary.method == "noisy") & (summary["set"] == set_name) & (summary.protocol == "awgn")]
    start = noisy.set_index("level").psnr.to_dict()
    best = chosen.sort_values("psnr").drop_duplicates(["size", "level"], keep="last")
    labels = []
    with open_axes() as axes:
        for index, (size, lines) in enumerate(best.groupby("size")):
            for line in lines.itertuples():
                points = [start.get(line.level, math.nan), *map(float, line.stages.split()), line.psnr]
                axes.plot(range(len(points)), points, **style(index))
                if index == 0:
                    labels.append(Label(0, points[0], f"level {line.level:g}"))
            named = lines.sort_values("level", ascending=index % 2 == 0).iloc[0]  # where the other's name is not
            labels.append(Label(len(named.stages.split()) + 1, named.psnr, size, style(index)["color"], True))
        last = max(len(text.split()) for text in best.stages) + 1
        axes.set_xticks(range(last + 1), ["noisy", *(f"stage {stage}" for stage in range(1, last + 1))])
        axes.set(ylabel=f"mean PSNR (dB), {set_name}", xlim=(-0.2, last + 1))
        caption = f"Noise is removed stage by stage: mean PSNR on {set_name}."
        return finish(axes, labels, "psnr_after_each_stage", caption)


def throughput(results: Results) -> Figure | None:
    """Megapixels per second against image size on the CPU, in the newest run of several sizes; None without one."""
    speed = results.speed[(results.speed.device == "cpu") & results.speed.milliseconds.notna()]
    speed = speed[speed.groupby("run")["size"].transform("nunique") > 1]
    if speed.empty:
        return None
    speed = speed[speed.run == speed.run.iloc[-1]]
    times = speed.groupby(["network", "size"]).milliseconds.min().unstack()
    labels = []
    with open_axes() as axes:
        for index, (name, line) in enumerate(times.sort_values(times.columns[0]).iterrows()):
            line = line.dropna()
            side = line.index.to_numpy()
            ours = name.startswith(("mdrn", "photo"))
            look = style(index) if ours else style(index) | {"color": GREY}
            axes.plot(side**2 / 1e6, side**2 / line / 1000, **look)
            labels.append(Label(side[0] ** 2 / 1e6, side[0] ** 2 / line.iloc[0] / 1000, name, look["color"], ours))
        axes.set(xscale="log", yscale="log", xlabel="megapixels of the image", ylabel="megapixels per second")
        axes.margins(x=0.2, y=0.12)
        first = speed.iloc[0]
        caption = f"Speed against image size, fp32, on {first.machine}, {first.threads:.0f} threads; higher is faster."
        return finish(axes, labels, "speed_against_image_size", caption)


def _study_runs(results: Results) -> tuple[dict[str, pd.DataFrame], float]:
    """Return the study's runs without arms with their final validation PSNR, at the level that has most lengths.

    They come by size, for the sizes that have plain and distilled ones, and with that level.
    """
    runs = results.runs[(results.runs.plan == STUDY) & (results.runs.arm == "")]
    parts = runs.run.str.extract(r"^(?P<size>.+)\.(?P<strategy>[a-z_]+)_n(?P<level>[\d.]+)_s(?P<seed>\d+)$")
    runs = runs.join(parts).dropna(subset=["level"]).astype({"level": float, "seed": int})
    said = [dict(pair.split(":") for pair in text.split()) for text in runs.validation]
    psnr = [by_level.get(f"{level:g}", math.nan) for by_level, level in zip(said, runs.level, strict=True)]
    runs = runs.assign(psnr=pd.Series(psnr, index=runs.index, dtype=float)).dropna(subset=["psnr"])
    lengths = runs.groupby("level").steps.nunique()
    level = float(lengths[::-1].idxmax()) if len(lengths) else math.nan
    runs = runs[(runs.level == level) & ~runs.seed.isin(CHOICE_SEEDS)]
    by_size = runs.groupby("size")
    return {size: part for size, part in by_size if {BASELINE, _DISTILLED} <= set(part.strategy)}, level


def validation_ends(results: Results) -> dict[str, pd.DataFrame]:
    """Return for each size of the study the mean PSNR at the end of runs, see `_by_steps`."""
    return {size: _by_steps(runs) for size, runs in _study_runs(results)[0].items()}


def _by_steps(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean PSNR at the end of runs, by steps (index) and strategy (columns), over seeds that both have."""
    table = runs.pivot_table(index=["steps", "seed"], columns="strategy", values="psnr")
    return table.dropna(subset=[BASELINE, _DISTILLED]).groupby("steps").mean()


def _first_set(frame: pd.DataFrame) -> str | None:
    return next((name for name in _PREFERRED if name in set(frame["set"])), None)
