"""`python -m benchmark.design`: the studies that chose stage design and training recipe, on the validation split.

Each candidate of a study trains on equal patches, on one thread; a finished one is not trained again and a killed one
goes on. The same command then times all of them in turn and writes `results/design/{study}.csv`, a table and a figure.
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
from pathlib import Path

import pandas as pd
import torch

from benchmark.rows import write_bytes_atomically
from mdrn.model import PRESETS, ModelConfig
from mdrn.train import TrainConfig

LEVELS = (0.0, 75.0)
SHOWN_LEVELS = ("15", "25", "50")
TINY = PRESETS["mdrn_tiny"]


@dataclasses.dataclass(frozen=True)
class FFDNetConfig:
    """A well-known network trained with our recipe; see `benchmark.networks.FFDNet`."""

    channels: int = 1

    def build(self):
        """Return the network with fresh weights."""
        from benchmark.networks import FFDNet

        return FFDNet(self.channels)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One line of a study.

    Args:
        what: what it changes, for the table.
        model: its network.
        options: training options that differ from the defaults of `TrainConfig`.
        then: what differs from `options` in a second run, which goes on from the first one's weights.
        then_share: the second run's share of the pixels seen.
    """

    what: str
    model: ModelConfig | FFDNetConfig = TINY
    options: dict = dataclasses.field(default_factory=dict)
    then: dict | None = None
    then_share: float = 0.25

    def configs(self, name: str, steps: int) -> list[TrainConfig]:
        """Return the run or two of this candidate; `steps` counts batches of 16 patches of 64 x 64, whatever theirs."""
        shares = [(1.0, self.options)]
        if self.then is not None:
            shares = [(1.0 - self.then_share, self.options), (self.then_share, self.options | self.then)]
        configs = []
        for number, (share, changed) in enumerate(shares):
            options = {"noise_level": LEVELS, "cycle": number, **changed}
            batch, patch = options.get("batch_size", 16), options.get("patch_size", 64)
            equal = round(steps * share * 16 * 64**2 / (batch * patch**2))
            configs.append(TrainConfig(preset=name, model=self.model, steps=equal, **options))
        return configs


STUDIES: dict[str, dict[str, Candidate]] = {
    "designs": {  # near 0.12 M parameters
        "two_stages": Candidate("reference: two stages, three scales"),
        "plain_u": Candidate("one stage: a plain U", ModelConfig(widths=(24, 32, 48), stages=1)),
        "three_stages": Candidate("three stages", ModelConfig(widths=(16, 16, 24), stages=3)),
        "depth_1": Candidate("three stages that degrade once", ModelConfig(widths=(16, 32), stages=3)),
        "depth_3": Candidate("stages that degrade three times", ModelConfig(widths=(16, 16, 16, 32))),
        "shared": Candidate("two stages sharing weights", ModelConfig(widths=(16, 32, 48), shared=True)),
        "full_entry": Candidate("full-resolution entry", ModelConfig(widths=(8, 16, 16, 32), entry=1)),
        "input_fusion": Candidate(
            "stages joined at their input alone", ModelConfig(widths=TINY.widths, fusion="input")
        ),
        "no_deep_supervision": Candidate("last stage supervised alone", options={"stage_weight": 0.0}),
        "gelu": Candidate("GELU for ReLU", ModelConfig(widths=TINY.widths, activation="gelu")),
        "ffdnet": Candidate("FFDNet, 4 times the parameters", FFDNetConfig()),
        "ffdnet_slow": Candidate("FFDNet, learning rate 5e-4", FFDNetConfig(), {"learning_rate": 5e-4}),
    },
    "light": {  # for `mdrn_tiny`: at most 0.12 M parameters and 0.015 of DnCNN's time
        "two_stages": Candidate("two stages", ModelConfig(widths=(16, 24, 32))),
        "no_joint_blocks": Candidate(
            "no blocks where stages join", ModelConfig(widths=(16, 24, 32), joint_blocks=False)
        ),
        "narrow": Candidate("narrower at the second scale", ModelConfig(widths=(16, 16, 32))),
        "u_three_scales": Candidate("plain U", ModelConfig(widths=(16, 32, 48), stages=1)),
        "u_four_scales": Candidate("plain U", ModelConfig(widths=(16, 16, 32, 48), stages=1)),
    },
    "recipe": {
        "reference": Candidate("AdamW 2e-3, batch 16 of 64 x 64, L1"),
        "batch_8": Candidate("batch 8", options={"batch_size": 8}),
        "batch_32": Candidate("batch 32", options={"batch_size": 32}),
        "patch_48": Candidate("patches of 48 x 48", options={"patch_size": 48}),
        "patch_96": Candidate("patches of 96 x 96", options={"patch_size": 96}),
        "rate_1e-3": Candidate("learning rate 1e-3", options={"learning_rate": 1e-3}),
        "rate_4e-3": Candidate("learning rate 4e-3", options={"learning_rate": 4e-3}),
        "lion": Candidate("Lion 3e-4", options={"optimizer": "lion", "learning_rate": 3e-4, "weight_decay": 1e-3}),
        "muon": Candidate("Muon", options={"optimizer": "muon", "learning_rate": 1e-2}),
        "charbonnier": Candidate("Charbonnier loss", options={"loss": "charbonnier"}),
        "mse": Candidate("squared error", options={"loss": "mse"}),
        "ema_0.9995": Candidate("longer running mean", options={"ema_decay": 0.9995}),
        "no_decay": Candidate("no weight decay", options={"weight_decay": 0.0}),
        "extra_data": Candidate("BSDS500 and extra photographs", options={"data": ("bsds", "extra")}),
        "constant": Candidate("constant learning rate after warm-up", options={"final_learning_rate": 1.0}),
        "two_cycles": Candidate("half the steps twice", then={"learning_rate": 1e-3}, then_share=0.5),
        "mse_at_end": Candidate("squared error in the last quarter", then={"loss": "mse", "learning_rate": 5e-4}),
        "growing": Candidate(
            "48 x 48, in the second half 96 x 96",
            options={"patch_size": 48},
            then={"patch_size": 96},
            then_share=0.5,
        ),
    },
}


def run_one(study: str, name: str, steps: int, runs: str, root: str | None) -> str:
    """Train one candidate on one thread, or find it trained; return its record's path."""
    from mdrn.train import fit

    torch.set_num_threads(1)
    out = Path(runs) / str(steps) / name
    weights = None
    for config in STUDIES[study][name].configs(name, steps):
        if weights:
            config = dataclasses.replace(config, init_from=str(weights))
        folder = out / str(config.cycle) if config.cycle else out
        weights = folder / f"{config.id}.safetensors"
        if not weights.with_suffix(".json").exists():
            fit(config, folder, root=root, validations=4, quiet=True)
    return str(weights.with_suffix(".json"))


def measure(study: str, names: list[str], repeats: int = 5) -> dict[str, dict[str, float]]:
    """Return parameters, MACs, receptive field, training patches/s and time against DnCNN, all timed in turn."""
    from benchmark import speed
    from benchmark.networks import DnCNN
    from mdrn.trainer import Trainer, build_criterion, draw_batch

    candidates = {name: STUDIES[study][name] for name in names}
    models = {name: candidate.model.build().eval() for name, candidate in candidates.items()}
    timed = {"DnCNN": DnCNN().eval().folded()} | {n: copy for n, copy in models.items() if study != "recipe"}
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


def write_report(study: str, records: dict[str, dict], facts: dict[str, dict], out: Path) -> str:
    """Write the study's CSV, Markdown table and figure; return the table."""
    order = sorted(records, key=lambda name: -sum(records[name]["psnr"][level] for level in SHOWN_LEVELS))
    lines = []
    for name in order:
        record = records[name]
        psnr = {f"psnr_{level}": round(record["psnr"][level], 3) for level in SHOWN_LEVELS}
        what = STUDIES[study][name].what
        lines.append({"name": name, "what": what, **facts[name], "patches": record["patches"], **psnr})
    if study != "recipe":
        _figure(study, lines).write(out)
    return write_table(lines, out, study)


def write_table(lines: list[dict], out: Path, name: str) -> str:
    """Write lines with the same keys as `{name}.csv` and as a Markdown table `{name}.md`; return the table."""
    frame = pd.DataFrame(lines)
    write_bytes_atomically(out / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.astype(str).to_numpy()]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    write_bytes_atomically(out / f"{name}.md", (table + "\n").encode())
    return table


def _figure(study: str, lines: list[dict]):
    from benchmark.drawing import column_axes, finish, scatter

    shown = [line for line in lines if line["time_against_dncnn"] != ""]
    with column_axes() as (figure, axes):
        points = [(line["time_against_dncnn"], line["psnr_25"], line["name"]) for line in shown]
        scatter(axes, points, [])
        axes.set_xlabel("time for 512 x 512 against DnCNN")
        axes.set_ylabel("validation PSNR at 25 (dB)")
        return finish(figure, study, "Stage designs: validation PSNR against CPU time.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.design", description=__doc__.split("\n\n")[0])
    parser.add_argument("--study", choices=list(STUDIES), default="designs")
    parser.add_argument("--steps", type=int, default=4000, help="batches of 16 patches; default: 4000")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on one thread each; default: 2")
    parser.add_argument("--only", nargs="+", help="names of candidates")
    parser.add_argument("--runs", default="runs/design")
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, default=Path("results/design"))
    options = parser.parse_args()
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
                record = json.loads(Path(future.result()).read_text())
            except (ValueError, RuntimeError, OSError) as error:
                print(f"{futures[future]}: not finished: {error}", file=sys.stderr, flush=True)
                continue
            records[futures[future]] = {"psnr": record["history"][-1]["psnr"], "patches": record["patches"]}
            print(futures[future], record["history"][-1]["psnr"], f"{record['seconds']:.0f} s", flush=True)
    if records:
        print(write_report(options.study, records, measure(options.study, list(records)), options.out))
    return 0 if len(records) == len(names) else 2


if __name__ == "__main__":
    sys.exit(main())
