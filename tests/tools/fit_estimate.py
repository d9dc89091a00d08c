"""Make `mdrn/estimate.safetensors`, the small networks behind `mdrn.estimate`, from training photographs.

    python -m tests.tools.fit_estimate --data-root DATA --out estimate.safetensors

Examples are pieces of BSDS500's and extra_train's training photographs, and drawings, with noise of many kinds or none.
`photo_tiny` and, for grey ones, `mdrn_tiny` denoise each at many levels, which says what every level would lose. From
`estimate`'s features of an image a network learns the logarithms of fine and coarse noise (`estimate.Noise`), the
latter so that the level loses few dB. On one quiet core 26,000 examples take about 45 minutes; --keep FILE stores
them for another fit. The package's grey network is an earlier fit, to examples of this and older recipes: this recipe's
was no better on validation crops, so only --kinds grey replaces it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter
from torch import nn

from mdrn import camera, checkpoint, data, estimate

SHARES = {  # of the examples; 'clean' are photographs without noise, 'drawing' text and lines, mostly without
    "clean": 0.22,
    "white": 0.20,
    "jpeg": 0.11,
    "camera": 0.31,
    "correlated": 0.05,
    "poisson": 0.04,
    "drawing": 0.07,
}
TEXTURE = {"texture": 1.0}  # the busiest of several pieces, clean or with noise, mostly through JPEG
PARTS = (  # examples, seed, share of grey ones and shares of kinds
    *((3000, seed, 0.4, SHARES) for seed in range(5)),
    (5000, 10, 1.0, SHARES),
    (6000, 20, 0.0, TEXTURE),
)
PHOTOGRAPHS = 240
SIDES = (48, 256)
WEIGHTS = {  # in the loss; the others have 1. Chosen on validation crops (white noise, JPEG), PolyU's for decisions
    "colour": {"white": 2.0, "clean": 2.0, "camera": 3.0, "jpeg": 2.0},
    "grey": {"white": 2.0, "clean": 3.0},
}
LEVELS = (0.0, 1.5, 3.0, 5.0, 7.5, 10.5, 14.0, 18.5, 24.0, 31.0, 41.0, 55.0, 75.0)
JUDGED = 112  # pixels a side at most of what is denoised at every level
NETWORKS = {"colour": "photo_tiny", "grey": "mdrn_tiny"}
FAITHFUL = 46.0  # dB: what comes closer to the reference than this counts little
CURVE = 88  # places at which the losses at LEVELS are interpolated
LOSS_WEIGHTS = {"colour": 0.5, "grey": 0.3}  # of dB lost, beside errors of logarithms
LOST_CAUSE = 2.0  # dB: what is lost beyond it weighs less and less
WHITE_WEIGHT = 8.0  # of the logarithm's error for white noise, whose level is known to be best
COARSE_WEIGHT = 0.5  # of the same for other noise, where it keeps levels sane that all lose alike
HIDDEN = (96, 48)
BATCH = 256


def eight_bit(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def levels(noise: np.ndarray) -> tuple[float, float]:
    """Return fine and coarse noise of (H, W, C) noisy minus clean."""
    return float(np.sqrt(np.square(noise - noise.mean(axis=(0, 1))).mean())), camera.white_level(noise)


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


def busy(image: np.ndarray) -> float:
    """Return how much an image varies in the smoothest quarter of its blocks of 8 x 8 pixels."""
    height, width = (size // 8 * 8 for size in image.shape[:2])
    blocks = image[:height, :width].mean(axis=2).reshape(height // 8, 8, width // 8, 8)
    return float(np.quantile(blocks.std(axis=(1, 3)), 0.25))


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


def example(
    rng: np.random.Generator, photographs: list[np.ndarray], grey: bool, shares: dict[str, float]
) -> tuple[np.ndarray, np.ndarray, tuple, str]:
    """Draw an example: noisy and wanted image (H, W, C) on the 8-bit scale, fine and coarse noise, and its kind."""
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    height, width = (int(np.exp(rng.uniform(*np.log(SIDES)))) for _ in range(2))
    quality, subsampling = int(rng.integers(60, 100)), int(rng.choice([0, 2], p=[0.3, 0.7]))
    noisy = None
    texture = kind == "texture"
    if texture:
        clean = max((piece(rng, photographs, height, width) for _ in range(6)), key=busy)
        kind = str(rng.choice(["clean", "jpeg", "white"], p=[0.5, 0.35, 0.15]))
    elif kind == "drawing":
        clean = data.drawing(rng, height, width)
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
        clean, noisy = (None if image is None else data.to_grey(image)[..., None] for image in (clean, noisy))

    level = rng.uniform(0, 75) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(0.5), np.log(75)))
    level = rng.uniform(3, 20) if texture else level
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
    through_jpeg = {"jpeg": 1.0, "camera": 0.85, "clean": 0.5, "correlated": 0.4, "poisson": 0.3, "drawing": 0.1}
    if rng.random() < through_jpeg.get(kind, 0.0):
        planes = (image[..., 0] if grey else image for image in (noisy, clean))
        shown = [camera.jpeg(image, quality, subsampling).reshape(clean.shape) for image in planes]
        noisy = shown[0]
        if fine > 0:  # what JPEG does to the clean picture is no noise
            pairs = zip(*(levels(image.astype(np.float64) - clean) for image in shown), strict=True)
            fine, coarse = (float(np.sqrt(max(0.0, with_noise**2 - without**2))) for with_noise, without in pairs)
    wanted = np.array(clean if fine > 0 else noisy)  # a clean picture stays as it is
    if rng.random() < 0.12 and kind != "clean":
        noisy = np.array(noisy)
        value = rng.choice([0, 1, 16, 128, 235, 250, 255])
        if rng.random() < 0.5:
            covered = np.s_[: int(len(noisy) * rng.uniform(0.03, 0.5))]
        else:
            covered = np.s_[int(len(noisy) * rng.uniform(0, 0.7)) :, int(noisy.shape[1] * rng.uniform(0.2, 0.8)) :]
        noisy[covered] = wanted[covered] = value
    rows, columns = rng.integers(0, 8, 2)  # off JPEG's grid
    return noisy[rows:, columns:], wanted[rows:, columns:], (fine, coarse), kind


@torch.inference_mode()
def losses(noisy: np.ndarray, wanted: np.ndarray, network: torch.nn.Module) -> np.ndarray:
    """Return how many dB each of LEVELS loses to the best of them in the middle of an image."""
    top, left = (max(0, size - JUDGED) // 2 for size in noisy.shape[:2])
    noisy, wanted = (image[top : top + JUDGED, left : left + JUDGED] for image in (noisy, wanted))
    batch = torch.from_numpy(np.ascontiguousarray(noisy.transpose(2, 0, 1), np.float32) / 255.0)
    batch = batch.expand(len(LEVELS), -1, -1, -1).contiguous(memory_format=torch.channels_last)
    images = network(batch, torch.tensor(LEVELS) / 255.0).clamp(0, 1).mul(255.0).round().numpy()
    errors = np.square(images - wanted.transpose(2, 0, 1)).mean(axis=(1, 2, 3)) + 255.0**2 * 10 ** (-FAITHFUL / 10)
    return 10 * np.log10(errors / errors.min())


def make_examples(
    root: Path | None, count: int, seed: int, grey_share: float, shares: dict[str, float]
) -> dict[str, np.ndarray]:
    """Return 'colour.x' features, '.y' fine and coarse noise, '.losses' at LEVELS, '.kind', and the same for grey."""
    rng = np.random.default_rng(seed)
    files = data.training_files("bsds", root) + data.training_files("extra", root)
    photographs = [data.read_uint8(files[i], 3) for i in rng.permutation(len(files))[:PHOTOGRAPHS]]
    photographs = [image[:1200, :1200] for image in photographs]
    found: dict[str, list] = {f"{n}.{part}": [] for n in NETWORKS for part in ("x", "y", "losses", "kind")}
    networks = {name: checkpoint.load(network) for name, network in NETWORKS.items()}
    for index in range(count):
        name = "grey" if rng.random() < grey_share else "colour"
        image, wanted, noise, kind = example(rng, photographs, name == "grey", shares)
        windows = estimate._windows(image, 255.0)[0]
        windows = windows[estimate._usable(windows)]
        if len(windows) < 4:
            continue
        found[f"{name}.x"].append(estimate._features(estimate._describe(windows)))
        found[f"{name}.y"].append(noise)
        found[f"{name}.losses"].append(losses(image, wanted, networks[name]))
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


def lost(curves: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
    """Return what levels lose, dB, from curves (N, CURVE) over log(1 + level) and logs (N,) of levels."""
    places = (logs / math.log1p(LEVELS[-1])).clamp(0.0, 0.9999) * (curves.shape[1] - 1)
    left = places.floor().long()[:, None]
    ends = curves.gather(1, torch.cat([left, left + 1], dim=1))
    outside = (logs - math.log1p(LEVELS[-1])).relu() + (-logs).relu()
    return torch.lerp(ends[:, 0], ends[:, 1], places - left[:, 0]) + outside


def fit(made: dict[str, np.ndarray], name: str, steps: int, seed: int) -> dict[str, torch.Tensor]:
    """Fit the network `name` to examples, and print what it loses on a twelfth of them that it does not see."""
    torch.manual_seed(seed)
    x, y, kinds = (made[f"{name}.{part}"] for part in ("x", "y", "kind"))
    grid = np.linspace(0.0, math.log1p(LEVELS[-1]), CURVE)
    curves = PchipInterpolator(np.log1p(LEVELS), made[f"{name}.losses"], axis=1)(grid)
    x, y, curves = (torch.tensor(values, dtype=torch.float32) for values in (x, np.log1p(y), curves))
    white, weights = torch.tensor(kinds == "white"), torch.tensor([WEIGHTS[name].get(kind, 1.0) for kind in kinds])
    held = torch.rand(len(x)) < 1 / 12
    mean, deviation = x[~held].mean(0), x[~held].std(0).clamp(min=0.05)
    x = ((x - mean) / deviation).clamp(-6, 6)
    coarseness = checkpoint.load(NETWORKS[name]).header.coarseness
    network = Network(x.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    seen = torch.nonzero(~held)[:, 0]
    for _ in range(steps):
        batch = seen[torch.randint(len(seen), (BATCH,))]
        fine, coarse = network(x[batch] + 0.05 * torch.randn(BATCH, x.shape[1])).unbind(1)
        loss = lost(curves[batch], (1 - coarseness) * fine.detach() + coarseness * coarse)
        loss = LOSS_WEIGHTS[name] * loss / (1 + loss / LOST_CAUSE)
        near = nn.functional.huber_loss(coarse, y[batch, 1], reduction="none", delta=0.1)
        loss = torch.where(white[batch], WHITE_WEIGHT * near, loss + COARSE_WEIGHT * near)
        loss += nn.functional.huber_loss(fine, y[batch, 0], reduction="none", delta=0.1)
        loss = (weights[batch] * loss).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        fine, coarse = network.eval()(x[held]).unbind(1)
        given_away = lost(curves[held], (1 - coarseness) * fine + coarseness * coarse).numpy()
        errors = (fine - y[held, 0]).abs().numpy()
    for kind in np.unique(kinds[held.numpy()]):
        chosen = kinds[held.numpy()] == kind
        average, high = given_away[chosen].mean(), np.quantile(given_away[chosen], 0.9)
        print(f"  {kind:10s} {average:.3f} dB lost, 90 % under {high:.3f}; fine {errors[chosen].mean():.3f}")
    tensors = {"mean": mean, "deviation": deviation} | network.state_dict()
    return {key: tensor if tensor.ndim == 2 else tensor[:, None] for key, tensor in tensors.items()}


def main() -> None:
    """Make examples, or read those kept, and fit both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=data.data_root())
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--fits", type=int, default=3, help="number of fits, each with its seed, whose mean is taken")
    parser.add_argument("--kinds", nargs="+", choices=list(NETWORKS), default=["colour"], help="networks to fit")
    parser.add_argument("--keep", type=Path, help="file for the examples (.npz), read if it is there")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.keep and options.keep.exists():
        made = dict(np.load(options.keep))
    else:
        parts = [make_examples(options.data_root, *part) for part in PARTS]
        made = {key: np.concatenate([part[key] for part in parts if len(part[key])]) for key in parts[0]}
        if options.keep:
            np.savez(options.keep, **made)
    tensors = load_file(estimate.__file__.replace(".py", ".safetensors"))
    for name in options.kinds:
        print(name, made[f"{name}.x"].shape)
        fits = [fit(made, name, options.steps, seed) for seed in range(options.fits)]
        tensors |= {f"{name}.{key}": torch.stack([fitted[key] for fitted in fits]).detach() for key in fits[0]}
    save_file(tensors, options.out)


if __name__ == "__main__":
    main()
