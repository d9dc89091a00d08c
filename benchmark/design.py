"""`python -m benchmark.design`: the studies that chose stage design and training recipe, on the validation split.

Each candidate of a study trains on equal patches, on one thread; a finished one is not trained again and a killed one
goes on. The same command then times all of them in turn and writes `results/design/{study}.csv`, page and figure.
Imports `mdrn` and this package; nothing imports this module.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from mdrn.recipe import TrainConfig

from benchmark.drawing import Figure, column_axes, finish, scatter
from benchmark.rows import write_bytes_atomically
from benchmark.studies import CONCLUSIONS, REFERENCES, STUDIES
from mdrn.allocator import reuse_freed_memory
from mdrn.checkpoint import CheckpointError, read_header

DESIGNS = ("designs", "light")  # studies of networks: these are timed, and drawn
SHOWN_LEVELS = ("15", "25", "50")
PAGE = """# How design and recipe were chosen

Written by `python -m benchmark.design --study NAME` and `python -m benchmark.step_profile`; do not edit. All choices
are made on the 32 validation images of BSDS500; no test set takes part. One seed for each candidate: a
difference of a few hundredths of a dB says nothing. `psnr_25`: mean PSNR in dB at noise level 25; `time_against_dncnn`:
time for 512 x 512 grey, fp32, over DnCNN's in the same run; `patches_per_second`: training on one thread;
`gmacs_256`: multiply-accumulates for 256 x 256, in 10^9; `radius`: of the receptive field, in pixels.
"""

LONG = """Long runs, released or not (`--record FILE`): what a short study says of batch and rate need not hold in them.
`patches` and `minutes` are those of the run itself, not of the weights it started from."""


def run_one(study: str, name: str, steps: int, runs: str, root: str | None) -> str:
    """Train one candidate on one thread, or find it trained; return its record's path."""
    from mdrn.train import fit

    torch.set_num_threads(1)
    record = None
    for config in STUDIES[study][name].configs(name, steps):
        if record:
            config = dataclasses.replace(config, init_from=str(record.with_suffix(".safetensors")))
        record = record_of(config, name, steps, runs)
        if not record.exists():
            fit(config, record.parent, root=root, validations=4, quiet=True)
    return str(record)


def record_of(config: TrainConfig, name: str, steps: int, runs: str) -> Path:
    """Return where the record of a candidate's run is, its weights beside it."""
    folder = Path(runs) / str(steps) / name
    return (folder / str(config.cycle) if config.cycle else folder) / f"{config.id}.json"


def measure(study: str, names: list[str], repeats: int = 5) -> dict[str, dict[str, float]]:
    """Return parameters, MACs, receptive field, training patches/s and time against DnCNN, all timed in turn."""
    from mdrn.trainer import Trainer, build_criterion, draw_batch

    from benchmark import speed
    from benchmark.networks import DnCNN

    candidates = {name: STUDIES[study][name] for name in names}
    models = {name: candidate.model.build().eval() for name, candidate in candidates.items()}
    timed = {"DnCNN": DnCNN().eval().folded()} | {n: copy for n, copy in models.items() if study in DESIGNS}
    best: dict[str, float] = {}
    for row in speed.measure(timed, repeats=repeats):
        best[row.network] = min(best.get(row.network, float("inf")), row.milliseconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    facts = {}
    for name, candidate in candidates.items():
        config = candidate.configs(name, 100)[0]
        trainer = Trainer(config, build_criterion(config), torch.device("cpu"))
        source = sample_source()
        for step in range(12):
            if step == 2:
                began = time.perf_counter()
            trainer.train_step(*draw_batch(config, source, step))
        patches = 10 * config.batch_size / (time.perf_counter() - began)
        facts[name] = {
            "parameters": sum(p.numel() for p in models[name].parameters()),
            "gmacs_256": speed.gmacs(models[name]),
            "radius": getattr(models[name], "receptive_field_radius", ""),
            "patches_per_second": round(patches, 1),
            "time_against_dncnn": round(best[name] / best["DnCNN"], 4) if name in best else "",
        }
    torch.set_num_threads(threads)
    return facts


def sample_source(device: str = "cpu"):
    """Return a source of grey patches that is at hand everywhere: timing does not ask for the training images."""
    from mdrn.data import PatchSource, sample_files

    return PatchSource.from_files(sample_files(), 1, torch.device(device))


def write_study(study: str, records: dict[str, dict], facts: dict[str, dict], out: Path) -> None:
    """Write the study's CSV file, best candidate first, and bring the page up to date."""
    order = sorted(records, key=lambda name: -sum(records[name]["psnr"][level] for level in SHOWN_LEVELS))
    lines = []
    for name in order:
        record = records[name]
        psnr = {f"psnr_{level}": round(record["psnr"][level], 3) for level in SHOWN_LEVELS}
        what = STUDIES[study][name].what
        lines.append({"name": name, "what": what, **facts[name], "patches": record["patches"], **psnr})
    write_csv(pd.DataFrame(lines), out / f"{study}.csv")
    write_page(out)


def record_runs(paths: list[Path], out: Path) -> None:
    """Add long runs to `long.csv` from their records and the weights beside them, whether they were released or not.

    Args:
        paths: the `{id}.json` of each.
        out: folder of the page, which is brought up to date.
    """
    table = out / "long.csv"
    lines = pd.read_csv(table, dtype=str, keep_default_na=False).to_dict("records") if table.exists() else []
    for path in paths:
        header, curve = read_header(path.with_suffix(".safetensors")), json.loads(path.read_text())
        recipe, last = header.recipe, curve["history"][-1]["psnr"]
        line = {
            "network": header.id,
            "widths": "/".join(map(str, header.model.widths)),
            "stages": getattr(header.model, "stages", ""),
            "parameters": sum(p.numel() for p in header.model.build().parameters()),
            "starts_from": recipe["init_from"] or "random weights",
            "batch": _batch(recipe),
            "optimizer": recipe["optimizer"],
            "learning_rate": recipe["learning_rate"],
            "loss": _loss(recipe),
            "patches": header.patches - curve.get("earlier_patches", 0),
            "minutes": round(curve["seconds"] / 60),
            "threads": curve["threads"],
            **{f"psnr_{level}": round(last[level], 3) if level in last else "" for level in SHOWN_LEVELS},
            "weights": header.sha256[:16],
        }
        lines = [other for other in lines if other["weights"] != line["weights"]] + [line]
    write_csv(pd.DataFrame(lines).sort_values(["network", "weights"]), table)
    write_page(out)


def _batch(recipe: Mapping[str, object]) -> str:
    batch, side, share = recipe["batch_size"], recipe["patch_size"], recipe.get("large_patches", 0.0)
    larger = f"; {batch // 4} of {2 * side} x {2 * side} in the last {share:.0%}" if share else ""
    return f"{batch} of {side} x {side}{larger}"


def _loss(recipe: Mapping[str, object]) -> str:
    share = recipe.get("mse_share", 0.0)
    return f"{recipe['loss']}{f'; mse in the last {share:.0%}' if share else ''}"


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table, atomically."""
    write_bytes_atomically(path, frame.to_csv(index=False, lineterminator="\n").encode())


def write_page(out: Path) -> None:
    """Write `README.md` and the figures from the CSV files in `out`."""
    parts = [PAGE]
    for study in STUDIES:
        if not (out / f"{study}.csv").exists():
            continue
        frame = pd.read_csv(out / f"{study}.csv")
        parts.append(f"## {study}\n")
        if REFERENCES[study] <= set(frame.name):
            parts.append(CONCLUSIONS[study](frame.set_index("name")) + "\n")
        if study in DESIGNS:
            figure = _figure(study, frame)
            figure.write(out)
            parts.append(f"![{figure.caption}]({figure.name}.png)\n")
        parts.append(as_markdown(frame))
    if (out / "long.csv").exists():
        parts += ["## long\n", LONG + "\n", as_markdown(pd.read_csv(out / "long.csv"))]
    for path in sorted(out.glob("step_*.csv")):
        frame = pd.read_csv(path)
        parts += [f"## {path.stem}\n", CONCLUSIONS["step"](frame) + "\n", as_markdown(frame)]
    write_bytes_atomically(out / "README.md", "\n".join(parts).encode())


def as_markdown(frame: pd.DataFrame) -> str:
    """Return a table in Markdown, empty cells for what is missing."""
    text = frame.astype(object).where(frame.notna(), "").astype(str)
    rows = [frame.columns, ["---"] * len(frame.columns), *text.to_numpy()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _figure(study: str, frame: pd.DataFrame) -> Figure:
    with column_axes() as (figure, axes):
        points = list(zip(frame.time_against_dncnn, frame.psnr_25, frame.name, strict=True))
        ours = [point for point in points if point[2] in ("two_stages", "plain_u", "finest_up")]
        scatter(axes, [point for point in points if point not in ours], ours, legend="best")
        axes.get_legend().set_frame_on(True)  # its markers are no points
        axes.set_xlabel("time for 512 x 512 against DnCNN")
        axes.set_ylabel("validation PSNR at 25 (dB)")
        return finish(figure, study, f"Study '{study}': validation PSNR at level 25 against CPU time.")


def _read_record(path: Path) -> dict:
    record = json.loads(path.read_text())
    return {"psnr": record["history"][-1]["psnr"], "patches": record["patches"], "seconds": record["seconds"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.design", description=__doc__.split("\n\n")[0])
    parser.add_argument("--study", choices=list(STUDIES), default="designs")
    parser.add_argument("--steps", type=int, default=4000, help="batches of 16 patches; default: 4000")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on one thread each; default: 2")
    parser.add_argument("--only", nargs="+", help="names of candidates")
    parser.add_argument("--runs", default="runs/design")
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, default=Path("results/design"))
    parser.add_argument("--report-only", action="store_true", help="write page and figures from the CSV files alone")
    parser.add_argument("--record", type=Path, nargs="+", metavar="FILE", help="add long runs by their records")
    options = parser.parse_args()
    reuse_freed_memory()  # as the command line does
    if options.record:
        try:
            record_runs(options.record, options.out)
        except (OSError, ValueError, KeyError, CheckpointError) as error:
            parser.error(f"--record: expected the .json that training wrote, its weights beside it: {error}")
        return 0
    if options.report_only:
        write_page(options.out)
        return 0
    names = options.only or list(STUDIES[options.study])
    unknown = sorted(set(names) - set(STUDIES[options.study]))
    if unknown:
        parser.error(f"--only: expected some of {', '.join(STUDIES[options.study])}, got {', '.join(unknown)}")
    context = multiprocessing.get_context("spawn")
    records: dict[str, dict] = {}
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        arguments = (options.steps, options.runs, options.data_root)
        futures = {pool.submit(run_one, options.study, name, *arguments): name for name in names}
        for future in concurrent.futures.as_completed(futures):
            try:
                record = _read_record(Path(future.result()))
            except (ValueError, RuntimeError, OSError) as error:
                print(f"{futures[future]}: not finished: {error}", file=sys.stderr, flush=True)
                continue
            records[futures[future]] = record
            print(futures[future], record["psnr"], f"{record['seconds']:.0f} s", flush=True)
    for name, candidate in STUDIES[options.study].items():  # rows of earlier invocations stay
        path = record_of(candidate.configs(name, options.steps)[-1], name, options.steps, options.runs)
        if name not in names and path.exists():
            records[name] = _read_record(path)
    if records:
        write_study(options.study, records, measure(options.study, list(records)), options.out)
    return 0 if set(names) <= set(records) else 2


if __name__ == "__main__":
    sys.exit(main())
