"""Exported networks restore what PyTorch's do, at any size, through the command line and tiles too."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import SMALL_STAGE, header_for, small_network

from mdrn import checkpoint, export, load
from mdrn.checkpoint import CheckpointError
from mdrn.cli import main
from mdrn.inference import restore

onnx = pytest.importorskip("onnx", reason="run `pip install onnx` to run this test")
pytest.importorskip("onnxruntime", reason="run `pip install onnxruntime` to run this test")
pytest.importorskip("onnxscript", reason="run `pip install onnxscript` to run this test")
SIZES = [(1, 37, 31), (2, 37, 31), (1, 64, 48), (3, 1, 1), (1, 8, 9), (2, 129, 70)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two small networks with their ONNX files: grey, and one of every other option, for RGB."""
    folder = tmp_path_factory.mktemp("onnx")
    found = []
    others = {"channels": 3, "entry": 4, "stages": (SMALL_STAGE,) * 3}
    for name, options in (("grey", {}), ("others", others)):
        network = small_network(**options)
        weights = folder / f"{name}.safetensors"
        checkpoint.write_weights(weights, network, header_for(network))
        export.export_onnx(weights, folder / f"{name}.onnx")
        found.append((checkpoint.load(weights), folder / f"{name}.onnx"))
    return found


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_the_result_is_pytorchs_at_any_size(exported, which, size):
    network, path = exported[which]
    denoiser = export.load_onnx(path)
    noisy = torch.rand(size[0], network.config.channels, *size[1:])
    for sigma in (0.0, 0.1, torch.linspace(0.02, 0.3, size[0])):
        with torch.no_grad():
            expected = network(noisy, sigma)
        restored = denoiser(noisy.to(memory_format=torch.channels_last), sigma)
        assert restored.shape == noisy.shape and (restored - expected).abs().max() <= export.TOLERANCE
    assert denoiser.header.id == "small.plain_n0-75_s0"
    assert (denoiser.stride, denoiser.receptive_field_radius) == (network.stride, network.receptive_field_radius)


def test_the_file_says_what_it_takes(exported):
    model = onnx.load(exported[0][1])
    onnx.checker.check_model(model)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert shapes == {"noisy": ["batch", 1, "height", "width"], "sigma": ["batch"]}
    (output,) = model.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == shapes["noisy"]
    assert "not clipped" in model.doc_string


def test_tiles_of_every_shape_restore_the_same_image(exported):
    network, path = exported[0]
    denoiser = export.load_onnx(path)
    image = np.random.default_rng(0).integers(0, 256, (150, 131, 3), dtype=np.uint8)
    whole = restore(image, 25, network).image.astype(int)
    tiled = restore(image, 25, denoiser, tile=48)
    assert np.abs(tiled.image - whole).max() <= 1 and tiled.model == "small.plain_n0-75_s0" and tiled.per_channel


def test_wrong_shapes_are_refused(exported):
    denoiser = export.load_onnx(exported[0][1])
    for noisy, sigma in (
        (torch.rand(1, 3, 8, 8), 0.1),
        (torch.rand(8, 8), 0.1),
        (torch.rand(2, 1, 8, 8), torch.rand(3)),
    ):
        with pytest.raises(ValueError, match="expected"):
            denoiser(noisy, sigma)


def test_files_that_are_not_ours_are_refused(exported, tmp_path, capfd):
    content = exported[0][1].read_bytes()
    foreign = onnx.load(exported[0][1])
    del foreign.metadata_props[:]
    files = {"text": b"hello", "empty": b"", "short": content[: len(content) // 2], "none": None}
    files["foreign"] = foreign.SerializeToString()
    for name, raw in files.items():
        path = tmp_path / f"{name}.onnx"
        if raw is not None:
            path.write_bytes(raw)
        with pytest.raises(CheckpointError) as caught:
            export.load_onnx(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_network_that_exports_wrongly_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "to_onnx", lambda network: exported[0][1].read_bytes())
    network = small_network(widths=(8, 16, 16))
    checkpoint.write_weights(tmp_path / "w.safetensors", network, header_for(network))
    with pytest.raises(ValueError, match="differs"):
        export.export_onnx(tmp_path / "w.safetensors", tmp_path / "w.onnx")
    assert not (tmp_path / "w.onnx").exists()


def test_the_command_line_exports_and_runs(tmp_path, capsys):
    name, target = "mdrn_tiny", tmp_path / "tiny.onnx"
    assert main(["export", name, "-o", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    before = target.read_bytes()
    assert main(["export", name, "-o", str(target)]) == 2
    assert "overwrite" in capsys.readouterr().err and target.read_bytes() == before
    source = tmp_path / "in.png"
    noisy = np.random.default_rng(0).normal(120, 25, (61, 47)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(source)
    for model, out in ((str(target), "a.png"), (name, "b.png")):
        call = ["denoise", str(source), "-o", str(tmp_path / out), "--model", model, "--noise-level", "25"]
        assert main([*call, "--runtime", "onnx"]) == 0
        expected = restore(noisy, 25, load(name)).image.astype(int)
        assert np.abs(np.asarray(Image.open(tmp_path / out)) - expected).max() <= 1


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "mdrn_tiny", "-o", str(tmp_path / "x.onnx")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and package in said and "pip install onnx onnxruntime onnxscript" in said
    assert list(tmp_path.iterdir()) == []
