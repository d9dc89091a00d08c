"""`python -m benchmark.step_profile`: what a training step spends its time on, per network; writes `results/design/`.

Shares are of the operators' own time, so they hold on a busy machine too. Nothing imports this module.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from mdrn.recipe import NETWORKS, TrainConfig
from mdrn.trainer import Trainer, build_criterion, draw_batch
from torch.profiler import ProfilerActivity, profile

from benchmark.design import sample_source, write_csv, write_page

KINDS = {  # first match of the operator's name decides; the rest is 'other'
    "convolution": ("convolution", "conv_transpose"),
    "optimizer and running mean": ("Optimizer", "_fused_adam", "_foreach", "lerp", "vector_norm"),
    "format and precision": ("copy_", "contiguous", "to_copy", "pixel", "reorder"),
    "elementwise": ("add", "relu", "threshold", "mul", "sub", "abs", "sgn", "mean", "fill_", "zero_", "div", "cat"),
    "batch and noise": ("normal", "uniform", "random", "index", "rand"),
}


def shares(preset: str, device: str, steps: int) -> dict[str, float]:
    """Return each kind of operator's share of a training step of `preset`, in percent of all operators' own time."""
    config = TrainConfig(preset=preset, noise_level=(0.0, 75.0))
    trainer = Trainer(config, build_criterion(config), torch.device(device))
    source = sample_source(device)
    for step in range(5):
        trainer.train_step(*draw_batch(config, source, step))
    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        for step in range(5, 5 + steps):
            trainer.train_step(*draw_batch(config, source, step))
    times = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "other")
        times[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(times.values())
    return {kind: round(100 * time / total, 1) for kind, time in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.step_profile", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/design"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = []
    for preset, config in NETWORKS.items():
        if config.channels == 1:
            measured = shares(preset, options.device, options.steps)
            lines.append({"network": preset, "device": options.device} | {f"{k} (%)": v for k, v in measured.items()})
    write_csv(pd.DataFrame(lines), options.out / f"step_{options.device}.csv")
    write_page(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
