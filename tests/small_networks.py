"""Small networks and their headers, for every test that needs one."""

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
