import dataclasses
import json
import os
import struct
import sys
import time

import pytest
import torch
from safetensors.torch import save, save_file
from small_networks import header_for, small_network

from mdrn import checkpoint
from mdrn.checkpoint import CheckpointError, load, read_header, write_weights

resource = pytest.importorskip("resource", reason="Windows has no peak memory to read")
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss


def split(path):
    """Return a file's table of contents and its tensors' bytes."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def join(path, table, body):
    head = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def edit_header(path, change):
    """Apply `change(fields)` to the JSON that the file's metadata holds."""
    table, body = split(path)
    fields = json.loads(table["__metadata__"]["mdrn"])
    change(fields)
    table["__metadata__"]["mdrn"] = json.dumps(fields)
    join(path, table, body)


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT


def refusal(path):
    """Load and read a hostile file; return the line that refuses it, having checked that it cost next to nothing."""
    lines = []
    for read in (load, read_header):
        began, before = time.perf_counter(), peak_bytes()
        try:
            read(path)
        except CheckpointError as error:
            lines.append(str(error))
        assert time.perf_counter() - began < 2.0
        assert peak_bytes() - before < 64 * 2**20
    assert lines and str(path) in lines[0] and "\n" not in lines[0] and len(lines[0]) < 600
    assert lines[0].isprintable()
    return lines[0]


def test_a_network_comes_back_from_its_file_alone(network, weights_file):
    loaded = load(weights_file)
    noisy = torch.rand(1, 1, 37, 31)
    with torch.no_grad():
        assert torch.allclose(loaded(noisy, 0.1), network(noisy, 0.1), atol=1e-3)
    assert not loaded.training and loaded.config == network.config
    assert loaded.header == read_header(weights_file) and loaded.header.noise_level == (0.0, 75.0)
    halves = {name: tensor.half() for name, tensor in network.state_dict().items()}
    assert loaded.header.sha256 == checkpoint.tensors_sha256(halves)
    write_weights(weights_file.with_name("again"), loaded, loaded.header)
    assert weights_file.with_name("again").read_bytes() == weights_file.read_bytes()


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
    with pytest.raises(CheckpointError, match="did you mean mdrn_tiny?"):
        load("mdrn_tinny")
    with pytest.raises(CheckpointError, match="choose from mdrn,"):
        load("something_else")


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["model"].update(widths=[8, 8, 32]),
        lambda f: f["model"].update(widths=[8, 8, 10**9]),
        lambda f: f["model"].update(widths=[100_000, 100_000]),
        lambda f: f["model"].update(widths=[512] * 5, stages=[{"down": [16] * 5, "up": [16] * 4}] * 16),
        lambda f: f["model"].update(widths=[1] * 10**5),
        lambda f: f["model"].update(widths="many"),
        lambda f: f["model"].update(widths=["8", "8", "16"]),
        lambda f: f["model"].update(widths=[8.0, 8.0, 16.0]),
        lambda f: f["model"].update(stages=[{"down": [1, 1, 1], "up": [1, 1]}] * 10**4),
        lambda f: f["model"].update(stages="2"),
        lambda f: f["model"].update(stages=[{"down": [0, 1, 1], "up": [1, 1], "sideways": 1}]),
        lambda f: f["model"].update(stages=[[1, 2]]),
        lambda f: f["model"].update(stages=[{"down": "011", "up": [1, 1]}]),
        lambda f: f["model"].update(channels=1.0),
        lambda f: f["model"].update(channels=True),
        lambda f: f["model"].update(entry=2.0),
        lambda f: f["model"].update(depth=3),
        lambda f: f["model"].update(depth=None),
        lambda f: f.update(architecture="teacher"),
        lambda f: f.update(architecture="os.system"),
        lambda f: f.update(noise_level=[75, 0]),
        lambda f: f.update(noise_level=["a", "b"]),
        lambda f: f.update(noise_level=[0, float("inf")]),
        lambda f: f.update(noise_level=[float("nan"), float("nan")]),
        lambda f: f.update(noise_level=[0, 1e9]),
        lambda f: f.update(noise_level=[25]),
        lambda f: f.update(noise_level=25),
        lambda f: f.pop("patches"),
        lambda f: f.update(patches="many"),
        lambda f: f.update(patches=-1),
        lambda f: f.update(patches=10**4000),
        lambda f: f.update(seed=None),
        lambda f: f.update(id="../../etc/passwd"),
        lambda f: f.update(id="a\nb"),
        lambda f: f.update(id="\x1b[2J"),
        lambda f: f.update(id=7),
        lambda f: f.update(strategy="plain\x1b[31m"),
        lambda f: f.update(data={"sets": "a\nb"}),
        lambda f: f.update(data={"sets": 3}),
        lambda f: f.update(recipe=["v0"]),
        lambda f: f.update(recipe={"version": "x" * 10**5}),
        lambda f: f.update(coarseness=2.5),
        lambda f: f.update(coarseness=float("nan")),
        lambda f: f.update(coarseness="1"),
        lambda f: f.update(validation={"25": "high"}),
        lambda f: f.update(validation={"25": float("nan")}),
        lambda f: f.update(steps=-1),
        lambda f: f.update(device="a\nb"),
        lambda f: f.update(extra=1),
        lambda f: f.update(sha256="0" * 64),
        lambda f: f.update(format="mdrn-weights-99"),
        lambda f: f.update(model=None),
    ],
)
def test_headers_that_lie_are_refused(weights_file, change):
    edit_header(weights_file, change)
    refusal(weights_file)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10**5, '{"a":' * 10**5, "[1, 2]", "1" * 10**5, '"mdrn-weights-1"', "null", "\u0000"]
)
def test_a_header_that_is_no_header_is_refused(weights_file, text):
    table, body = split(weights_file)
    table["__metadata__"]["mdrn"] = text
    join(weights_file, table, body)
    refusal(weights_file)


@pytest.mark.parametrize(
    "start",
    [
        struct.pack("<Q", 2**64 - 1),
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 99_000_000) + b" " * 10**6,
        struct.pack("<Q", 2 * 10**6) + b"[" * 2 * 10**6,
        struct.pack("<Q", 10**6) + b'{"a":' * 200_000,
        struct.pack("<Q", 10**6) + b"[" * 10**6,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        struct.pack("<Q", 0),
    ],
)
def test_lengths_that_lie_and_bombs_are_refused(tmp_path, start):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(start)
    refusal(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file: it takes no space
    assert "256 MiB" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["head.weight"].update(shape=[10**9, 10**9, 3, 3]),
        lambda t: t["head.weight"].update(shape=[2**63, 2]),
        lambda t: t["head.weight"].update(shape=[-1, 5]),
        lambda t: t["head.weight"].update(shape=[0, 10**18]),
        lambda t: t["head.weight"].update(data_offsets=[0, 2**62]),
        lambda t: t["head.weight"].update(data_offsets=[8, 0]),
        lambda t: t["head.weight"].update(data_offsets=t["head.bias"]["data_offsets"]),
        lambda t: t["head.weight"].update(dtype="I32"),
        lambda t: t["head.weight"].update(dtype="F128"),
        lambda t: t["head.weight"].update(shape=t["head.weight"]["shape"][::-1]),
        lambda t: t.update(other=t.pop("head.weight")),
        lambda t: t.pop("head.weight"),
        lambda t: t.update(empty={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    ],
)
def test_tensors_that_lie_are_refused(weights_file, change):
    table, body = split(weights_file)
    change(table)
    join(weights_file, table, body)
    refusal(weights_file)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"head.weight": t["head.weight"].double()}),
        lambda t: t.update({"head.weight": t["head.weight"].int()}),
        lambda t: t.update(extra=torch.zeros(3)),
        lambda t: t.pop("head.bias"),
        lambda t: t["head.bias"].fill_(float("nan")),
        lambda t: t["head.bias"].fill_(float("inf")),
    ],
)
def test_a_right_checksum_does_not_excuse_wrong_tensors(network, tmp_path, change):
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    change(tensors)
    header = dataclasses.replace(header_for(network), sha256=checkpoint.tensors_sha256(tensors))
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(save(tensors, metadata={"mdrn": checkpoint.header_text(header)}))
    refusal(path)


def test_a_sparse_giant_with_a_true_table_is_refused_unread(tmp_path):
    table = {"head.weight": {"dtype": "F32", "shape": [2**25], "data_offsets": [0, 2**27]}}
    table["__metadata__"] = {"mdrn": checkpoint.header_text(header_for(small_network()))}
    path = tmp_path / "giant.safetensors"
    join(path, table, b"")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**27)
    refusal(path)


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


def test_an_id_can_name_its_weights_exactly():
    name = checkpoint.list_models()[0]
    digits = checkpoint.read_header(name).sha256
    assert checkpoint.find_weights(f"{name}@{digits[:8]}") == checkpoint.find_weights(name)
    other = f"{name}@{'0' * 8}"
    with pytest.raises(CheckpointError, match=f"^{other}: the released weights are now {name}@{digits[:8]};"):
        load(other)


def test_a_short_name_means_the_best_of_its_preset(tmp_path, monkeypatch):
    network = small_network()
    monkeypatch.setattr(checkpoint, "WEIGHTS_DIR", tmp_path)
    known = {
        "small.plain_n25_s0": {"noise_level": (25.0, 25.0), "validation": {"25": 99.0}},
        "small.plain_n0-75_s0": {"validation": {"25": 28.2}},
        "small.hmds_n0-75_s0": {"strategy": "hmds", "validation": {"25": 28.1}},
        "equal.plain_n0-75_s0": {},
        "equal.hmds_n0-75_s0": {"strategy": "hmds"},
    }
    for name, changes in known.items():
        write_weights(tmp_path / f"{name}.safetensors", network, header_for(network, id=name, **changes))
    assert checkpoint.short_names() == {"small": "small.plain_n0-75_s0", "equal": "equal.hmds_n0-75_s0"}
    assert load("small").header.id == "small.plain_n0-75_s0"
    assert checkpoint.find_weights("small.plain_n25_s0").name == "small.plain_n25_s0.safetensors"
