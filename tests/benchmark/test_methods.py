"""Methods beyond the released networks: FFDNet with our recipe, BM3D where it is installed, and what they cost."""

import dataclasses
import importlib.util
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark import cost, jobs, methods, testsets
from benchmark.cost import CostError
from benchmark.networks import FFDNet
from mdrn import checkpoint, metrics, noise
from mdrn.checkpoint import CheckpointError
from mdrn.model import ModelConfig
from tests.conftest import header_for, small_network


@dataclasses.dataclass(frozen=True)
class FFDNetConfig:
    channels: int = 1


@pytest.fixture
def ffdnet_file(tmp_path, network):
    """A file as `benchmark.design` leaves it."""
    path = tmp_path / "ffdnet.plain_n0-75_s0.safetensors"
    header = header_for(network, id="ffdnet.plain_n0-75_s0", model=FFDNetConfig())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checkpoint.write_weights(path, FFDNet(), header)
    return path


def test_an_ffdnet_file_is_a_method(ffdnet_file, monkeypatch):
    monkeypatch.setattr(methods, "cost", lambda kind, *_: {"kind": kind})
    method = methods.network(ffdnet_file, "given")
    assert (method.name, method.channels, method.levels) == ("ffdnet.plain_n0-75_s0", (1,), (0.0, 75.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = FFDNet().eval()
    noisy = torch.rand(1, 1, 13, 9)
    with torch.no_grad():
        (restored,) = method.prepare("cpu")(noisy, 0.1)
        assert torch.allclose(restored, expected(noisy, 0.1), atol=1e-6)
    facts = method.facts()
    assert facts["parameters"] == sum(p.numel() for p in expected.parameters())
    assert facts["gmacs_256"] == pytest.approx(7.9, abs=0.1)


def test_a_damaged_ffdnet_file_is_refused(ffdnet_file):
    tensors = load_file(ffdnet_file)
    with checkpoint.safe_open(ffdnet_file, framework="pt") as file:
        metadata = file.metadata()
    tensors["body.0.weight"][0, 0, 0, 0] += 1
    save_file(tensors, ffdnet_file, metadata)
    with pytest.raises(CheckpointError, match="not the ones that were written"):
        methods.load_network(ffdnet_file)


def test_bm3d_denoises_and_is_there_only_if_asked_for():
    if not importlib.util.find_spec("bm3d"):
        pytest.skip("run `pip install bm3d` to run this test; its licence is for non-commercial use")
    available = methods.without_weights()
    assert methods.BM3D not in [method.name for method in jobs.choose_methods(available, None)]
    (method,) = jobs.choose_methods(available, ["bm3d"])
    for clean in (testsets.load("samples").images["camera"], testsets.load("samples_rgb").images["coffee"]):
        clean = clean[64:128, 64:120]
        noisy = noise.benchmark_noisy(clean, 25)
        tensor = torch.from_numpy(noisy.reshape(*clean.shape[:2], -1)).permute(2, 0, 1)[None]
        (restored,) = method.prepare("cpu")(tensor, 25 / 255)
        image = metrics.to_uint8(restored[0].permute(1, 2, 0).numpy().reshape(clean.shape))
        assert metrics.psnr(image, clean) > metrics.psnr(metrics.to_uint8(noisy), clean) + 4


def test_bm3d_that_is_not_installed_is_said_to_be(monkeypatch):
    monkeypatch.setattr(methods.importlib.util, "find_spec", lambda name: None)
    available = methods.without_weights()
    assert methods.BM3D not in [method.name for method in available]
    with pytest.raises(jobs.MethodError, match="pip install bm3d.*non-commercial"):
        jobs.choose_methods(available, ["bm3d"])


def test_time_and_memory_come_from_a_process_of_their_own_once_for_each_kind(weights_file, monkeypatch):
    started, run = [], subprocess.run
    monkeypatch.setattr(cost.subprocess, "run", lambda *args, **kwargs: started.append(1) or run(*args, **kwargs))
    monkeypatch.setattr(cost, "_measured", {})
    measured = cost.cost("small", str(weights_file), "cpu", 1)
    assert measured is cost.cost("small", "other weights", "cpu", 1)
    assert len(started) == 1
    assert measured["milliseconds_512"] > 0
    if sys.platform == "linux":
        image = 512 * 512 * 4 / 2**20
        assert image < measured["peak_memory_mib_512"] < 500
    else:
        assert measured["peak_memory_mib_512"] is None or measured["peak_memory_mib_512"] > 0


def test_memory_grows_with_the_network(tmp_path):
    if sys.platform != "linux":
        pytest.skip("peak memory is read from Linux; run it there")
    peaks = []
    for width in (8, 64):
        network = small_network(widths=(width, 8, 8))
        path = tmp_path / f"{width}.safetensors"
        checkpoint.write_weights(path, network, header_for(network))
        peaks.append(cost.measure(str(path), "cpu")["peak_memory_mib_512"])
    assert peaks[1] > peaks[0] + 8


def test_a_failed_measurement_is_one_line(tmp_path):
    with pytest.raises(CostError, match="measuring time and memory of .*gone.*expected a released id") as caught:
        cost.cost("gone", str(tmp_path / "gone.safetensors"), "cpu", 1)
    assert "\n" not in str(caught.value)


def test_a_field_that_came_after_a_file_was_written_changes_nothing(weights_file, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Later(ModelConfig):
        new: int = 0

    before = methods.network(weights_file, "given")
    monkeypatch.setitem(checkpoint.ARCHITECTURES, "mdrn", Later)
    after = methods.network(weights_file, "given")
    assert "new" in dataclasses.asdict(after.header.model)
    assert after.key() == before.key()
