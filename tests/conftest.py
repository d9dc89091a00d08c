"""Fixtures: small networks and images whose odd sizes leave size bugs no place to hide."""

import numpy as np
import pytest
from small_networks import header_for, small_network

from mdrn import checkpoint
from mdrn.model import MDRN


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


@pytest.fixture
def weights_file(network, tmp_path):
    path = tmp_path / "small.safetensors"
    checkpoint.write_weights(path, network, header_for(network))
    return path
