"""The released networks as the page offers them: what each is, which one to take, how long it takes here."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path

import numpy as np
import torch

import mdrn
from demo.errors import DemoError, told_to_the_visitor
from mdrn import checkpoint, inference
from mdrn.denoiser import count_parameters

AUTOMATIC = "automatic"


@dataclasses.dataclass(frozen=True)
class Network:
    """A released network as the page shows it.

    Args:
        id: its released id.
        parameters: how many it has.
        channels: 1 for grey, 3 for colour.
        noise_level: lowest and highest level it was trained for, on the 8-bit scale.
        strategy: how it was trained.
        teacher: whether it is a teacher, which the others were trained with and which shows no stages.
    """

    id: str
    parameters: int
    channels: int
    noise_level: tuple[float, float]
    strategy: str
    teacher: bool

    @property
    def size(self) -> str:
        """The name of its size, the first part of its id."""
        return self.id.split(".")[0]

    @property
    def is_range(self) -> bool:
        """Whether it was trained for a range of levels."""
        return self.noise_level[0] < self.noise_level[1]

    def covers(self, noise_level: float) -> bool:
        """Whether it was trained for a level."""
        return self.noise_level[0] <= noise_level <= self.noise_level[1]

    @property
    def levels(self) -> str:
        """Its training levels in words: 'level 25 only' or 'levels 0 to 75'."""
        low, high = self.noise_level
        return f"level {low:g} only" if low == high else f"levels {low:g} to {high:g}"


@functools.lru_cache(maxsize=64)
def _describe(model: str, folder: Path) -> Network:
    header = checkpoint.read_header(folder / f"{model}{checkpoint.SUFFIX}")
    with torch.device("meta"):
        parameters = count_parameters(header.model.build())
    teacher = header.architecture == "teacher"
    return Network(model, parameters, header.model.channels, header.noise_level, header.strategy, teacher)


def released() -> list[Network]:
    """List the released networks, those for a range of levels first, large before small; teachers at the end."""
    found = [_describe(model, checkpoint.WEIGHTS_DIR) for model in mdrn.list_models()]
    return sorted(found, key=lambda n: (n.teacher, not n.is_range, n.channels, -n.parameters, n.noise_level, n.id))


def networks() -> list[Network]:
    """List the released networks that a visitor can choose: all but teachers, in the order of `released`."""
    return [network for network in released() if not network.teacher]


def choose_network(model: str | None, channels: int = 1) -> Network:
    """Return the network behind a choice; `AUTOMATIC` or None is the library's own choice for the image.

    Raises:
        DemoError: if no such network is released.
    """
    with told_to_the_visitor():
        name = inference.default_model(channels) if model in (None, "", AUTOMATIC) else model
    for network in networks():
        if network.id == name:
            return network
    raise DemoError(
        f"model: expected one of {', '.join(n.id for n in networks()) or 'none, as none is released'}, got {name!r}"
    )


def has_automatic() -> bool:
    """Whether the library can choose a network by itself: that takes one for a range of levels."""
    try:
        choose_network(AUTOMATIC)
    except DemoError:
        return False
    return True


_speeds: dict[str, float] = {}


def expected_seconds(model: str, pixels: int, colours: int) -> float:
    """Predict how long a network takes here, from its last run or else from a small trial.

    Args:
        model: its id.
        pixels: height times width.
        colours: 3 where a grey network restores red, green and blue one by one, else 1.
    """
    if model not in _speeds:
        network = choose_network(model)
        shape = (256, 256) if network.channels == 1 else (256, 256, network.channels)
        trial = np.random.default_rng(0).random(shape, dtype=np.float32)
        inference.restore(trial, network.noise_level[1], model)  # the first run of a shape is slower
        began = time.perf_counter()
        inference.restore(trial, network.noise_level[1], model)
        _speeds[model] = trial.shape[0] * trial.shape[1] / (time.perf_counter() - began)
    return pixels * colours / _speeds[model]


def note_speed(model: str, pixels: int, seconds: float) -> None:
    """Remember how long a network took here, for `expected_seconds`."""
    _speeds[model] = pixels / max(seconds, 1e-3)
