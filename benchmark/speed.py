"""`python -m benchmark.speed`: how fast the presets are against well-known networks, on this machine.

All networks are timed in turn, round after round, so that a busy moment hurts them alike; each counts in its faster
memory format. Untrained weights suffice. Rows go to `speed.csv`; nothing imports this module.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from benchmark import results, rows, tables
from benchmark.evaluate import exact_fp32
from benchmark.networks import DnCNN, FFDNet, gmacs
from benchmark.provenance import surroundings
from mdrn.model import MDRN, PRESETS, count_parameters

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SIGMA = 0.1  # of no consequence


def networks() -> dict[str, nn.Module]:
    """Return the networks to compare, with drawn weights: DnCNN (normalisation folded), FFDNet, the grey presets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = {"DnCNN": DnCNN().eval().folded(), "FFDNet": FFDNet()}
        models |= {name: MDRN(config) for name, config in PRESETS.items() if config.channels == 1}
    return {name: model.eval() for name, model in models.items()}


def measure(
    models: dict[str, nn.Module],
    size: int = 512,
    repeats: int = 5,
    device: str = "cpu",
    on_round: Callable[[], object] = lambda: None,
) -> list[rows.SpeedRow]:
    """Time every network in every memory format, interleaved; each timed call follows one that is not timed.

    Args:
        models: name -> network under the denoiser contract, grey, in eval mode.
        size: side of the square image in pixels.
        repeats: timed rounds, after one that is not.
        device: 'cpu' or 'cuda'.
        on_round: called after each round.
    """
    here = surroundings(device)
    noisy = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    seconds: dict[tuple[str, str], list[float]] = {(name, kind): [] for name in models for kind in FORMATS}
    with exact_fp32(), torch.inference_mode():
        for repeat in range(repeats + 1):
            for (name, kind), times in seconds.items():
                model = models[name].to(device, memory_format=FORMATS[kind])
                image = noisy.contiguous(memory_format=FORMATS[kind])
                _seconds(model, image)  # memory and caches as this network leaves them, not the one before it
                elapsed = _seconds(model, image)
                if repeat:
                    times.append(elapsed)
            on_round()
    run = rows.short_hash([here, size, repeats, time.time_ns()])[:12]
    measured = []
    for (name, kind), times in seconds.items():
        measured.append(
            rows.SpeedRow(
                run=run,
                network=name,
                parameters=count_parameters(models[name]),
                gmacs=gmacs(models[name], size=size),
                memory_format=kind,
                size=size,
                milliseconds=1000 * statistics.median(times),
                fastest=1000 * min(times),
                repeats=repeats,
                device=device,
                machine=str(here["machine"]),
                threads=int(here["threads"]),
                torch=torch.__version__,
                git=str(here["git"]),
                start=str(here["start"]),
            )
        )
    return measured


def _seconds(model: nn.Module, image: torch.Tensor) -> float:
    if image.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(image, SIGMA)
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: print the table, add the rows; 2 with one line on stderr for any error."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", metavar="DIR", default="results", help="where speed.csv is; default: results")
    parser.add_argument("--size", type=int, default=512, help="side of the square image; default: 512")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds; default: 5")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")
    options = parser.parse_args(arguments)
    if options.size < 16 or options.repeats < 1:
        parser.error("--size: expected at least 16, --repeats: at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; use cpu")
    out = Path(options.out)
    try:
        with tqdm(total=options.repeats + 1, unit="round", disable=options.quiet) as bar:
            measured = measure(networks(), options.size, options.repeats, options.device, bar.update)
        rows.append(out / rows.SPEED, measured, rows.SpeedRow)
        for table in tables.speed(results.load(out)):
            print(table.markdown())
    except (OSError, rows.RowsError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
