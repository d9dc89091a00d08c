"""`python -m benchmark.speed`: how fast the presets are against well-known denoisers, on this machine.

All are timed in turn, round after round, so that a busy moment hurts them alike; each network counts in its faster
memory format, in fp32. Untrained weights suffice. Rows go to `speed.csv`, which keeps the newest run of a machine.
Nothing imports this module.
"""

import argparse
import copy
import dataclasses
import functools
import importlib.util
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from benchmark import rows, summary, tables
from benchmark.baselines import DnCNN, FFDNet, gmacs
from benchmark.evaluate import exact_fp32, machine_name, now
from benchmark.methods import bm3d
from mdrn.classical import CLASSICAL
from mdrn.denoiser import MdrnError, check_device, count_parameters
from mdrn.inference import restore, reuse_freed_memory
from mdrn.model import MDRN, PRESETS
from mdrn.train import git_revision

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SIZES = (256, 512, 1024, 3464)  # sides of squares; the last one has 12 megapixels
WHOLE = 1024  # larger images go through the tiles of `mdrn.denoise`
SIGMA = 0.1  # of no consequence
_TILED_ROUNDS = 3
_MIN_SECONDS = 0.2  # a shorter call is repeated for so long: one call of a small network says little
_PROBE = 128
Denoiser = Callable[[torch.Tensor, float], torch.Tensor]


def networks() -> dict[str, nn.Module]:
    """Return the networks to compare, with drawn weights: DnCNN, FFDNet and the presets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models: dict[str, nn.Module] = {"DnCNN": DnCNN(), "FFDNet": FFDNet()}
        models |= {name: MDRN(config) for name, config in PRESETS.items()}
    return {name: model.eval() for name, model in models.items()}


def classical() -> dict[str, Denoiser]:
    """Return the classical denoisers to compare, BM3D where its package is installed."""
    return CLASSICAL | ({"bm3d": bm3d} if importlib.util.find_spec("bm3d") else {})


def measure(
    models: Mapping[str, nn.Module | Denoiser],
    size: int = 512,
    repeats: int = 5,
    device: str = "cpu",
    on_round: Callable[[], object] = lambda: None,
    limit: float = math.inf,
) -> list[rows.SpeedRow]:
    """Time every denoiser in every memory format, interleaved.

    A round's time is the median over at least 0.2 seconds of calls, after one that is not timed; in tiles, of one call.

    Args:
        models: name -> network under the denoiser contract in eval mode, or a function under the same contract, grey.
        size: side of the square image in pixels; above `WHOLE` networks work in tiles, as `mdrn.denoise` does.
        repeats: timed rounds, after one that is not; fewer for images in tiles.
        device: 'cpu' or 'cuda'.
        on_round: called after each round.
        limit: what would take more seconds for one image, by its time for a small one, is left out: a row without time.
    """
    here = {"machine": machine_name(device), "threads": torch.get_num_threads(), "git": git_revision(), "start": now()}
    noisy = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    calls = {(n, kind): _call(model, kind, noisy) for n, model in models.items() for kind in _kinds(model, size)}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    rounds = repeats if size <= WHOLE else min(repeats, _TILED_ROUNDS)
    with exact_fp32(), torch.inference_mode():
        running = [key for key in calls if limit == math.inf or _predicted(models[key[0]], key[1], noisy) <= limit]
        for repeat in range(rounds + 1):
            for key in running:
                elapsed = (_seconds if size <= WHOLE else seconds_of)(calls[key], device)
                if repeat:
                    seconds[key].append(elapsed)
            on_round()
    run = rows.short_hash([here, size, repeats, time.time_ns()])[:12]
    costs = {n: (count_parameters(m), gmacs(m, size)) for n, m in models.items() if isinstance(m, nn.Module)}
    return [
        rows.SpeedRow(
            run=run,
            network=name,
            parameters=costs.get(name, (0, None))[0],
            gmacs=costs.get(name, (0, None))[1],
            memory_format=kind,
            size=size,
            milliseconds=1000 * statistics.median(times) if times else None,
            fastest=1000 * min(times) if times else None,
            repeats=len(times),
            device=device,
            torch=torch.__version__,
            **here,
        )
        for (name, kind), times in seconds.items()
    ]


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mib(call: Callable[[], object]) -> float | None:
    """Return the memory in MiB that a call takes at most beyond what is taken; None where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def mib(field: str) -> float:
        return int(re.search(rf"^{field}:\s+(\d+)", status.read_text(), re.MULTILINE)[1]) / 1024

    try:
        before = mib("VmRSS")
        reset.write_text("5")  # the kernel forgets the process's earlier peak
        call()
        return round(mib("VmHWM") - before, 1)
    except (OSError, TypeError):  # no such file, or no such field
        return None


def _seconds(call: Callable[[], object], device: str) -> float:
    """Return the median wall time of a call over `_MIN_SECONDS`, after one that is not timed."""
    seconds_of(call, device)  # memory and caches as this one leaves them, not the one before it
    times: list[float] = []
    while sum(times) < _MIN_SECONDS:
        times.append(seconds_of(call, device))
    return statistics.median(times)


def _kinds(model: nn.Module | Denoiser, size: int) -> tuple[str, ...]:
    """Return the memory formats to try: one for tiles, which choose theirs, and none for a classical denoiser."""
    if not isinstance(model, nn.Module):
        return ("",)
    return tuple(FORMATS) if size <= WHOLE else ("channels_last",)


def _call(model: nn.Module | Denoiser, kind: str, noisy: torch.Tensor) -> Callable[[], object]:
    """Return what is timed: one image restored, in colour by a colour network and else in grey."""
    if not isinstance(model, nn.Module):
        return functools.partial(model, noisy[:, :1].cpu(), SIGMA)
    size, layout = noisy.shape[-1], FORMATS[kind]
    noisy = noisy[:, : model.config.channels]
    if size > WHOLE:
        image = noisy[0].movedim(0, -1).cpu().numpy()
        model = model.to(noisy.device, memory_format=layout)
        return lambda: restore(image, 255 * SIGMA, model, device=noisy.device.type)
    image = noisy.contiguous(memory_format=layout)
    network = copy.deepcopy(model).to(noisy.device, memory_format=layout)
    return lambda: network(image, SIGMA)


def _predicted(model: nn.Module | Denoiser, kind: str, noisy: torch.Tensor) -> float:
    """Return the seconds that the whole image will take, judged by a corner of it."""
    side = min(_PROBE, noisy.shape[-1])
    probe = _call(model, kind, noisy[..., :side, :side])
    seconds_of(probe, noisy.device.type)
    return seconds_of(probe, noisy.device.type) * (noisy.shape[-1] / side) ** 2


def peak_of(name: str, kind: str, size: int) -> float | None:
    """Return the memory in MiB that restoring one image takes beyond network and image, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (name, kind, size))


def _peak_here(name: str, kind: str, size: int) -> float | None:
    reuse_freed_memory()
    model = (networks() | classical())[name]
    call = _call(model, kind, torch.rand(1, 3, size, size))
    with torch.inference_mode():
        _call(model, kind, torch.rand(1, 3, 32, 32))()  # what is imported and set up once
        return peak_mib(call)


def with_peaks(measured: list[rows.SpeedRow], on_each: Callable[[], object]) -> list[rows.SpeedRow]:
    """Return the rows with the peak memory of each denoiser in its faster format; the slower one's stays empty."""
    timed = [row for row in measured if row.milliseconds]
    fastest = {row.network: row for row in sorted(timed, key=lambda row: -row.milliseconds)}
    filled = []
    for row in measured:
        if row is fastest.get(row.network) and row.device == "cpu":
            row = dataclasses.replace(row, peak_mib=peak_of(row.network, row.memory_format, row.size))
        on_each()
        filled.append(row)
    return filled


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: print the tables, add the rows; 2 with one line on stderr for any error."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", metavar="DIR", default="results", help="where speed.csv is; default: results")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides of squares; default: 256 to 12 MP")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds; default: 5")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one image, else left out; default: 60")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")
    options = parser.parse_args(arguments)
    if min(options.sizes) < 16 or options.repeats < 1:
        parser.error("--sizes: expected at least 16, --repeats: at least 1")
    reuse_freed_memory()
    out = Path(options.out)
    try:
        check_device(options.device)
        rows.read(out / rows.SPEED, rows.SpeedRow)  # damage is found before the work, not after it
        measured = []
        models = networks() | (classical() if options.device == "cpu" else {})
        for size in options.sizes:
            with tqdm(desc=f"{size} x {size}", unit="step", disable=options.quiet) as bar:
                timed = measure(models, size, options.repeats, options.device, bar.update, options.limit)
                measured += with_peaks(timed, bar.update)
        new = [dataclasses.replace(row, run=measured[0].run) for row in measured]
        rows.append(out / rows.SPEED, new, rows.SpeedRow, lambda row: (row.machine, row.threads, row.device, row.size))
        for table in tables.speed(summary.load(out)):
            print(table.markdown())
    except (OSError, MdrnError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
