"""A crop of one bundled photograph as every kind of method restores it, kept for the report to draw.

The photograph comes with scikit-image (CC0) and nothing is trained on it. `run` imports this module; `gallery` draws
what it writes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from benchmark.evaluate import Conditions, exact_fp32, to_image, to_tensor
from benchmark.methods import Method, classical, noisy_input
from benchmark.results import RUN_ID
from benchmark.rows import short_hash, write_atomically, write_bytes_atomically
from benchmark.testsets import load
from mdrn import metrics, noise

IMAGE = "camera"
CROP = (slice(70, 230), slice(185, 345))  # of 512 x 512; PSNR is of the whole image
CLASSICAL = "non_local_means"
_TEACHER = "teacher"
_DISTILLED = ("hmds", "hmds_c", "hmds_n")  # the first of them that was trained is shown


def choose(methods: list[Method], levels: tuple[float, ...]) -> tuple[float, list[Method]]:
    """Choose the level that most sizes have networks for, the highest of several, and for each size two networks.

    Args:
        methods: of one plan.
        levels: to choose from.

    Returns:
        The level, and of each size the plain network and a distilled one, as far as they are there; a network for this
        level alone before one for a range, the first seed.
    """
    at_level: dict[float, dict[tuple[str, str], Method]] = {}
    for level in levels:
        found = at_level.setdefault(level, {})
        fits = [m for m in methods if m.weights and not m.estimate and 1 in m.channels and m.levels_among((level,))]
        for method in sorted(fits, key=lambda m: (m.levels[0] != m.levels[1], m.name)):
            parts = RUN_ID.match(method.name)
            if parts and parts["size"] != _TEACHER:
                found.setdefault((parts["size"], parts["strategy"]), method)
    sizes = Counter({level: len({size for size, _ in found}) for level, found in at_level.items()})
    level = max(levels, key=lambda level: (sizes[level], level))
    shown = []
    for size in sorted({size for size, _ in at_level[level]}):
        strategies = {strategy: method for (s, strategy), method in at_level[level].items() if s == size}
        distilled = [strategies[name] for name in _DISTILLED if name in strategies][:1]
        shown += [strategies[name] for name in ("plain",) if name in strategies] + distilled
    return level, shown


def write(methods: list[Method], levels: tuple[float, ...], plan: str, conditions: Conditions, folder: Path) -> None:
    """Write '{plan}_{protocol}.png', crops side by side, and .json, what they are, unless they are there already."""
    level, shown = choose(methods, levels)
    if not shown:
        return
    columns = [noisy_input(), classical(CLASSICAL), *shown]
    key = short_hash([[method.key() for method in columns], level, str(CROP), dataclasses.asdict(conditions)])
    path = folder / f"{plan}_{conditions.protocol}.json"
    if path.is_file() and json.loads(path.read_text())["key"] == key:
        return
    clean = load("samples").images[IMAGE]
    noisy = noise.benchmark_noisy(clean, level, conditions.protocol, conditions.noise_seed)
    panels, images = [{"method": "clean", "psnr": None}], [clean]
    with exact_fp32(), torch.inference_mode():
        for method in columns:
            stages = method.prepare(conditions.device)(to_tensor(noisy, conditions.device), noise.to_sigma(level))
            images.append(to_image(stages[-1], clean.shape))
            panels.append({"method": method.name, "psnr": round(metrics.psnr(images[-1], clean), 4)})
    write_bytes_atomically(path.with_suffix(".png"), _png(np.hstack([image[CROP] for image in images])))
    record = {"key": key, "image": IMAGE, "noise_level": level, "noise_seed": conditions.noise_seed, "panels": panels}
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def _png(image: np.ndarray) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return stream.getvalue()
