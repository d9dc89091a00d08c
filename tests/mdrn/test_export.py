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


def export_small(folder, name, **options):
    """Return a small network and its ONNX file, made as the command line makes it."""
    network = small_network(**options)
    weights, target = folder / f"{name}.safetensors", folder / f"{name}.onnx"
    checkpoint.write_weights(weights, network, header_for(network))
    assert main(["export", str(weights), "-o", str(target)]) == 0
    return checkpoint.load(weights), target


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_small(tmp_path_factory.mktemp("onnx"), "grey")


@pytest.fixture(scope="module")
def exported_otherwise(tmp_path_factory):
    """The same for RGB, with every other option."""
    return export_small(tmp_path_factory.mktemp("onnx"), "others", channels=3, entry=4, stages=(SMALL_STAGE,) * 3)


@pytest.mark.parametrize("which", ["exported", pytest.param("exported_otherwise", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", SIZES)
def test_the_result_is_pytorchs_at_any_size(request, which, size):
    network, path = request.getfixturevalue(which)
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
    model = onnx.load(exported[1])
    onnx.checker.check_model(model)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert shapes == {"noisy": ["batch", 1, "height", "width"], "sigma": ["batch"]}
    (output,) = model.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == shapes["noisy"]
    assert "not clipped" in model.doc_string


def test_tiles_of_every_shape_restore_the_same_image(exported):
    network, path = exported
    denoiser = export.load_onnx(path)
    image = np.random.default_rng(0).integers(0, 256, (150, 131, 3), dtype=np.uint8)
    whole = restore(image, 25, network).image.astype(int)
    tiled = restore(image, 25, denoiser, tile=48)
    assert np.abs(tiled.image - whole).max() <= 1 and tiled.model == "small.plain_n0-75_s0" and tiled.per_channel


def test_wrong_shapes_are_refused(exported):
    denoiser = export.load_onnx(exported[1])
    for noisy, sigma in (
        (torch.rand(1, 3, 8, 8), 0.1),
        (torch.rand(8, 8), 0.1),
        (torch.rand(2, 1, 8, 8), torch.rand(3)),
        (torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)),
        (torch.rand(2, 1, 8, 8), 25.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            denoiser(noisy, sigma)


def test_files_that_are_not_ours_are_refused(exported, tmp_path, capfd):
    content = exported[1].read_bytes()
    foreign = onnx.load(exported[1])
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
    monkeypatch.setattr(export, "to_onnx", lambda network: exported[1].read_bytes())
    network = small_network(widths=(8, 16, 16))
    checkpoint.write_weights(tmp_path / "w.safetensors", network, header_for(network))
    with pytest.raises(ValueError, match="differs"):
        export.export_onnx(tmp_path / "w.safetensors", tmp_path / "w.onnx")
    assert not (tmp_path / "w.onnx").exists()


def check_command_line(folder, model, network):
    """Denoise an image with `--runtime onnx`, and compare it with what PyTorch makes of it."""
    source, target = folder / "in.png", folder / "out.png"
    noisy = np.random.default_rng(0).normal(120, 25, (61, 47)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(source)
    call = ["denoise", str(source), "-o", str(target), "--model", str(model), "--noise-level", "25"]
    assert main([*call, "--runtime", "onnx"]) == 0
    assert np.abs(np.asarray(Image.open(target)) - restore(noisy, 25, network).image.astype(int)).max() <= 1


def test_the_command_line_runs_what_it_exported_and_replaces_nothing(exported, tmp_path, capsys):
    network, path = exported
    before = path.read_bytes()
    assert main(["export", "mdrn_tiny", "-o", str(path)]) == 2
    assert "overwrite" in capsys.readouterr().err and path.read_bytes() == before
    check_command_line(tmp_path, path, network)


@pytest.mark.slow
def test_a_released_network_is_exported_when_it_is_used(tmp_path, capsys):
    check_command_line(tmp_path, "mdrn_tiny", load("mdrn_tiny"))
    assert main(["export", "mdrn_tiny", "-o", str(tmp_path / "tiny.onnx")]) == 0
    assert str(tmp_path / "tiny.onnx") in capsys.readouterr().out


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "mdrn_tiny", "-o", str(tmp_path / "x.onnx")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and package in said and "pip install onnx onnxruntime onnxscript" in said
    assert list(tmp_path.iterdir()) == []
