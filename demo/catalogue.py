"""The released networks as the page offers them: a name for people, an id for researchers."""

import dataclasses
import functools
from pathlib import Path

import torch

import mdrn
from demo.errors import DemoError
from mdrn import checkpoint
from mdrn.denoiser import count_parameters

AUTOMATIC = "automatic"
_TITLES = {
    "photo": "Photo",
    "photo_tiny": "Photo, fast",
    "mdrn_rgb": "White noise, colour",
    "mdrn_tiny_rgb": "White noise, colour, fast",
    "mdrn": "White noise, grey",
    "mdrn_tiny": "White noise, grey, fast",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A released network as the page shows it."""

    id: str  # its released id
    parameters: int  # how many it has
    channels: int  # 1 for grey, 3 for colour
    noise_level: tuple[float, float]  # lowest and highest level it was trained for, on the 8-bit scale
    strategy: str  # how it was trained

    @property
    def size(self) -> str:
        """Its short name, the first part of its id."""
        return self.id.split(".")[0]

    @property
    def title(self) -> str:
        """Its name for people."""
        return _TITLES.get(self.size, self.size)

    @property
    def full_title(self) -> str:
        """Its name for people, with how it was trained where there are others of its size."""
        alone = sum(other.size == self.size for other in networks()) == 1
        return self.title if alone else f"{self.title} ({self.strategy})"

    def covers(self, noise_level: float) -> bool:
        """Whether it was trained for a level."""
        return self.noise_level[0] <= noise_level <= self.noise_level[1]

    def __str__(self) -> str:
        kind = "colour" if self.channels == 3 else "grey"
        low, high = self.noise_level
        how = "without a teacher" if self.strategy == "plain" else f"with a larger network as teacher ({self.strategy})"
        size = f"{self.parameters / 1e6:.2f} million parameters"
        return f"`{self.id}`: {kind}, noise levels {low:g} to {high:g}, {size}, trained {how}"


def short_names() -> dict[str, str]:
    """Return the released id that each short name means."""
    return _read(checkpoint.WEIGHTS_DIR)[0]


def networks() -> list[Network]:
    """List the released networks in the order of their titles, the best of a kind first."""
    return _read(checkpoint.WEIGHTS_DIR)[1]


@functools.lru_cache(maxsize=8)
def _read(folder: Path) -> tuple[dict[str, str], list[Network]]:
    """Read the headers in a folder of weights once, for they stay while the page is served."""
    names, found = checkpoint.short_names(), []
    for model in mdrn.list_models():
        header = checkpoint.read_header(model)
        with torch.device("meta"):
            parameters = count_parameters(header.model.build())
        found.append(Network(model, parameters, header.model.channels, header.noise_level, header.strategy))
    order = [*_TITLES, *names]
    return names, sorted(found, key=lambda n: (order.index(n.size), n.id not in names.values(), n.id))


def find(model: str) -> Network:
    """Return the network of a released id or short name.

    Raises:
        DemoError: if no such network is released.
    """
    name, known = short_names().get(model, model), {network.id: network for network in networks()}
    if name not in known:
        names = ", ".join([AUTOMATIC, *short_names(), *known])
        raise DemoError(f"model: expected one of {names}, got {model!r}")
    return known[name]


def model_argument(model: str | None) -> str | None:
    """Return what the library is given for a choice: None for `AUTOMATIC`, so that the library chooses by itself.

    Raises:
        DemoError: if no such network is released.
    """
    return None if model in (None, "", AUTOMATIC) else find(model).id


def choices() -> list[tuple[str, str]]:
    """Return what the network picker offers: (name for people, short name)."""
    named = [(_TITLES[name], name) for name in _TITLES if name in short_names()]
    return [("Automatic", AUTOMATIC), *named] if named else []
