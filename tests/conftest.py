"""Fixtures: small networks and images whose odd sizes leave size bugs no place to hide."""

import numpy as np
import pytest
import torch

from mdrn import checkpoint
from mdrn.model import MDRN, ModelConfig, StageConfig

SMALL_STAGE = StageConfig((0, 1, 1), (1, 1))


def small_network(channels: int = 1, **changes) -> MDRN:
    """Return a small seeded network whose tails are damped, so that its output stays near its input."""
    options = {"channels": channels, "widths": (8, 8, 16), "stages": (SMALL_STAGE,) * 2, "entry": 2} | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MDRN(ModelConfig(**options)).eval()
    with torch.no_grad():
        for tail in network.tails:
            tail.weight.mul_(0.3)
    return network


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A 37 x 31 photograph, so that swapped axes cannot hide."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[100:137, 200:231])


@pytest.fixture
def network() -> MDRN:
    return small_network()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 31), dtype=np.uint8)


def header_for(network: MDRN, **changes) -> checkpoint.Header:
    fields = {
        "id": "small.plain_n0-75_s0",
        "model": network.config,
        "noise_level": (0.0, 75.0),
        "strategy": "plain",
        "seed": 0,
        "patches": 16,
        "recipe": {"version": "test"},
        "data": {"sets": "none", "sha256": ""},
        "git": "unknown",
        "torch": torch.__version__,
    }
    return checkpoint.Header(**(fields | changes))


@pytest.fixture
def weights_file(network, tmp_path):
    path = tmp_path / "small.safetensors"
    checkpoint.write_weights(path, network, header_for(network))
    return path
