"""What can be evaluated: networks, the noisy input itself, classical methods and the library's default, all alike.

`evaluate` and `run` import this module; it imports `mdrn`.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import torch

import mdrn
from benchmark.baselines import gmacs
from benchmark.rows import AUTO, BASELINES, ESTIMATOR, short_hash
from benchmark.testsets import TestSet
from mdrn import checkpoint, inference
from mdrn.classical import CLASSICAL
from mdrn.denoiser import count_parameters
from mdrn.estimate import COARSENESS, estimate_level, estimate_noise_level
from mdrn.metrics import to_uint8

NOISY, BM3D, DEFAULT = "noisy", "bm3d", "mdrn.denoise"
Restore = Callable[[torch.Tensor, float], list[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to restore an image; its weights are read by `prepare`, not before."""

    name: str  # a run's id, with '+auto' where the noise level is estimated, or 'noisy', 'wavelet', ...
    # device -> function from (noisy (1, C, H, W), sigma) to the images after each stage, last the result; None for the
    # noise-level estimator, which restores nothing
    prepare: Callable[[str], Restore] | None
    plan: str = BASELINES  # see `benchmark.rows.Evaluation`, as are arm, steps, weights and code
    arm: str = ""  # of the plan
    steps: int | None = None  # of training
    weights: str = ""  # first 16 digits of their SHA-256
    code: str = ""  # hash of the source of a method without weights, or of the estimator
    channels: tuple[int, ...] = (1, 3)  # what it takes, 1 and or 3
    levels: tuple[float, float] = (0.0, 75.0)  # lowest and highest noise level it is made for
    # (H, W) or (H, W, 3) noisy image -> noise level on the 8-bit scale; None is told the true level
    estimate: Callable[[np.ndarray], float] | None = None
    source: str = ""  # released id or file of the weights
    photographs: bool = False  # whether it is for noise that nobody made to measure, and for nothing else
    slow: bool = False  # whether it leaves large sets out unless they are asked for
    on_request: bool = False  # whether it is left out unless it is asked for

    def levels_on(self, known: TestSet, asked: Sequence[float] | None = None) -> list[float | None]:
        """Return the levels to evaluate at on a test set; none if the method is not for it.

        If no levels are asked for, they are the set's, and of a network for one level that level.
        """
        if not set(self.channels) & {known.channels} or (self.prepare is None and not known.estimator):
            return []
        if known.levels == (None,):  # nobody can tell the level
            return [None] if self.name == NOISY or (self.prepare and (self.estimate or self.photographs)) else []
        if self.photographs and known.protocol is None:
            return []
        low, high = self.levels
        if low == high and not asked:
            return [low]
        levels = asked or (ESTIMATOR_LEVELS if self.prepare is None else known.levels)
        return [level for level in levels if low <= level <= high]

    def facts(self) -> dict[str, object]:
        """Return parameters and 10^9 multiply-accumulates for 256 x 256; None for a method without weights."""
        return _facts(self.source, self.weights) if self.weights else {"parameters": None, "gmacs": None}


ESTIMATOR_LEVELS = (5.0, 10.0, 15.0, 25.0, 35.0, 50.0, 75.0)


@functools.cache
def _facts(source: str, weights: str) -> dict[str, object]:
    model = mdrn.load(source)
    return {"parameters": count_parameters(model), "gmacs": gmacs(model)}


def network(id_or_path: str | Path, plan: str, arm: str = "", steps: int | None = None) -> Method:
    """Return the method of a released id or weights file, as part of a plan."""
    header = checkpoint.read_header(id_or_path)

    def prepare(device: str) -> Restore:
        model = mdrn.load(id_or_path, device)
        return getattr(model, "progressive", lambda noisy, sigma: [model(noisy, sigma)])

    return Method(
        name=header.id,
        prepare=prepare,
        plan=plan,
        arm=arm,
        steps=steps or header.steps or None,
        weights=header.sha256[:16],
        channels=(header.model.channels,),
        levels=header.noise_level,
        source=str(id_or_path),
    )


def with_estimated_level(method: Method, photographs: bool = False) -> Method:
    """Return `method` with the noise level estimated from the noisy image instead of known."""
    coarseness = checkpoint.read_header(method.source).coarseness if method.weights else COARSENESS
    code = short_hash([method.code, estimator_hash()] + [coarseness] * (coarseness != COARSENESS))
    changes = {"name": f"{method.name}{AUTO}", "code": code, "estimate": _estimate(coarseness), "slow": True}
    return dataclasses.replace(method, photographs=photographs, **changes)


def networks(weights: list[str | Path], plan: str) -> list[Method]:
    """Return each network, and `+auto` of each network for a range of levels."""
    methods = []
    for id_or_path in weights:
        methods.append(network(id_or_path, plan))
        if methods[-1].levels[0] < methods[-1].levels[1]:
            methods.append(with_estimated_level(methods[-1]))
    return methods


def without_weights() -> list[Method]:
    """Return the noisy input, the classical methods, the library's default for photographs and the level's estimator.

    BM3D is one of them where the package `bm3d` is installed, and then only if it is asked for: its licence is for
    non-commercial use.
    """
    found = [Method(name, _always(restore), code=_code_of(restore), slow=True) for name, restore in CLASSICAL.items()]
    if importlib.util.find_spec(BM3D):
        version = short_hash([BM3D, metadata.version(BM3D)])
        found.append(Method(BM3D, _always(bm3d), code=version, slow=True, on_request=True))
    estimator = Method(ESTIMATOR, None, code=estimator_hash(), estimate=estimate_noise_level)
    automatic = [with_estimated_level(method, photographs=True) for method in found]
    return [Method(NOISY, _always(lambda noisy, sigma: noisy)), *found, *automatic, *library_default(), estimator]


def library_default() -> list[Method]:
    """Return what `mdrn.denoise` does to a colour photograph when it is told nothing; none if nothing is released."""
    try:
        name = inference.default_model(3)
    except ValueError:
        return []

    def restore(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        image = to_uint8(noisy[0].permute(1, 2, 0).cpu().numpy())
        restored = mdrn.restore(image).image.astype(np.float32) / np.float32(255.0)
        return torch.from_numpy(restored).permute(2, 0, 1)[None]

    header = checkpoint.read_header(name)
    code = short_hash([source_hash(mdrn.restore), estimator_hash(), header.coarseness])
    estimate = _estimate(header.coarseness)  # which `restore` asks too
    of_colour = {"channels": (3,), "photographs": True, "estimate": estimate, "weights": header.sha256[:16]}
    return [Method(DEFAULT, _always(restore), code=code, source=name, **of_colour)]


def _estimate(coarseness: float) -> Callable[[np.ndarray], float]:
    """Return the estimate of the level at which networks of this coarseness do best."""
    return lambda image: estimate_level(image, coarseness)[0]


def bm3d(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """Restore by BM3D as the package of its authors computes it (licence: non-commercial use)."""
    import bm3d as package

    image = noisy[0].permute(1, 2, 0).cpu().numpy().astype(np.float64)
    restored = package.bm3d(image[..., 0], sigma) if image.shape[2] == 1 else package.bm3d_rgb(image, sigma)
    restored = np.asarray(restored, dtype=np.float32).reshape(image.shape)
    return torch.from_numpy(restored).permute(2, 0, 1)[None]


def _always(function: Callable[[torch.Tensor, float], torch.Tensor]) -> Callable[[str], Restore]:
    """Return a `prepare` that has nothing to read."""
    return lambda device: lambda noisy, sigma: [function(noisy, sigma)]


@functools.cache
def estimator_hash() -> str:
    """Hash the source and the weights of the noise level's estimator."""
    weights = resources.files("mdrn").joinpath("estimate.safetensors").read_bytes()
    return short_hash([source_hash(estimate_level), hashlib.sha256(weights).hexdigest()])


def _code_of(function: Callable) -> str:
    """Hash what decides a classical method's result: its source, the constants it names, and what a partial fixes."""
    inner = function.func if isinstance(function, functools.partial) else function
    source = inspect.getsource(inner)
    fixed = [repr((function.args, function.keywords))] if inner is not function else []
    words = sorted(set(re.findall(r"\w+", source)) & set(inner.__globals__))
    values = {word: inner.__globals__[word] for word in words}
    constants = [f"{word}={value!r}" for word, value in values.items() if isinstance(value, int | float | str | tuple)]
    return short_hash([source, *fixed, *constants] if fixed or constants else source)


def source_hash(function: Callable) -> str:
    """Hash the source of the function's module, comments and all: cheap to measure again, wrong to miss a change."""
    module = inspect.getmodule(function)
    return short_hash(inspect.getsource(module if module.__name__ != "__main__" else function))
