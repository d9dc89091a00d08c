"""Make `mdrn/estimate.safetensors`, the small networks behind `mdrn.estimate`, from training photographs.

    python -m tests.tools.fit_estimate --data-root DATA --out estimate.safetensors

Examples are pieces of BSDS500's and extra_train's training photographs, and drawings, with noise of many kinds or none.
A network learns the logarithms of fine and coarse noise (`estimate.Noise`) from `estimate`'s features of an image. On
one quiet core 12,000 examples take about seven minutes; --keep FILE stores them for another fit. The file in the
package was fitted, with 3,500 steps, to 7,000 examples made by this recipe and 17,000 by earlier ones, so that another
fit comes close to it on white noise and has to be measured again on photographs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import nn

from mdrn import camera, data, estimate

SHARES = {  # of the examples; 'clean' are photographs without noise, 'drawing' text and lines, mostly without
    "clean": 0.22,
    "white": 0.20,
    "jpeg": 0.11,
    "camera": 0.31,
    "correlated": 0.05,
    "poisson": 0.04,
    "drawing": 0.07,
}
GREY_SHARE = 0.4
PHOTOGRAPHS = 240
SIDES = (48, 256)
WEIGHTS = {"white": 2.0, "clean": 1.5}  # in the loss; the others have 1
HIDDEN = (64, 32)
BATCH = 256


def eight_bit(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def to_grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def levels(noise: np.ndarray) -> tuple[float, float]:
    """Return fine and coarse noise of (H, W, C) noisy minus clean."""
    return float(np.sqrt(np.square(noise - noise.mean(axis=(0, 1))).mean())), camera.white_level(noise)


def drawing(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw text, lines and boxes, (H, W, 3), uint8."""

    def colour() -> tuple[int, ...]:
        return tuple(int(v) for v in rng.integers(0, 256, 3))

    def point() -> tuple[int, int]:
        return int(rng.integers(width)), int(rng.integers(height))

    paper = colour() if rng.random() < 0.4 else (255, 255, 255)
    ink = colour() if rng.random() < 0.4 else (0, 0, 0) if sum(paper) > 382 else (255, 255, 255)
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    for _ in range(rng.integers(4)):
        x, y = point()
        draw.rectangle([x, y, x + int(rng.integers(5, width)), y + int(rng.integers(5, height))], fill=colour())
    kind = rng.integers(3)
    size, top = int(rng.integers(8, 30)), int(rng.integers(10))
    while kind < 2 and top < height:
        text = "".join(rng.choice(list("abcdefgh ijklmno pqrstuvwxyz ABCDEFGH 0123456789.,;"), 80))
        draw.text((int(rng.integers(20)), top), text, fill=ink, font=ImageFont.load_default(size))
        top += int(size * rng.uniform(1.1, 2.0))
    for _ in range(rng.integers(3, 40) if kind else 0):
        draw.line([point(), point()], fill=ink, width=int(rng.integers(1, 3)))
    image = np.asarray(page)
    return np.where(image > 127, 255, 0).astype(np.uint8) if rng.random() < 0.2 else image


def photograph(rng: np.random.Generator, photographs: list[np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the reference and the noisy photograph of a drawn camera, before JPEG.

    Noise is fainter than drawn in half of them. Most scenes are halved, which takes away their own noise, and a part
    of that is enlarged: at full size a camera's picture is softer and flatter than training photographs.
    """
    settings = dataclasses.replace(camera.Camera.draw(rng), quality=None)
    share = rng.uniform(0.2, 1.0) ** 2 if rng.random() < 0.5 else 1.0
    settings = dataclasses.replace(settings, shot=settings.shot * share, read=settings.read * share)
    if rng.random() < 0.1:  # developed from raw data, without noise reduction
        settings = dataclasses.replace(settings, reduction=0.0, colour_smoothing=0.0, smoothing=0.0)
    if rng.random() < 0.25:
        scene = piece(rng, photographs, *[settings.scene_side(side)] * 2)
    else:
        settings = dataclasses.replace(settings, shrink=1.0)
        scale = rng.uniform(1.0, 4.0)
        needed = settings.scene_side(side)
        small = piece(rng, photographs, *[2 * math.ceil(needed / scale)] * 2)
        scene = np.asarray(Image.fromarray(small).reduce(2).resize((needed, needed), Image.Resampling.BICUBIC))
    if rng.random() < 0.4:  # paler
        mean = scene.mean(axis=(0, 1) if rng.random() < 0.5 else 2, keepdims=True)
        scene = eight_bit(mean + (scene - mean) * rng.uniform(0.1, 1.0))
    clean, noisy = camera.photograph(scene, settings, rng)
    if rng.random() < 0.6:  # noise reduction that spares less of its colour
        noise = noisy.astype(np.float64) - clean
        grey = noise.mean(axis=2, keepdims=True)
        noisy = eight_bit(clean + grey + (noise - grey) * rng.uniform(0.0, 1.0) ** 2)
    return clean, noisy


def piece(rng: np.random.Generator, photographs: list[np.ndarray], height: int, width: int) -> np.ndarray:
    image = photographs[rng.integers(len(photographs))]
    top, left = (int(rng.integers(max(1, size - n + 1))) for size, n in zip(image.shape, (height, width), strict=False))
    return image[top : top + height, left : left + width]


def correlated(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw smooth noise of deviation 1: blurred, or enlarged twice."""
    if rng.random() < 0.5:
        noise = gaussian_filter(rng.standard_normal(shape), (*[rng.uniform(0.4, 1.5)] * 2, 0))
    else:
        small = rng.standard_normal((shape[2], shape[0] // 2 + 1, shape[1] // 2 + 1)).astype(np.float32)
        size, method = (2 * small.shape[2], 2 * small.shape[1]), rng.choice([0, 2, 3])  # nearest, bilinear, bicubic
        noise = np.stack([np.asarray(Image.fromarray(plane).resize(size, method)) for plane in small], axis=-1)
        noise = noise[: shape[0], : shape[1]]
    return noise / noise.std()


def example(rng: np.random.Generator, photographs: list[np.ndarray], grey: bool) -> tuple[np.ndarray, tuple, str]:
    """Draw an example: a noisy image (H, W, C) on the 8-bit scale, the fine and coarse noise in it, and its kind."""
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    height, width = (int(np.exp(rng.uniform(*np.log(SIDES)))) for _ in range(2))
    quality, subsampling = int(rng.integers(60, 100)), int(rng.choice([0, 2], p=[0.3, 0.7]))
    noisy = None
    if kind == "drawing":
        clean = drawing(rng, height, width)
    elif kind == "camera" or (kind == "clean" and rng.random() < 0.5):
        clean, noisy = photograph(rng, photographs, max(height, width))
        noisy = clean if kind == "clean" else noisy
    else:
        clean = piece(rng, photographs, height, width)
        if rng.random() < 0.3:
            scale = rng.uniform(0.4, 2.0)
            size = tuple(max(40, int(n * scale)) for n in clean.shape[1::-1])
            clean = np.asarray(Image.fromarray(clean).resize(size, Image.Resampling.BICUBIC))[:256, :256]
        if rng.random() < 0.2:
            clean = eight_bit(rng.uniform(0, 60) + clean * rng.uniform(0.15, 0.75))
    if grey:
        clean, noisy = to_grey(clean), None if noisy is None else to_grey(noisy)

    level = rng.uniform(0, 75) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(0.5), np.log(75)))
    if kind in ("white", "jpeg") or (kind == "drawing" and rng.random() < 0.25):
        deviations = level * (rng.uniform(0.4, 1.3, clean.shape[2]) if rng.random() < 0.15 else np.ones(clean.shape[2]))
        noisy = clean + rng.standard_normal(clean.shape) * deviations
        fine = coarse = float(np.sqrt(np.square(deviations).mean()))
        noisy = noisy if rng.random() < 0.2 and kind == "white" else eight_bit(noisy)
    else:
        if kind == "correlated":
            noisy = eight_bit(clean + 0.6 * level * correlated(rng, clean.shape))
        elif kind == "poisson":
            peak = np.exp(rng.uniform(np.log(10), np.log(300)))
            noisy = eight_bit(rng.poisson(clean / 255.0 * peak) / peak * 255.0)
        noisy = clean if noisy is None else noisy
        fine, coarse = levels(noisy.astype(np.float64) - clean)
    shares = {"jpeg": 1.0, "camera": 0.85, "clean": 0.5, "correlated": 0.4, "poisson": 0.3, "drawing": 0.1}
    if rng.random() < shares.get(kind, 0.0):
        planes = (image[..., 0] if grey else image for image in (noisy, clean))
        shown = [camera.jpeg(image, quality, subsampling).reshape(clean.shape) for image in planes]
        noisy = shown[0]
        if fine > 0:  # what JPEG does to the clean picture is no noise
            pairs = zip(*(levels(image.astype(np.float64) - clean) for image in shown), strict=True)
            fine, coarse = (float(np.sqrt(max(0.0, with_noise**2 - without**2))) for with_noise, without in pairs)
    if rng.random() < 0.12 and kind != "clean":
        noisy = np.array(noisy)
        value = rng.choice([0, 1, 16, 128, 235, 250, 255])
        if rng.random() < 0.5:
            noisy[: int(len(noisy) * rng.uniform(0.03, 0.5))] = value
        else:
            noisy[int(len(noisy) * rng.uniform(0, 0.7)) :, int(noisy.shape[1] * rng.uniform(0.2, 0.8)) :] = value
    rows, columns = rng.integers(0, 8, 2)  # off JPEG's grid
    return noisy[rows:, columns:], (fine, coarse), kind


def make_examples(root: Path | None, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return 'colour.x' features, 'colour.y' fine and coarse noise, 'colour.kind', and the same for grey."""
    rng = np.random.default_rng(seed)
    files = data.training_files("bsds", root) + data.training_files("extra", root)
    photographs = [data.read_uint8(files[i], 3) for i in rng.permutation(len(files))[:PHOTOGRAPHS]]
    photographs = [image[:1200, :1200] for image in photographs]
    found: dict[str, list] = {f"{name}.{part}": [] for name in ("colour", "grey") for part in ("x", "y", "kind")}
    for index in range(count):
        name = "grey" if rng.random() < GREY_SHARE else "colour"
        image, noise, kind = example(rng, photographs, name == "grey")
        windows = estimate._windows(image, 255.0)[0]
        windows = windows[estimate._usable(windows)]
        if len(windows) < 4:
            continue
        found[f"{name}.x"].append(estimate._features(estimate._describe(windows)))
        found[f"{name}.y"].append(noise)
        found[f"{name}.kind"].append(kind)
        if index % 500 == 499:
            print(f"{index + 1} of {count} examples", flush=True)
    return {key: np.array(values) for key, values in found.items()}


class Network(nn.Module):
    """What `estimate._answer` computes: a line, and beside it two hidden layers."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.skip = nn.Linear(inputs, 2)
        self.a, self.b, self.c = nn.Linear(inputs, HIDDEN[0]), nn.Linear(*HIDDEN), nn.Linear(HIDDEN[1], 2)
        nn.init.zeros_(self.skip.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, features) -> (N, 2), log(1 + noise)."""
        hidden = nn.functional.dropout(torch.relu(self.a(x)), 0.05, self.training)
        return self.skip(x) + self.c(torch.relu(self.b(hidden)))


def fit(x: torch.Tensor, y: torch.Tensor, kinds: np.ndarray, steps: int, seed: int) -> dict[str, torch.Tensor]:
    """Fit a network to features (N, F) and noise (N, 2); print its errors on a twelfth of them that it does not see."""
    torch.manual_seed(seed)
    held = torch.randperm(len(x)) < len(x) // 12
    mean, deviation = x[~held].mean(0), x[~held].std(0).clamp(min=0.05)
    x, y = ((x - mean) / deviation).clamp(-6, 6), torch.log1p(y)
    weights = torch.tensor([WEIGHTS.get(kind, 1.0) for kind in kinds])[:, None]
    network = Network(x.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    seen = torch.nonzero(~held)[:, 0]
    for _ in range(steps):
        batch = seen[torch.randint(len(seen), (BATCH,))]
        answer = network(x[batch] + 0.05 * torch.randn(BATCH, x.shape[1]))
        loss = (weights[batch] * nn.functional.huber_loss(answer, y[batch], reduction="none", delta=0.1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        errors = (network.eval()(x[held]) - y[held]).numpy()
    for kind in np.unique(kinds[held.numpy()]):
        of_kind = errors[kinds[held.numpy()] == kind]
        spread = np.quantile(np.abs(of_kind), (0.5, 0.9), axis=0).round(3).tolist()
        print(f"  {kind:10s} mean error {of_kind.mean(0).round(3).tolist()}, median and 90 % of its size {spread}")
    return {"mean": mean, "deviation": deviation} | {k: v.contiguous() for k, v in network.state_dict().items()}


def main() -> None:
    """Make examples, or read those kept, and fit both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=data.data_root())
    parser.add_argument("--examples", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="file for the examples (.npz), read if it is there")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.keep and options.keep.exists():
        made = dict(np.load(options.keep))
    else:
        made = make_examples(options.data_root, options.examples, options.seed)
        if options.keep:
            np.savez(options.keep, **made)
    tensors = {}
    for name in ("colour", "grey"):
        print(name, made[f"{name}.x"].shape)
        x, y = (torch.tensor(made[f"{name}.{part}"], dtype=torch.float32) for part in "xy")
        fitted = fit(x, y, made[f"{name}.kind"], options.steps, options.seed)
        tensors |= {f"{name}.{key}": tensor for key, tensor in fitted.items()}
    save_file(tensors, options.out)


if __name__ == "__main__":
    main()
