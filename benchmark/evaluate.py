"""One method on one test set at one noise level: one row per image and stage, under a protocol that never varies.

`run` imports this module. Everything is fp32 with TF32 off; noise, rounding and metrics come from `mdrn`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmark.methods import Method, Restore, estimator_key
from benchmark.provenance import surroundings
from benchmark.rows import Row, short_hash
from benchmark.testsets import TestSet
from mdrn import metrics, noise

ESTIMATOR_LEVELS = (5.0, 10.0, 15.0, 25.0, 35.0, 50.0, 75.0)


class EvaluationError(RuntimeError):
    """An image could not be evaluated; no row of its evaluation is kept."""


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What all evaluations of one invocation share.

    Args:
        protocol: 'awgn' or 'clip8'.
        noise_seed: seed of the benchmark's noise.
        device: 'cpu' or 'cuda'.
        lpips_trunk: 'alex' or 'squeeze'; None leaves LPIPS empty.
    """

    protocol: str = "awgn"
    noise_seed: int = 0
    device: str = "cpu"
    lpips_trunk: str | None = None


def evaluate(
    method: Method,
    test_set: TestSet,
    noise_level: float,
    conditions: Conditions,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[dict[str, object], list[Row]]:
    """Evaluate one method on every image of a set.

    Args:
        method: what restores the images.
        test_set: on what.
        noise_level: standard deviation on the 8-bit scale.
        conditions: protocol and device.
        on_image: called after each image.

    Returns:
        The provenance record, and the rows that name its id.

    Raises:
        EvaluationError: if a method fails on an image or returns something that is not an image.
    """
    record = _record(method.key(), test_set, noise_level, conditions) | method.facts(conditions.device)
    began = time.perf_counter()
    rows = []
    with exact_fp32(), torch.inference_mode():
        restore = method.prepare(conditions.device)
        for name, clean in test_set.images.items():
            noisy = noise.benchmark_noisy(clean, noise_level, conditions.protocol, conditions.noise_seed)
            estimated = method.estimate(noisy) if method.estimate else None
            level = noise_level if estimated is None else float(np.clip(estimated, *method.levels))
            try:
                stages, seconds = _restore(restore, noisy, noise.to_sigma(level), conditions.device)
                rows += _image_rows(record, name, clean, stages, estimated, seconds, conditions.lpips_trunk)
            except (ValueError, RuntimeError) as error:
                raise EvaluationError(f"{method.name} on {test_set.name} {name}: {error}") from error
            on_image()
    return record | {"seconds": round(time.perf_counter() - began, 3)}, rows


def evaluate_estimator(
    estimate: Callable[[np.ndarray], float],
    test_set: TestSet,
    noise_level: float,
    conditions: Conditions,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[dict[str, object], list[Row]]:
    """Estimate the noise level of every image of a set; like `evaluate`, with levels for results."""
    record = _record(estimator_key(estimate), test_set, noise_level, conditions)
    began = time.perf_counter()
    rows = []
    for name, clean in test_set.images.items():
        noisy = noise.benchmark_noisy(clean, noise_level, conditions.protocol, conditions.noise_seed)
        start = time.perf_counter()
        level = float(estimate(noisy))
        seconds = time.perf_counter() - start
        rows.append(_row(record, name, 1, 1, estimated_level=level, seconds=seconds))
        on_image()
    return record | {"seconds": round(time.perf_counter() - began, 3)}, rows


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Turn TF32 and other shortcuts off while numbers for tables are made."""
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    earlier = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, earlier, strict=True):
            backend.fp32_precision = precision


def to_tensor(image: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """Turn (H, W) or (H, W, 3) into (1, C, H, W), float32."""
    planes = image[..., None] if image.ndim == 2 else image
    tensor = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1), dtype=np.float32))[None]
    return tensor.to(device, memory_format=torch.channels_last)


def to_image(tensor: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Turn (1, C, H, W) into (H, W) or (H, W, 3) uint8, clipped and rounded.

    Raises:
        ValueError: if the size is not `shape`, or a value is not finite.
    """
    array = tensor[0].permute(1, 2, 0).float().cpu().numpy()
    if array.size != np.prod(shape):
        raise ValueError(f"expected an image of shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("expected finite values, got NaN or infinity")
    return metrics.to_uint8(array.reshape(shape))


def _restore(restore: Restore, noisy: np.ndarray, sigma: float, device: str) -> tuple[list[np.ndarray], float]:
    tensor = to_tensor(noisy, device)
    start = time.perf_counter()
    stages = restore(tensor, sigma)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return [to_image(stage, noisy.shape) for stage in stages], seconds


def _image_rows(
    record: dict[str, object],
    name: str,
    clean: np.ndarray,
    stages: list[np.ndarray],
    estimated: float | None,
    seconds: float,
    trunk: str | None,
) -> list[Row]:
    rows = []
    for stage, restored in enumerate(stages, start=1):
        measured = {"psnr": metrics.psnr(restored, clean)}
        if stage == len(stages):
            measured |= {"ssim": metrics.ssim(restored, clean), "estimated_level": estimated, "seconds": seconds}
            measured["lpips"] = metrics.lpips(restored, clean, trunk) if trunk else None
        rows.append(_row(record, name, stage, len(stages), **measured))
    return rows


def _row(record: dict[str, object], image: str, stage: int, stages: int, **measured: float | None) -> Row:
    optional = {"psnr": None, "ssim": None, "lpips": None, "estimated_level": None, "seconds": None}
    key = ("plan", "method", "config", "weights", "protocol", "noise_seed", "noise_level", "set")
    shared = {name: record[name] for name in key}
    return Row(**shared, image=image, stage=stage, stages=stages, **optional | measured, evaluation=record["id"])


def _record(key: dict[str, str], test_set: TestSet, noise_level: float, conditions: Conditions) -> dict[str, object]:
    record = (
        key
        | {
            "protocol": conditions.protocol,
            "noise_seed": conditions.noise_seed,
            "noise_level": noise_level,
            "set": test_set.name,
            "images": len(test_set.images),
            "pixels_sha256": test_set.digest,
            "lpips_trunk": conditions.lpips_trunk,
        }
        | surroundings(conditions.device)
    )
    return {"id": short_hash([record, time.time_ns()])[:12], **record}
