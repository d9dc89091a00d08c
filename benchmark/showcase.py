"""`python -m benchmark.showcase`: the picture of the README, and the numbers on it.

One freely licensed photograph that scikit-image ships, with the noise of `mdrn.camera`, before and after `mdrn.denoise`
is told nothing. Writes `photograph_denoised.png` and its numbers into the results folder, and with --example the noisy
photograph for the demo. Nothing imports this module.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from skimage.data import coffee

import mdrn
from benchmark.drawing import open_axes, png_of
from mdrn import camera, metrics
from mdrn.denoiser import MdrnError
from mdrn.files.writing import write_atomically

CROP = (slice(80, 240), slice(330, 530))  # of 400 x 600, what the second row shows pixel by pixel
CAMERA = camera.Camera(  # a small sensor in a dim room; not drawn, so that the picture stays when `Camera.draw` changes
    shot=0.01,
    read=2e-4,
    red_gain=2.1,
    blue_gain=1.7,
    contrast=0.3,
    reduction=0.3,
    smoothing=0.4,
    colour_smoothing=2.0,
    quality=95,
    subsampling=2,
)


def draw(shown: list[tuple[str, np.ndarray]]) -> bytes:
    """Return the picture as PNG: in each column a whole image and a crop of it, one pixel a dot or more."""
    with open_axes(2, len(shown), size=(7.2, 3.6 * 7.2 / 6.6), height_ratios=[2 / 3, 4 / 5]) as rows:
        for column, (title, image) in enumerate(shown):
            for axes, part in zip(rows[:, column], (image, image[CROP]), strict=True):
                axes.imshow(part, interpolation="nearest")
                axes.set_axis_off()
            rows[0, column].set_title(title)
        return png_of(axes.figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.showcase", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="results folder")
    parser.add_argument("--example", type=Path, metavar="PNG", help="write the noisy photograph here, too")
    options = parser.parse_args()
    try:
        clean, noisy = camera.photograph(coffee(), CAMERA, np.random.default_rng(0))  # (400, 600, 3), uint8
        done = mdrn.restore(noisy)
        psnr = {"noisy": metrics.psnr(noisy, clean), done.model: metrics.psnr(done.image, clean)}
        table = "image,protocol,noise_level,method,psnr\n"
        table += "".join(f"skimage coffee,camera,{done.noise_level:.1f},{name},{psnr[name]:.2f}\n" for name in psnr)
        write_atomically(options.out / "photograph_denoised.csv", table.encode())
        shown = [("before", noisy), ("after", done.image), ("without noise", clean)]
        write_atomically(options.out / "photograph_denoised.png", draw(shown))
        if options.example:
            mdrn.write_image(options.example, noisy, overwrite=True)
    except (MdrnError, OSError) as error:
        print(f"python -m benchmark.showcase: {error}", file=sys.stderr)
        return 2
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
