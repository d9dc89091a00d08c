"""`python -m benchmark.showcase`: the picture of the README, and the numbers on it.

One freely licensed photograph that scikit-image ships, the benchmark's noise, and what each method makes of it. Writes
`photograph_denoised.png` and its numbers into the results folder. Nothing imports this module.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

import numpy as np
import torch

import mdrn
from benchmark.drawing import STYLE
from mdrn import metrics, noise
from mdrn.classical import non_local_means
from mdrn.denoiser import MdrnError
from mdrn.files.writing import write_atomically

CROP = (slice(60, 260), slice(140, 440))  # of 512 x 512, what the picture shows; PSNR is of the whole image
TINY, BASE = "mdrn_tiny", "mdrn"
LEVEL = 25


def panels(clean: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return (title, uint8 image) of the noisy photograph and of each method's result, worst first, clean last."""
    noisy = torch.from_numpy(noise.benchmark_noisy(clean, LEVEL))[None, None]
    sigma = noise.to_sigma(LEVEL)
    with torch.inference_mode():
        stages = mdrn.load(BASE).progressive(noisy, sigma)
        tiny = mdrn.load(TINY)(noisy, sigma)
    restored = [
        (f"noisy, level {LEVEL}", noisy),
        ("non-local means", non_local_means(noisy, sigma)),
        ("mdrn_tiny", tiny),
        *((f"mdrn after stage {i} of {len(stages)}", image) for i, image in enumerate(stages, 1)),
    ]
    return [(title, metrics.to_uint8(image[0, 0].numpy())) for title, image in restored] + [("clean", clean)]


def draw(shown: list[tuple[str, np.ndarray]], clean: np.ndarray) -> bytes:
    """Return the picture as PNG: crops in two rows, PSNR over each."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(7.2, 3.7), layout="constrained")
        for axes, (title, image) in zip(figure.subplots(2, len(shown) // 2).flat, shown, strict=True):
            axes.imshow(image[CROP], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            value = metrics.psnr(image, clean)
            axes.set_title(title if np.isinf(value) else f"{title}: {value:.2f} dB")
            axes.set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=200, metadata={"Software": None})
    return stream.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.showcase", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="results folder")
    out = parser.parse_args().out
    from skimage.data import camera

    try:
        clean = camera()
        shown = panels(clean)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["image", "protocol", "noise_level", "method", "psnr"])
        for title, image in shown[:-1]:
            writer.writerow(["skimage camera", "awgn", LEVEL, title, f"{metrics.psnr(image, clean):.4f}"])
        write_atomically(out / "photograph_denoised.csv", table.getvalue().encode())
        write_atomically(out / "photograph_denoised.png", draw(shown, clean))
    except (MdrnError, OSError) as error:
        print(f"python -m benchmark.showcase: {error}", file=sys.stderr)
        return 2
    print(table.getvalue(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
