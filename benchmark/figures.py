"""Figures from rows and training curves, as PNG and SVG: the same rows give the same bytes. No torch.

`report` imports this module; how they look is `drawing`'s.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmark.comparisons import Gain, gains, gains_by_share
from benchmark.drawing import COLOURS, GREY, MARKERS, Figure, column_axes, finish, scatter
from benchmark.results import RUN_ID, Results, level_text, published
from benchmark.rows import AUTO


def all_figures(results: Results, curves: Path, plan: str, protocol: str) -> list[Figure]:
    """Draw what the rows allow, in the order of the page."""
    frame = results.of_plan(plan)
    frame = frame[(frame.protocol == protocol) & (frame.noise_seed == 0)]
    suffix = "" if plan == "released" else f"_{plan}"
    drawn: list[Figure | None] = []
    if protocol == "awgn":
        drawn += [against_parameters(results, frame, suffix), against_time(results, frame, suffix)]
    drawn += [progressive(results, plan, protocol, suffix), gain_by_level(frame, protocol, suffix)]
    drawn += [gain_by_image(frame, protocol, suffix)]
    drawn += [training_curves(frame, curves, suffix, colour) for colour in (False, True)]
    return [figure for figure in drawn if figure is not None]


def against_parameters(results: Results, frame: pd.DataFrame, suffix: str) -> Figure | None:
    """PSNR against the number of parameters, published methods included; None without a network."""
    chosen = _set_and_level(frame)
    if chosen is None:
        return None
    set_name, level, means = chosen
    ours = [
        (results.parameters(frame[frame.method == network]) / 1e6, psnr, _network_label(network))
        for network, psnr in means.items()
    ]
    quoted = published()
    quoted = quoted[(quoted["set"] == set_name) & (quoted.level == level) & quoted.params_m.notna()]
    theirs = [(row.params_m, row.psnr, row.method) for row in quoted.itertuples()]
    with column_axes() as (figure, axes):
        scatter(axes, theirs, ours)
        axes.set(xlabel="parameters (millions)", ylabel=f"PSNR (dB), {set_name}, level {level_text(level)}")
        caption = f"PSNR against parameters, {set_name} at level {level_text(level)}; grey: as published."
        return finish(figure, f"psnr_against_parameters{suffix}", caption)


def against_time(results: Results, frame: pd.DataFrame, suffix: str) -> Figure | None:
    """PSNR against time on the CPU; published PSNR of the networks that were timed here; None without timings."""
    chosen, speed = _set_and_level(frame), results.speed[results.speed.device == "cpu"]
    if chosen is None or speed.empty:
        return None
    set_name, level, means = chosen
    speed = speed[speed.run == speed.run.iloc[-1]]
    speed = speed[speed["size"] == (512 if (speed["size"] == 512).any() else speed["size"].iloc[0])]
    times = speed.groupby("network").milliseconds.min()
    ours = []
    for network, psnr in means.items():
        size = RUN_ID.match(network)["size"]
        if size in times.index:
            ours.append((times[size], psnr, _network_label(network)))
    quoted = published()
    quoted = quoted[(quoted["set"] == set_name) & (quoted.level == level)].set_index("method").psnr
    known = {"DnCNN": "DnCNN-S", "FFDNet": "FFDNet"}
    theirs = [
        (times[n], quoted[as_printed], n) for n, as_printed in known.items() if n in times and as_printed in quoted
    ]
    if not ours:
        return None
    first = speed.iloc[0]
    with column_axes() as (figure, axes):
        scatter(axes, theirs, ours)
        label = f"ms for {first['size']}x{first['size']}, {first.machine}, {first.threads} threads"
        axes.set(xlabel=label, ylabel=f"PSNR (dB), {set_name}, level {level_text(level)}")
        caption = f"PSNR against time on the CPU, {set_name} at level {level_text(level)}; grey: PSNR as published."
        return finish(figure, f"psnr_against_cpu_time{suffix}", caption)


def throughput(results: Results) -> list[Figure]:
    """Megapixels per second against image size on the CPU, in the newest run of several sizes; none without one."""
    speed = results.speed[(results.speed.device == "cpu") & results.speed.milliseconds.notna()]
    speed = speed[speed.groupby("run")["size"].transform("nunique") > 1]
    if speed.empty:
        return []
    speed = speed[speed.run == speed.run.iloc[-1]]
    times = speed.groupby(["network", "size"]).milliseconds.min().unstack()
    with column_axes() as (figure, axes):
        for index, (name, line) in enumerate(times.sort_values(times.columns[0]).iterrows()):
            line = line.dropna()
            side = line.index.to_numpy()
            axes.plot(side**2 / 1e6, side**2 / line / 1000, label=name, **_method_style(index))
        axes.set(xscale="log", yscale="log", xlabel="megapixels of the image", ylabel="megapixels per second")
        figure.legend(loc="outside upper center", ncols=3)
        first = speed.iloc[0]
        caption = f"Speed against image size, fp32, on {first.machine}, {first.threads} threads; higher is faster."
        return [finish(figure, "throughput", caption)]


def _method_style(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def progressive(results: Results, plan: str, protocol: str, suffix: str) -> Figure | None:
    """Mean PSNR of the noisy input and after each stage; None without progressive networks."""
    frame = results.images[(results.images.plan == plan) & (results.images.protocol == protocol)]
    frame = frame[(frame.noise_seed == 0) & ~frame.method.str.endswith(AUTO)]
    set_name = _first_set(frame)
    if set_name is None:
        return None
    frame = frame[(frame["set"] == set_name) & (frame.stages > 1)]
    noisy = results.final[(results.final.method == "noisy") & (results.final["set"] == set_name)]
    noisy = noisy[noisy.protocol == protocol].groupby("noise_level").psnr.mean()
    if frame.empty:
        return None
    frame = _best_strategy(frame)
    networks = sorted(set(frame.method.map(_network_label)))
    levels = sorted(frame.noise_level.unique())
    with column_axes() as (figure, axes):
        for (network, level), group in frame.groupby([frame.method.map(_network_label), "noise_level"]):
            means = group.groupby("stage").psnr.mean()
            points = pd.Series({**({0: noisy[level]} if level in noisy else {}), **means})
            style = _line_style(networks.index(network)) | {"color": COLOURS[levels.index(level) % len(COLOURS)]}
            axes.plot(points.index, points, **style)
        last = int(frame.stages.max())
        axes.set_xticks(range(last + 1), ["noisy", *(f"stage {stage}" for stage in range(1, last + 1))])
        axes.set_ylabel(f"mean PSNR (dB), {set_name}")
        from matplotlib.lines import Line2D

        keys = [
            Line2D([], [], color=COLOURS[i % len(COLOURS)], label=f"level {level_text(v)}")
            for i, v in enumerate(levels)
        ]
        keys += [Line2D([], [], color=GREY, label=name, **_line_style(i)) for i, name in enumerate(networks)]
        axes.legend(handles=keys, ncols=1, loc="lower right")
        caption = f"Noise is removed stage by stage: mean PSNR on {set_name}, {protocol}."
        return finish(figure, f"progressive_{protocol}{suffix}", caption)


def gain_by_level(frame: pd.DataFrame, protocol: str, suffix: str) -> Figure | None:
    """Gain of distillation against the noise level, by size; None without distilled networks."""
    found = [gain for gain in gains(frame) if gain.set_name == _first_set(frame) and "-" not in gain.noise_level]
    if not found:
        return None
    with column_axes() as (figure, axes):
        lines = sorted({(gain.size, gain.strategy) for gain in found})
        for index, (size, strategy) in enumerate(lines):
            line = [gain for gain in found if (gain.size, gain.strategy) == (size, strategy)]
            shift = (index - (len(lines) - 1) / 2) * 0.6  # so that intervals do not cover each other
            _gain_line(axes, [gain.at_level + shift for gain in line], line, index, f"{size} {strategy}")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(sorted({gain.at_level for gain in found}))
        axes.set(xlabel="noise level", ylabel=f"gain over plain (dB), {found[0].set_name}")
        axes.legend()
        caption = f"What distillation gains over the plain strategy, with 95 % intervals over images, {protocol}."
        return finish(figure, f"gain_by_level_{protocol}{suffix}", caption)


def gain_by_share(results: Results, protocol: str) -> Figure | None:
    """Gain of distillation against the share of the step budget, a panel for each test set; None without such plans."""
    found = gains_by_share(results, protocol)
    if not found:
        return None
    sets = sorted({gain.set_name for _, gain in found})
    lines = sorted({(gain.size, gain.strategy, gain.at_level) for _, gain in found})
    with column_axes(len(sets)) as (figure, panels):
        for axes, set_name in zip(panels, sets, strict=True):
            for index, (size, strategy, level) in enumerate(lines):
                what = (size, strategy, level, set_name)
                line = [(s, g) for s, g in found if (g.size, g.strategy, g.at_level, g.set_name) == what]
                places = [share * 1.04 ** (index - (len(lines) - 1) / 2) for share, _ in line]  # intervals side by side
                label = f"{size} {strategy} at {level_text(level)}"
                _gain_line(axes, places, [gain for _, gain in line], index, label)
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.set_xscale("log")
            axes.set_xticks(shares := sorted({share for share, _ in found}), [f"{share} %" for share in shares])
            axes.minorticks_off()
            axes.set(ylabel=f"gain over plain (dB), {set_name}")
        panels[0].legend()
        panels[-1].set(xlabel="share of the training steps")
        caption = f"Gain over the plain strategy against the step budget, with 95 % intervals over images, {protocol}."
        return finish(figure, f"gain_by_share_{protocol}", caption)


def _gain_line(axes, places: list[float], line: list[Gain], index: int, label: str) -> None:
    """Draw gains with their intervals."""
    axes.errorbar(
        places,
        [gain.mean for gain in line],
        yerr=[[gain.mean - gain.low for gain in line], [gain.high - gain.mean for gain in line]],
        capsize=2,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        label=label,
    )


def gain_by_image(frame: pd.DataFrame, protocol: str, suffix: str) -> Figure | None:
    """Gain of every image at the highest level, sorted; None without distilled networks."""
    found = [gain for gain in gains(frame) if gain.set_name == _first_set(frame)]
    if not found:
        return None
    level = max(gain.at_level for gain in found)
    with column_axes() as (figure, axes):
        for index, gain in enumerate(gain for gain in found if gain.at_level == level):
            ordered = gain.by_image.sort_values().to_numpy()
            style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 2}
            axes.plot(range(1, len(ordered) + 1), ordered, label=f"{gain.size} {gain.strategy}", **style)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="images, sorted by gain", ylabel=f"gain over plain (dB), {found[0].set_name}")
        axes.legend()
        caption = f"Gain over the plain strategy on every image, level {level_text(level)}, {protocol}."
        return finish(figure, f"gain_by_image_{protocol}{suffix}", caption)


def training_curves(frame: pd.DataFrame, curves: Path, suffix: str, colour: bool) -> Figure | None:
    """Validation PSNR during the run that ended in a network, one panel for each level; None without curves.

    A network's run may go on from an earlier one's weights and be of any length: the axis is the share of its steps.
    """
    sizes = {run: parts["size"] for run in set(frame.method[frame.weights != ""]) if (parts := RUN_ID.match(run))}
    runs = sorted(run for run, size in sizes.items() if size != "teacher" and size.endswith("_rgb") is colour)
    records = [json.loads((curves / f"{run}.json").read_text()) for run in runs if (curves / f"{run}.json").is_file()]
    panels: dict[str, list[tuple[str, list[float], list[float]]]] = {}
    for record in records:
        history = record["history"]
        for level in history[-1]["psnr"] if history else ():
            points = (
                [100 * entry["step"] / history[-1]["step"] for entry in history],
                [entry["psnr"][level] for entry in history],
            )
            panels.setdefault(level, []).append((record["id"], *points))
    if not panels:
        return None
    ordered = sorted(panels, key=float)
    labels = {_network_label(run): None for level in ordered for run, _, _ in panels[level]}
    colours = {label: index for index, label in enumerate(sorted(labels))}
    with column_axes(len(ordered)) as (figure, grid):
        for axes, level in zip(grid, ordered, strict=True):
            for run, shares, psnr in panels[level]:
                index = colours[_network_label(run)]
                style = {
                    "color": COLOURS[index % len(COLOURS)],
                    "linestyle": ("-", "--", ":")[index // len(COLOURS) % 3],
                }
                axes.plot(shares, psnr, label=_network_label(run), **style)
            axes.set_title(f"level {level}")
            axes.set_ylabel("validation PSNR (dB)")
        lines = {line.get_label(): line for axes in grid for line in axes.get_lines()}
        figure.legend([lines[label] for label in colours], colours, loc="outside lower center", ncols=2)
        grid[-1].set_xlabel("share of the run's steps (%)")
        caption = f"Mean PSNR on the validation split during each {'colour' if colour else 'grey'} network's last run."
        return finish(figure, f"training_curves{'_rgb' if colour else ''}{suffix}", caption)


def _line_style(index: int) -> dict[str, str]:
    return {"marker": MARKERS[index % len(MARKERS)], "linestyle": ("-", "--", ":")[index % 3]}


def _best_strategy(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep one kind of network for each size: networks for one level before ranges, distilled before plain."""
    parts = frame.method.str.extract(RUN_ID)
    ranged = parts.levels.str.contains("-")
    rank = ranged.astype(int) * 10 + parts.strategy.map({"hmds": 0, "hmds_c": 1, "hmds_n": 2}).fillna(3)
    return frame[rank == rank.groupby(parts["size"]).transform("min")]


def _first_set(frame: pd.DataFrame) -> str | None:
    preferred = ("BSD68", "Set12", "Urban100", "CBSD68", "Urban100_rgb", "samples", "samples_held_out", "samples_rgb")
    return next((name for name in preferred if name in set(frame["set"][frame.weights != ""])), None)


def _set_and_level(frame: pd.DataFrame) -> tuple[str, float, pd.Series] | None:
    """Choose the set and level of a scatter plot, BSD68 at 25 if it is there, and average each network over its seeds.

    Returns:
        Set, level, and {id of the first seed's run: mean PSNR}.
    """
    nets = frame[(frame.weights != "") & ~frame.method.str.endswith(AUTO)]
    set_name = _first_set(nets)
    if set_name is None:
        return None
    nets = nets[nets["set"] == set_name]
    levels = sorted(nets.noise_level.unique(), key=lambda level: (level != 25, level))
    nets = nets[nets.noise_level == levels[0]].sort_values("method")
    lines = nets.groupby(nets.method.str.rpartition("_s")[0])
    means = pd.Series({group.method.iloc[0]: group.psnr.mean() for _, group in lines})
    return set_name, levels[0], means


def _network_label(run: str) -> str:
    parts = RUN_ID.match(run)
    return f"{parts['size']}.{parts['strategy']}{' (range)' if '-' in parts['levels'] else ''}"
