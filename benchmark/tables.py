"""Rows into tables. `report` imports this module; no torch."""

from __future__ import annotations

import math
import re

import pandas as pd

from benchmark.comparisons import RESAMPLES, Gain, gains, gains_by_share
from benchmark.results import Results, level_text, line_of, order_of, published
from benchmark.rows import AUTO
from benchmark.table import AS_PUBLISHED, EMPTY, Table, millions, number

PROTOCOLS = {
    "awgn": "Protocol `awgn`: noise seed 0 restarted for every image, input neither clipped nor rounded; output "
    "clipped and rounded to 8 bits; mean over images.",
    "clip8": "Protocol `clip8`: noise seed 0 restarted for every image, input clipped and rounded to 8 bits; output "
    "clipped and rounded to 8 bits; mean over images. Not comparable with published numbers, which are `awgn`.",
}
_COSTS = {"milliseconds_512": "ms at 512x512", "peak_memory_mib_512": "peak MiB at 512x512"}  # field: column


def quality(results: Results, plan: str, protocol: str, set_name: str) -> Table | None:
    """Levels x methods on one set; None without rows."""
    frame = results.of_plan(plan)
    frame = frame[(frame["set"] == set_name) & (frame.protocol == protocol) & (frame.noise_seed == 0)]
    if frame.empty:
        return None
    means = frame.assign(line=frame.method.map(line_of)).groupby(["line", "noise_level"])[["psnr", "ssim", "lpips"]]
    means = means.agg(lambda column: column.mean(skipna=False))
    levels = sorted(frame.noise_level.unique())
    parts = ("PSNR", "SSIM") if frame.lpips.isna().all() else ("PSNR", "SSIM", "LPIPS")
    lines = []
    for line in sorted(means.index.levels[0], key=order_of):
        size = results.parameters(frame[frame.method.map(line_of) == line])
        cells = [_scores(means, (line, level), len(parts)) for level in levels]
        lines.append((f"`{line}`", millions(size), *cells))
    notes = [PROTOCOLS[protocol]]
    if any("n*" in line for line in means.index.levels[0]):
        notes.append("`n*`: one network for each level; parameters of the largest.")
    if any(line.endswith(AUTO) for line in means.index.levels[0]):
        notes.append(f"`{AUTO}`: the noise level is estimated from the noisy image, not known.")
    if len(parts) == 3 and frame.lpips.isna().any():
        notes.append(f"LPIPS {EMPTY}: not computed (`--lpips none`, or the weights of its trunk were not at hand).")
    if protocol == "awgn":
        quoted, sources = _published_lines(set_name, levels)
        lines += quoted
        notes += sources
    images = frame.groupby("evaluation").size().max()
    return Table(
        f"{plan or 'methods'}_{set_name}_{protocol}".lower(),
        f"{set_name} ({images} images), {protocol}: {' / '.join(parts).replace('PSNR', 'PSNR in dB')}",
        ("method", "parameters", *(f"level {level_text(level)}" for level in levels)),
        lines,
        tuple(notes),
        parts,
    )


def stages(results: Results, plan: str, protocol: str) -> Table | None:
    """Mean PSNR of the noisy input and after each stage; None without progressive networks."""
    frame = results.images[(results.images.plan == plan) & (results.images.protocol == protocol)]
    frame = frame[(frame.noise_seed == 0) & (frame.stages > 1) & ~frame.method.str.endswith(AUTO)]
    if frame.empty:
        return None
    noisy = results.final[(results.final.method == "noisy") & (results.final.protocol == protocol)]
    noisy = noisy.groupby(["set", "noise_level"]).psnr.mean()
    most = int(frame.stages.max())
    lines = []
    for (method, set_name, level), group in frame.groupby(["method", "set", "noise_level"]):
        means = group.groupby("stage").psnr.mean()
        start = noisy.get((set_name, level), math.nan)
        cells = [number(means.get(stage, math.nan)) for stage in range(1, most + 1)]
        lines.append((f"`{method}`", set_name, level_text(level), number(start), *cells))
    return Table(
        f"{plan}_stages_{protocol}",
        f"Progressive denoising, {protocol}: mean PSNR in dB after each stage",
        ("network", "set", "level", "noisy", *(f"stage {stage}" for stage in range(1, most + 1))),
        lines,
    )


_GAIN = ("network", "set", "level", "plain", "distilled", "gain", "95 % interval", "gain of each seed")
_GAIN_NOTE = (
    "Paired per image on identical noise; seeds averaged for each image, then images drawn again "
    f"{RESAMPLES:,} times. On Set12, 0.02 dB is the noise of a training seed."
)
_RELEASED_NOTE = "Released pairs are not all trained for equally long: see HMDS and the step budget."


def distillation(results: Results, plan: str, protocol: str) -> Table | None:
    """Plain, distilled and the difference with its interval and seeds; None without distilled networks."""
    frame = results.of_plan(plan)
    lines = [_gain_cells(gain) for gain in gains(frame[frame.protocol == protocol])]
    title = f"Plain and distilled, {protocol}: mean PSNR in dB"
    notes = (_GAIN_NOTE, _RELEASED_NOTE) if plan == "released" else (_GAIN_NOTE,)
    return Table(f"{plan}_distillation_{protocol}", title, _GAIN, lines, notes) if lines else None


def by_share(results: Results, protocol: str) -> Table | None:
    """The same for plans that are shares of a step budget; None without one."""
    lines = [(f"{share} %", *_gain_cells(gain)) for share, gain in gains_by_share(results, protocol)]
    title = f"Plain and distilled at shares of the step budget, {protocol}: mean PSNR in dB"
    return Table(f"budgets_{protocol}", title, ("steps", *_GAIN), lines, (_GAIN_NOTE,)) if lines else None


def _gain_cells(gain: Gain) -> tuple[str, ...]:
    network = f"`{gain.size}.{gain.strategy}_n{gain.noise_level}`"
    seeds = ", ".join(f"s{seed} {value:+.3f}" for seed, value in gain.by_seed.items())
    means = (number(gain.plain), number(gain.distilled), f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}")
    return network, gain.set_name, level_text(gain.at_level), *means, seeds


def known_or_estimated(results: Results, plan: str, protocol: str) -> Table | None:
    """What estimating the noise level costs; None unless a network was evaluated both ways."""
    frame = results.final[(results.final.plan == plan) & (results.final.protocol == protocol)]
    frame = frame[frame.noise_seed == 0]
    auto = frame[frame.method.str.endswith(AUTO)]
    told = frame.set_index(["method", "set", "noise_level", "image"]).psnr.sort_index()
    lines = []
    for (method, set_name, level), group in auto.groupby(["method", "set", "noise_level"]):
        network = method.removesuffix(AUTO)
        if (network, set_name, level) not in told.index:
            continue
        with_level = told.loc[(network, set_name, level)]
        error = group.estimated_level - level
        numbers = (with_level.mean(), group.psnr.mean(), with_level.mean() - group.psnr.mean())
        lost = (group.set_index("image").psnr - with_level).min()
        cells = [
            *(number(value) for value in numbers),
            number(-lost),
            f"{error.mean():+.2f}",
            f"{error.abs().mean():.2f}",
        ]
        lines.append((f"`{network}`", set_name, level_text(level), *cells))
    if not lines:
        return None
    return Table(
        f"{plan}_auto_{protocol}",
        f"Noise level known or estimated, {protocol}: PSNR in dB",
        ("network", "set", "level", "known", "estimated", "mean loss", "worst loss", "bias", "mean error of the level"),
        lines,
    )


def estimator(results: Results, protocol: str) -> Table | None:
    """Errors of the noise-level estimator; None without rows."""
    frame = results.estimates[(results.estimates.protocol == protocol) & (results.estimates.noise_seed == 0)]
    lines = []
    for (set_name, level), group in frame.groupby(["set", "noise_level"]):
        error = group.set_index("image").estimated_level - level
        worst = error.abs().idxmax()
        cells = (f"{error.mean():+.2f}", f"{error.abs().mean():.2f}", f"{error[worst]:+.2f} ({worst})")
        lines.append((set_name, level_text(level), *cells))
    if not lines:
        return None
    return Table(
        f"estimator_{protocol}",
        f"Error of the noise-level estimate, {protocol}, on the 8-bit scale",
        ("set", "level", "mean (bias)", "mean absolute", "worst (image)"),
        lines,
    )


def speed(results: Results, against: tuple[str, ...] = ("DnCNN", "FFDNet")) -> list[Table]:
    """Time of each denoiser in its faster memory format, ratios to well-known ones; a table per machine and size."""
    tables = []
    for (machine, threads, device, size), group in results.speed.groupby(["machine", "threads", "device", "size"]):
        fastest = group.sort_values("milliseconds").drop_duplicates("network").set_index("network")
        lines = []
        for name, row in fastest.sort_values("milliseconds", ascending=False, na_position="first").iterrows():
            ratios = [row.milliseconds / fastest.milliseconds[n] if n in fastest.index else math.nan for n in against]
            costs = (millions(row.parameters or math.nan), number(row.gmacs, 1), row.memory_format or EMPTY)
            rates = (number(size**2 / row.milliseconds / 1000), number(row.peak_mib, 0))
            times = (number(row.milliseconds, 0), *(number(ratio, 3) for ratio in ratios))
            lines.append((name, *costs, *times, *rates))
        first = group.iloc[0]
        name = re.sub(r"\W+", "_", f"speed_{device}_{size}_{threads}_threads_{machine}".lower()).strip("_")
        pixels = f"{size}x{size}" if size <= 1024 else f"{size}x{size} ({size**2 / 1e6:.0f} megapixels)"
        title = f"Time for {pixels} grey, fp32, on {machine}, {device}, {threads} threads"
        ratio_titles = (f"/ {name}" for name in against)
        header = ("denoiser", "parameters", "GMACs", "memory format", "ms (median)", *ratio_titles, "MP/s", "peak MiB")
        notes = [
            f"Medians of {group.repeats.max()} interleaved repeats in one run, each network in its faster memory "
            "format, untrained weights, batch normalisation folded; freed memory is reused. Peak MiB: beyond network "
            f"and image, in a process of its own. torch {first.torch}, {first.start}, commit {first.git}."
        ]
        if size > 1024:
            notes.append("Networks work in tiles, as `mdrn.denoise` does; their overlap is part of the time.")
        if fastest.milliseconds.isna().any():
            notes.append(f"{EMPTY} for the time: it would have taken longer than the limit of the run.")
        tables.append(Table(name, title, header, lines, tuple(notes)))
    return tables


def networks(results: Results, plan: str) -> Table | None:
    """What was evaluated and how it came about; None without networks."""
    frame = results.final[(results.final.plan == plan) & ~results.final.method.str.endswith(AUTO)]
    lines = []
    for method, group in frame[frame.weights != ""].groupby("method"):
        record = results.records[group.evaluation.iloc[-1]]
        patches = f"{record['patches']:,}".replace(",", " ")
        trained = f"{record['trained_on'].get('sets', '')}, code {record['trained_git']}"
        where = f"{record['machine']}, {record['device']}, {record['threads']} threads"
        versions = f"torch {record['versions']['torch']}, code {record['git']}"
        costs = [number(record.get(name, math.nan), 0) for name in _COSTS]
        cells = (
            f"{record['gmacs_256']:.2f}",
            *costs,
            patches,
            trained,
            f"`{record['weights']}`",
            f"{where}, {versions}",
        )
        lines.append((f"`{method}`", millions(record["parameters"]), *cells))
    if not lines:
        return None
    header = (
        "network",
        "parameters",
        "GMACs at 256x256",
        *_COSTS.values(),
        "patches",
        "trained on",
        "weights SHA-256",
        "evaluated on",
    )
    note = (
        "ms (fastest of 9) and peak memory beyond the loaded network: one image, on the device of the evaluation, in a "
        "process of its own. What else ran on the machine is not known; ratios to other networks are under Speed."
    )
    title = f"Networks of plan `{plan}`" if plan in results.shares else "Networks"  # these stand in one section
    return Table(f"{plan}_networks", title, header, lines, (note,))


def _published_lines(set_name: str, levels: list[float]) -> tuple[list[tuple[str, ...]], list[str]]:
    frame = published()
    frame = frame[(frame["set"] == set_name) & frame.level.isin(levels)]
    sources = {source: chr(ord("a") + index) for index, source in enumerate(dict.fromkeys(frame.source))}
    lines = []
    for (_, method), group in frame.groupby(["year", "method"]):
        psnr = group.set_index("level").psnr
        marks = ", ".join(sorted({sources[source] for source in group.source}))
        size = millions(group.params_m.iloc[0] * 1e6)
        cells = [number(psnr.get(level, math.nan)) for level in levels]
        lines.append((f"{method} {group.year.iloc[0]}, *{AS_PUBLISHED}* [{marks}]", size, *cells))
    if not lines:
        return [], []
    listed = "; ".join(f"[{mark}] {source}" for source, mark in sources.items())
    return lines, [f"*{AS_PUBLISHED.capitalize()}*: PSNR printed by others, not measured here: {listed}."]


def _scores(means: pd.DataFrame, key: tuple[str, float], count: int) -> str:
    if key not in means.index:
        return EMPTY
    numbers = zip(means.loc[key, ["psnr", "ssim", "lpips"]], (2, 4, 3), strict=True)
    return " / ".join([number(value, decimals) for value, decimals in numbers][:count])
