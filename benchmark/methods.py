"""What can be evaluated: released or given networks, the noisy input itself and classical methods, all alike.

BM3D is one of them where the package `bm3d` is installed, and then only if it is asked for: its licence is for
non-commercial use.

`evaluate` and `run` import this module; it imports `mdrn`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import mdrn
from benchmark.cost import cost
from benchmark.networks import FFDNet, gmacs
from benchmark.rows import AUTO, ESTIMATOR, short_hash
from mdrn.checkpoint import (
    METADATA_KEY,
    CheckpointError,
    Header,
    find_weights,
    parse_header,
    read_header,
    tensors_sha256,
)
from mdrn.classical import CLASSICAL
from mdrn.denoiser import count_parameters
from mdrn.noise import estimate_noise_level

NOISY, BM3D = "noisy", "bm3d"
DEFAULT_LEVELS = (15.0, 25.0, 50.0)
Restore = Callable[[torch.Tensor, float], list[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to restore an image; its weights are read by `prepare`, not before.

    Args:
        name: a run's id, with '+auto' where the noise level is estimated, or 'noisy', 'wavelet', ...
        config: hash of the training configuration, or of the code of a method without weights.
        weights: first 16 digits of the weights' SHA-256, or empty.
        prepare: device -> function from (noisy (1, C, H, W), sigma) to the images after each stage, last the result.
        channels: what it takes, 1 and or 3.
        levels: lowest and highest noise level it is made for.
        header: of the weights file, if it has weights.
        plan: see `benchmark.rows.Row`.
        estimate: (H, W) or (H, W, 3) float noisy image -> noise level on the 8-bit scale; None is told the true level.
        source: released id or file of the weights, if it has weights.
        on_request: whether it is left out unless it is asked for.
    """

    name: str
    config: str
    weights: str
    prepare: Callable[[str], Restore]
    channels: tuple[int, ...] = (1, 3)
    levels: tuple[float, float] = (0.0, 75.0)
    header: Header | None = None
    plan: str = ""
    estimate: Callable[[np.ndarray], float] | None = None
    source: str = ""
    on_request: bool = False

    def key(self) -> dict[str, str]:
        """Return what tells this method's rows from others', as in `benchmark.rows.Row`."""
        return {"plan": self.plan, "method": self.name, "config": self.config, "weights": self.weights}

    def levels_among(self, asked: tuple[float, ...] | None) -> list[float]:
        """Return the levels to evaluate at: what was asked for (None: 15, 25, 50) as far as the method is made for it.

        A network trained for one level is evaluated at that level alone.
        """
        low, high = self.levels
        if low == high:
            return [low] if asked is None or low in asked else []
        return [level for level in asked or DEFAULT_LEVELS if low <= level <= high]

    def facts(self, device: str = "cpu") -> dict[str, object]:
        """Return what the report says of a network: size, cost on a device and training; nothing for other methods."""
        if self.header is None:
            return {}
        model = load_network(self.source)
        kind = short_hash([type(model).__name__, dataclasses.asdict(self.header.model)])
        return cost(kind, self.source, device, torch.get_num_threads()) | {
            "parameters": count_parameters(model),
            "gmacs_256": round(gmacs(model, self.header.model.channels), 4),
            "patches": self.header.patches,
            "trained_levels": list(self.header.noise_level),
            "strategy": self.header.strategy,
            "seed": self.header.seed,
            "trained_on": dict(self.header.data),
            "trained_git": self.header.git,
            "weights_sha256": self.header.sha256,
        }


def noisy_input() -> Method:
    """Return the method that does nothing: what the others start from, clipped and rounded like their outputs."""
    return Method(NOISY, "", "", lambda device: lambda noisy, sigma: [noisy])


def classical(name: str) -> Method:
    """Return one of `mdrn.classical.CLASSICAL`."""
    function = CLASSICAL[name]
    return Method(name, _source_hash(function), "", lambda device: lambda noisy, sigma: [function(noisy, sigma)])


def bm3d() -> Method:
    """Return BM3D as the package of its authors computes it (licence: non-commercial use)."""

    def restore(noisy: torch.Tensor, sigma: float) -> list[torch.Tensor]:
        import bm3d as package

        image = noisy[0].permute(1, 2, 0).cpu().numpy().astype(np.float64)
        restored = package.bm3d(image[..., 0], sigma) if image.shape[2] == 1 else package.bm3d_rgb(image, sigma)
        restored = np.asarray(restored, dtype=np.float32).reshape(image.shape)
        return [torch.from_numpy(restored).permute(2, 0, 1)[None]]

    return Method(BM3D, short_hash(["bm3d", metadata.version("bm3d")]), "", lambda device: restore, on_request=True)


def load_network(id_or_path: str | Path, device: str = "cpu") -> nn.Module:
    """Load a network of this project, or an FFDNet trained with its recipe.

    The file of an FFDNet (see `benchmark.design`) is told apart by the names of its tensors.

    Raises:
        CheckpointError: if the file is missing, not ours, or damaged.
    """
    path = find_weights(id_or_path)
    header = _ffdnet_header(path)
    if header is None:
        return mdrn.load(path, device)
    tensors = load_file(path)
    if tensors_sha256(tensors) != header.sha256:
        raise CheckpointError(f"{path}: its tensors are not the ones that were written (SHA-256); get the file again")
    model = FFDNet(header.model.channels)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its tensors fit neither a network of this project nor FFDNet") from error
    return model.to(device).eval()


def _ffdnet_header(path: Path) -> Header | None:
    """Return the header of an FFDNet's file, None for any other: then `mdrn` says what it is, or what is wrong."""
    try:
        with safe_open(path, framework="pt") as file:
            if all(name.startswith("body.") for name in file.keys()):  # noqa: SIM118
                return parse_header((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError):
        pass
    return None


def network(id_or_path: str | Path, plan: str) -> Method:
    """Return the method of a released id or weights file, as part of a plan.

    Raises:
        CheckpointError: if there is none, or it is not ours.
    """
    header = _ffdnet_header(find_weights(id_or_path)) or read_header(id_or_path)

    def prepare(device: str) -> Restore:
        model = load_network(id_or_path, device).to(memory_format=torch.channels_last)
        if hasattr(model, "progressive"):
            return model.progressive
        return lambda noisy, sigma: [model(noisy, sigma)]

    return Method(
        name=header.id,
        config=_trained_config(id_or_path),
        weights=header.sha256[:16],
        prepare=prepare,
        channels=(header.model.channels,),
        levels=header.noise_level,
        header=header,
        plan=plan,
        source=str(id_or_path),
    )


def _trained_config(id_or_path: str | Path) -> str:
    """Hash network and recipe as the file spells them, so that a field that came later does not change it."""
    with safe_open(find_weights(id_or_path), framework="pt") as file:
        written = json.loads(file.metadata()[METADATA_KEY])
    return short_hash({"model": written["model"], "recipe": written["recipe"]})


def with_estimated_level(method: Method, estimate: Callable[[np.ndarray], float] = estimate_noise_level) -> Method:
    """Return `method` with the noise level estimated from the noisy image instead of known."""
    config = short_hash([method.config, _source_hash(estimate)])
    return dataclasses.replace(method, name=f"{method.name}{AUTO}", config=config, estimate=estimate)


def estimator_key(estimate: Callable[[np.ndarray], float] = estimate_noise_level) -> dict[str, str]:
    """Return the `Method.key` of the estimator's own rows; it changes when the estimator's module does."""
    return {"plan": "", "method": ESTIMATOR, "config": _source_hash(estimate), "weights": ""}


def without_weights() -> list[Method]:
    """Return the noisy input and the classical methods, BM3D last if it is installed."""
    found = [noisy_input(), *(classical(name) for name in CLASSICAL)]
    return [*found, bm3d()] if importlib.util.find_spec("bm3d") else found


def networks(weights: list[str | Path], plan: str) -> list[Method]:
    """Return each network, and `+auto` of each network for a range of levels."""
    methods = []
    for id_or_path in weights:
        methods.append(network(id_or_path, plan))
        if methods[-1].levels[0] < methods[-1].levels[1]:
            methods.append(with_estimated_level(methods[-1]))
    return methods


def _source_hash(function: Callable) -> str:
    """Hash the source of the function's module, comments and all: cheap to measure again, wrong to miss a change."""
    module = inspect.getmodule(function)
    return short_hash(inspect.getsource(module if module.__name__ != "__main__" else function))
