"""The served demo, for its tests."""

import contextlib
import sys
from pathlib import Path

import gradio_client
import pytest
from demo_site import COLOUR, GREY, TINY, released, served, write_untrained

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))  # `load_demo`, a program with a short form as a test


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return a folder of untrained networks: what they do is certain, if not useful."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (GREY, TINY, COLOUR):
        write_untrained(folder, name)
    return folder


@pytest.fixture(scope="session")
def address(weights, tmp_path_factory):
    """Serve the demo once for all tests, with its own temporary folder, and return its address."""
    with contextlib.ExitStack() as stack:
        with released(weights):
            address = stack.enter_context(served(tmp_path_factory.mktemp("gradio")))
        yield address


@pytest.fixture(scope="module", autouse=True)
def networks(weights):
    """Put the untrained networks in place of the released ones, for the demo's modules alone."""
    with released(weights):
        yield


@pytest.fixture(scope="session")
def client(address):
    return gradio_client.Client(address, verbose=False)
