import json
import os
import struct

import pytest
import torch
from conftest import header_for
from safetensors.torch import save_file

from mdrn import checkpoint
from mdrn.checkpoint import CheckpointError, load, read_header, write_weights


def edit_header(path, change):
    """Apply `change(fields)` to the JSON that the file's metadata holds."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + size])
    fields = json.loads(table["__metadata__"]["mdrn"])
    change(fields)
    table["__metadata__"]["mdrn"] = json.dumps(fields)
    head = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + raw[8 + size :])


def test_a_network_comes_back_from_its_file_alone(network, weights_file):
    loaded = load(weights_file)
    noisy = torch.rand(1, 1, 37, 31)
    with torch.no_grad():
        assert torch.allclose(loaded(noisy, 0.1), network(noisy, 0.1), atol=1e-6)
    assert not loaded.training and loaded.config == network.config
    assert loaded.header == read_header(weights_file) and loaded.header.noise_level == (0.0, 75.0)
    assert loaded.header.sha256 == checkpoint.tensors_sha256(network.state_dict())


def test_the_same_network_gives_the_same_bytes(network, tmp_path):
    for name in "ab":
        write_weights(tmp_path / name, network, header_for(network))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_that_are_not_ours_are_refused(tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign, metadata={"mdrn": "[1, 2]"})
    for path in (text, empty, other, foreign, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="released id"):
        load("no_such_model")


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["model"].update(widths=[8, 8, 32]),
        lambda f: f["model"].update(widths=[8, 8, 10**9]),
        lambda f: f["model"].update(widths="many"),
        lambda f: f["model"].update(depth=3),
        lambda f: f.update(noise_level=[75, 0]),
        lambda f: f.update(noise_level=["a", "b"]),
        lambda f: f.pop("patches"),
        lambda f: f.update(extra=1),
        lambda f: f.update(sha256="0" * 64),
        lambda f: f.update(format="mdrn-weights-99"),
        lambda f: f.update(model=None),
    ],
)
def test_headers_that_lie_are_refused(weights_file, change):
    edit_header(weights_file, change)
    with pytest.raises(CheckpointError):
        load(weights_file)


def test_every_changed_tensor_byte_is_noticed(weights_file):
    raw = bytearray(weights_file.read_bytes())
    (size,) = struct.unpack("<Q", raw[:8])
    for position in (8 + size, (8 + size + len(raw)) // 2, len(raw) - 1):
        changed = bytearray(raw)
        changed[position] ^= 1
        weights_file.write_bytes(changed)
        with pytest.raises(CheckpointError, match="SHA-256"):
            load(weights_file)
    for length in (0, 4, 8, size // 2, 8 + size, len(raw) - 1):
        weights_file.write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            load(weights_file)


def test_writing_is_whole_or_not_at_all(network, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_weights(path, network, header_for(network))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_weights(path, network, header_for(network, seed=1))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_every_released_network_loads_and_is_small():
    for name in checkpoint.list_models():
        assert load(name).header.id == name
        assert checkpoint.find_weights(name).stat().st_size < 12 * 2**20
