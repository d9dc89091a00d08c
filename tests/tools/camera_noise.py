"""`python -m tests.tools.camera_noise`: the noise of `mdrn.camera` beside that of real photographs.

Real noise is the difference of one shot and the mean of many in PolyU's crops for decisions; no pixel of them is drawn.
Writes `camera_noise.csv` and `camera_noise.png` into the results folder. Nothing imports this module.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark import testsets
from benchmark.drawing import COLOURS, GREY, open_axes, png_of
from mdrn import data
from mdrn.camera import Camera, photograph
from mdrn.denoiser import MdrnError
from mdrn.files.writing import write_atomically

REAL, SYNTHETIC = "PolyU", "mdrn.camera"
SIDE = 160  # pixels of a crop
DRAWS_PER_IMAGE = 3
DISTANCES = range(9)
BANDS = 16  # of frequencies, from 0 to half a cycle for each pixel
BRIGHTNESS = range(16, 256, 32)  # middles of bins 32 wide
LUMA = np.array([0.299, 0.587, 0.114])
QUANTILES = (0.1, 0.5, 0.9)
Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # name of a statistic -> x, y


def real_pairs(root: Path | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (clean, noisy) middles of PolyU's crops for decisions, (160, 160, 3) uint8."""
    images = testsets.load("PolyU_decisions", root)
    for name, clean in images.clean.items():
        top, left = ((size - SIDE) // 2 for size in clean.shape[:2])
        window = (slice(top, top + SIDE), slice(left, left + SIDE))
        yield clean[window], images.noisy[name][window]


def synthetic_pairs(root: Path | None, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (clean, noisy) photographs that drawn cameras take of the validation images."""
    rng = np.random.default_rng(seed)
    for path in data.validation_files(root):
        scene = data.read_uint8(path, 3)
        for _ in range(DRAWS_PER_IMAGE):
            camera = Camera.draw(rng)
            side = camera.scene_side(SIDE)
            clean, noisy = photograph(scene[:side, :side], camera, rng)
            yield clean[:SIDE, :SIDE], noisy[:SIDE, :SIDE]


def statistics(clean: np.ndarray, noisy: np.ndarray) -> Curves:
    """Return the spectrum, the autocorrelations and the deviation by brightness of one photograph's noise."""
    noise = noisy.astype(np.float64) - clean
    noise -= noise.mean(axis=(0, 1))
    luma = noise @ LUMA
    colour = noise - luma[..., None]
    power = np.abs(np.fft.fft2(luma)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(size) for size in luma.shape), indexing="ij"))
    band = (frequency * 2 * BANDS).astype(int)
    spectrum = np.array([power[band == index].mean() for index in range(BANDS)])
    distances = np.array(DISTANCES)
    found = {"spectrum": ((np.arange(BANDS) + 0.5) / (2 * BANDS), spectrum / spectrum.mean())}
    for name, planes in (("autocorrelation, brightness", luma[..., None]), ("autocorrelation, colour", colour)):
        found[name] = distances, np.array([_autocorrelation(planes, distance) for distance in distances])
    shown = clean @ LUMA
    bins = [luma[np.abs(shown - middle) <= 16] for middle in BRIGHTNESS]
    deviations = [part.std() if part.size > 500 else np.nan for part in bins]
    found["deviation by brightness"] = np.array(BRIGHTNESS), np.array(deviations) / luma.std()
    return found


def _autocorrelation(planes: np.ndarray, distance: int) -> float:
    """Return the correlation of (H, W, C) with itself that many pixels further, down and across."""
    end = planes.shape[0] - distance
    products = (planes[:end] * planes[distance:]).mean() + (planes[:, :end] * planes[:, distance:]).mean()
    return float(products / 2 / np.square(planes).mean())


def summarise(curves: list[Curves]) -> Curves:
    """Return for each statistic x and the quantiles of y over photographs, (3, len(x))."""
    found = {}
    for name, (x, _) in curves[0].items():
        values = np.array([curve[name][1] for curve in curves])
        enough = np.isfinite(values).sum(axis=0) >= min(5, len(values))
        found[name] = x[enough], np.nanquantile(values[:, enough], QUANTILES, axis=0)
    return found


def draw(summaries: dict[str, Curves]) -> bytes:
    """Return the figure as PNG: medians as lines, four fifths of the photographs as bands."""
    panels = {
        "spectrum": ("cycles for each pixel", "power of the brightness's noise"),
        "autocorrelation, brightness": ("distance (pixels)", "autocorrelation, brightness"),
        "autocorrelation, colour": ("distance (pixels)", "autocorrelation, colour"),
        "deviation by brightness": ("brightness (8 bits)", "noise, of its mean"),
    }
    with open_axes(2, 2, size=(7.2, 5.0)) as grid:
        for axes, (name, (across, up)) in zip(grid.flat, panels.items(), strict=True):
            for (source, curves), colour in zip(summaries.items(), (GREY, COLOURS[1]), strict=True):
                x, (low, middle, high) = curves[name]
                axes.plot(x, middle, color=colour, label=source)
                axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel=across, ylabel=up, yscale="log" if name == "spectrum" else "linear")
            axes.legend(frameon=False)
        return png_of(axes.figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.camera_noise", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-root", type=Path, default=data.data_root(), help="folder with PolyU and BSDS500")
    parser.add_argument("--out", type=Path, default=Path("results"), help="results folder")
    options = parser.parse_args()
    try:
        pairs = {REAL: real_pairs(options.data_root), SYNTHETIC: synthetic_pairs(options.data_root)}
        summaries = {source: summarise([statistics(*pair) for pair in found]) for source, found in pairs.items()}
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["statistic", "source", "x", "p10", "median", "p90"])
        for source, curves in summaries.items():
            for name, (x, y) in curves.items():
                for place, quantiles in zip(x, y.T, strict=True):
                    writer.writerow([name, source, f"{place:g}", *(f"{value:.4f}" for value in quantiles)])
        write_atomically(options.out / "camera_noise.csv", table.getvalue().encode())
        write_atomically(options.out / "camera_noise.png", draw(summaries))
    except (MdrnError, OSError) as error:
        print(f"python -m tests.tools.camera_noise: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
