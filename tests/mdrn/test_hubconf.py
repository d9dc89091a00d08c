"""`torch.hub.load` works from a clone, in a process that knows nothing of this one."""

import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["mdrn", "mdrn_tiny_rgb", "photo"])
def test_torch_hub_loads_a_network_from_a_clone(name, tmp_path):
    code = (
        f"import torch; network = torch.hub.load({str(CLONE)!r}, {name!r}, source='local');"
        "print(network.header.id, tuple(network(torch.rand(1, network.config.channels, 9, 7), 0.1).shape))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    channels = 1 if name == "mdrn" else 3
    assert result.stdout.startswith(f"{name}.") and f"(1, {channels}, 9, 7)" in result.stdout
