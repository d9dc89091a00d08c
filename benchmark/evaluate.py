"""Which evaluations are wanted, which are missing, and doing those, under a protocol that never varies.

An evaluation is one method on one test set at one noise level: a row for each image. Everything is fp32 with TF32 off;
noise, rounding and metrics come from `mdrn`. `run`, `speed` and `showcase` import this module.
"""

import contextlib
import dataclasses
import datetime
import difflib
import fnmatch
import platform
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmark import rows, testsets
from benchmark.methods import BM3D, Method
from benchmark.rows import Evaluation, Row
from benchmark.testsets import Images
from mdrn import metrics, noise
from mdrn.denoiser import MdrnError
from mdrn.train import git_revision

SAME = 0.005  # dB: rows of unchanged weights come again at least this close
_CROP = (slice(0, 192), slice(0, 320))  # of a photograph, to measure how long evaluations take


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What all evaluations of one invocation share."""

    protocol: str = "awgn"  # 'awgn' or 'clip8'
    noise_seed: int = 0  # seed of the benchmark's noise
    device: str = "cpu"  # 'cpu' or 'cuda'
    lpips: bool = False  # whether LPIPS is computed; its cells are empty otherwise


@dataclasses.dataclass(frozen=True)
class Job:
    """One evaluation to do: a method on a test set at a noise level (None: the images' own)."""

    method: Method
    set_name: str
    level: float | None

    def protocol(self, conditions: Conditions) -> str:
        """Return how the noisy images are made."""
        return testsets.SETS[self.set_name].protocol or conditions.protocol

    def key(self, conditions: Conditions) -> dict[str, object]:
        """Return the fields of `Evaluation.identity`, in its order."""
        m, protocol = self.method, self.protocol(conditions)
        run = {"plan": m.plan, "method": m.name, "arm": m.arm, "steps": m.steps}
        noisy = {"set": self.set_name, "level": self.level, "protocol": protocol, "noise_seed": conditions.noise_seed}
        return {**run, **noisy, "weights": m.weights, "code": m.code}

    def identity(self, conditions: Conditions) -> tuple:
        """Return `Evaluation.identity` of what this job will write."""
        return tuple(self.key(conditions).values())


def choose_methods(methods: list[Method], asked: list[str] | None, untrained: Sequence[str] = ()) -> list[Method]:
    """Keep the methods whose names match one of the patterns asked for; None keeps all but those on request.

    A pattern must match something, be it a name of `untrained`: networks that will be there once they are trained.
    """
    if asked is None:
        return [method for method in methods if not method.on_request]
    names = list(dict.fromkeys([*(method.name for method in methods), *untrained]))
    for pattern in asked:
        if pattern == BM3D and BM3D not in names:
            raise MdrnError("--methods bm3d: not installed; `pip install bm3d` (its licence: non-commercial use)")
        if not fnmatch.filter(names, pattern):
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {close[0]}? --help lists all" if close else f"expected some of {', '.join(names)}"
            raise MdrnError(f"--methods: nothing is named {pattern!r}; {hint}")
    return [method for method in methods if any(fnmatch.fnmatch(method.name, pattern) for pattern in asked)]


def wanted(
    methods: list[Method], sets: Sequence[str], levels: Sequence[float] | None = None, asked_sets: bool = False
) -> list[Job]:
    """List evaluations set by set: every method on every set that it is for, at these levels or else at the usual ones.

    Unless the sets were asked for by name, slow methods leave the large ones out.
    """
    jobs = []
    for name in sets:
        known = testsets.SETS[name]
        for method in methods:
            if asked_sets or not (known.large and method.slow):
                jobs += [Job(method, name, level) for level in method.levels_on(known, levels)]
    return jobs


def missing(jobs: list[Job], conditions: Conditions, out: Path) -> list[Job]:
    """Return the jobs without rows of exactly these weights and this code."""
    done = {evaluation.identity for evaluation in rows.read_evaluations(out)}
    return [job for job in jobs if job.identity(conditions) not in done]


def run_jobs(jobs: list[Job], conditions: Conditions, out: Path, root: Path | None, quiet: bool = False) -> int:
    """Do evaluations one after another, and return the number of rows; they are written when theirs is complete."""
    written, images = 0, None
    with tqdm(total=len(jobs), unit="evaluation", disable=quiet, mininterval=0.5) as bar:
        for job in jobs:
            if images is None or images.name != job.set_name:
                images = testsets.load(job.set_name, root)
            bar.set_description_str(f"{job.set_name} {job.level} {job.method.name}")
            evaluation, new = evaluate(job, images, conditions)
            rows.add_evaluation(out, evaluation, new)
            written += len(new)
            bar.update()
    return written


def evaluate(job: Job, images: Images, conditions: Conditions) -> tuple[Evaluation, list[Row]]:
    """Evaluate one method on every image of a set.

    Raises:
        MdrnError: if a method fails on an image or returns something that is not an image.
    """
    method, protocol, began, start = job.method, job.protocol(conditions), time.perf_counter(), now()
    number = rows.short_hash([job.identity(conditions), images.digest, time.time_ns()])[:8]
    measured = []
    with exact_fp32(), torch.inference_mode():
        restore = method.prepare(conditions.device) if method.prepare else None
        for name, clean in images.clean.items():
            noisy = images.corrupted(name, job.level, protocol, conditions.noise_seed)
            try:
                row = Row(number, name, estimated=method.estimate(noisy) if method.estimate else None)
                if restore:
                    level = job.level
                    if row.estimated is not None:  # 1e-30 is no noise, and too little for some methods
                        level = float(np.clip(round(row.estimated, 3), *method.levels))
                    stages = restore(to_tensor(noisy, conditions.device), noise.to_sigma(level or 0.0))
                    row = _scored(row, [to_image(stage, noisy.shape) for stage in stages], clean, conditions.lpips)
            except (ValueError, RuntimeError) as error:
                raise MdrnError(f"{method.name} on {images.name} {name}: {error}") from error
            measured.append(row)
    evaluation = Evaluation(
        id=number,
        **job.key(conditions),
        images=len(measured),
        pixels=images.digest,
        lpips="alex" if conditions.lpips else "",
        **method.facts(),
        seconds=time.perf_counter() - began,
        device=f"{machine_name(conditions.device)}, {torch.get_num_threads()} threads",
        torch=torch.__version__,
        git=git_revision(),
        start=start,
    )
    return evaluation, measured


def _scored(row: Row, stages: list[np.ndarray], clean: np.ndarray, lpips: bool) -> Row:
    restored = stages[-1]
    return dataclasses.replace(
        row,
        psnr=metrics.psnr(restored, clean),
        ssim=metrics.ssim(restored, clean),
        lpips=metrics.lpips(restored, clean) if lpips else None,
        stages=" ".join(f"{metrics.psnr(image, clean):.3f}" for image in stages[:-1]),
    )


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


def seconds_left(jobs: list[Job], conditions: Conditions, root: Path | None) -> float:
    """Measure how long evaluations take here: each kind of method on a crop, twice, the first time not counted."""
    per_pixel: dict[tuple, float] = {}
    sizes = {}
    for name in {job.set_name for job in jobs}:
        sizes[name] = sum(image.shape[0] * image.shape[1] for image in testsets.load(name, root).clean.values())
    total = 0.0
    for job in jobs:
        channels = testsets.SETS[job.set_name].channels
        kind = (str(job.method.facts()) if job.method.weights else job.method.name, channels, bool(job.method.estimate))
        if kind not in per_pixel:
            name = testsets.SAMPLES if channels == 1 else testsets.SAMPLES_RGB
            crop = Images(name, {"coffee": testsets.load(name).clean["coffee"][_CROP]})
            probe = dataclasses.replace(job, set_name=name, level=job.level or 10.0)
            for _ in range(2):
                per_pixel[kind] = evaluate(probe, crop, conditions)[0].seconds / crop.clean["coffee"].size * channels
        total += per_pixel[kind] * sizes[job.set_name]
    return total


def largest_change(before: dict[tuple, float], after: dict[tuple, float]) -> float:
    """Return the largest PSNR difference in dB between two answers of `psnr_by_identity`; 0 if they share no row."""
    shared = (abs(psnr - before[key]) for key, psnr in after.items() if key in before and psnr != before[key])
    return max(shared, default=0.0)


def psnr_by_identity(out: Path) -> dict[tuple, float]:
    """Return the PSNR of every image by what was measured on it, weights and code included."""
    evaluations = {evaluation.id: evaluation for evaluation in rows.read_evaluations(out)}
    found = {}
    for plan in {evaluation.plan for evaluation in evaluations.values()}:
        for row in rows.read(rows.rows_path(out, plan), Row):
            if row.evaluation in evaluations and row.psnr is not None:
                found[(*evaluations[row.evaluation].identity, row.image)] = row.psnr
    return found


def machine_name(device: str = "cpu") -> str:
    """Return the name of the processor or GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*\S)", info.read_text() if info.exists() else "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
