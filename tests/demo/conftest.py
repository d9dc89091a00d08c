"""The served demo, for its tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))  # `load_demo`, a program with a short form as a test


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Return the address of the served demo, with untrained networks and its own temporary folder."""
    from demo_site import served, untrained_networks_released

    folder = tmp_path_factory.mktemp("gradio")
    with untrained_networks_released(tmp_path_factory.mktemp("weights")), served(folder) as url:
        yield url
