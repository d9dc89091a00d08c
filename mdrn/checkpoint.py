"""Weights files: one safetensors file with a JSON header, from which a network is rebuilt without any other knowledge.

The only door to weights: `load`. No pickle anywhere. `train` writes through this module; inference, the benchmark and
the demo read through it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mdrn.model import MDRN, ModelConfig
from mdrn.teacher import Teacher, TeacherConfig

FORMAT = "mdrn-weights-1"
WEIGHTS_DIR = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
ARCHITECTURES = {"mdrn": ModelConfig, "teacher": TeacherConfig}
_KEY = "mdrn"  # one metadata key: safetensors does not keep the order of several
_MAX_BYTES = 256 * 2**20


class CheckpointError(ValueError):
    """A weights file is missing, not ours, or not what its header says."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a weights file says of itself.

    Args:
        id: the run's id, '{preset}.{strategy}_n{level}_s{seed}'.
        model: what rebuilds the network.
        noise_level: lowest and highest training level on the 8-bit scale; equal for a single-level network.
        strategy: 'plain', 'hmds_c', 'hmds_n' or 'hmds'.
        seed: seed of initial weights, patches and noise of the last cycle.
        patches: training patches over all cycles.
        recipe: the training configuration of the last cycle.
        data: training sets and the SHA-256 of their pixels.
        git: commit of the code that trained it, '+dirty' when uncommitted changes were there.
        torch: version of torch.
        architecture: which kind of network `model` describes, see `ARCHITECTURES`.
        sha256: of the tensors; set by `write_weights`.
    """

    id: str
    model: ModelConfig | TeacherConfig
    noise_level: tuple[float, float]
    strategy: str
    seed: int
    patches: int
    recipe: Mapping[str, object]
    data: Mapping[str, str]
    git: str
    torch: str
    architecture: str = "mdrn"
    sha256: str = ""


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to disk, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_weights(path: Path, model: torch.nn.Module, header: Header) -> Header:
    """Write a network's state with its header, atomically; the same state and header give the same bytes.

    Returns:
        The header as written, with its SHA-256.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = dataclasses.replace(header, sha256=tensors_sha256(tensors))
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(header)}, sort_keys=True)
    write_atomically(path, save(tensors, metadata={_KEY: text}))
    return header


def list_models() -> list[str]:
    """Return the ids of the released networks, which come with the package."""
    return sorted(path.name[: -len(SUFFIX)] for path in WEIGHTS_DIR.glob(f"*{SUFFIX}"))


def find_weights(id_or_path: str | Path) -> Path:
    """Return the file of a released id, or the path itself.

    Raises:
        CheckpointError: if there is neither such an id nor such a file.
    """
    released = WEIGHTS_DIR / f"{id_or_path}{SUFFIX}"
    if os.sep not in str(id_or_path) and released.is_file():
        return released
    path = Path(id_or_path)
    if path.is_file():
        return path
    raise CheckpointError(
        f"{id_or_path}: expected a released id ({', '.join(list_models()) or 'none yet'}) or a {SUFFIX} file, "
        f"got {'a folder' if path.is_dir() else 'neither'}"
    )


def read_header(id_or_path: str | Path) -> Header:
    """Read a weights file's header without its tensors.

    Raises:
        CheckpointError: if the file is missing or not ours.
    """
    return _read(find_weights(id_or_path), with_tensors=False)[0]


def load(id_or_path: str | Path, device: str | torch.device | None = None) -> MDRN | Teacher:
    """Rebuild a network from its file alone, in eval mode, with its header as `model.header`.

    Args:
        id_or_path: a released id (see `list_models`) or the path of a weights file.
        device: where to put it; None is the CPU.

    Raises:
        CheckpointError: if the file is missing, not ours, or its tensors differ from what its header says.

    Example:
        >>> load("mdrn_tiny.plain_n25_s0").header.noise_level
        (25.0, 25.0)
    """
    path = find_weights(id_or_path)
    header, tensors = _read(path, with_tensors=True)
    with torch.device("meta"):
        model = header.model.build()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise CheckpointError(f"{path}: its tensors do not fit the network its header describes; get the file again")
    if tensors_sha256(tensors) != header.sha256:
        raise CheckpointError(f"{path}: its tensors are not the ones that were written (SHA-256); get the file again")
    model.load_state_dict(tensors, assign=True)
    model.header = header
    return model.to(device or "cpu", memory_format=torch.channels_last).eval()


def _read(path: Path, with_tensors: bool) -> tuple[Header, dict[str, torch.Tensor]]:
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path}: expected a weights file under {_MAX_BYTES >> 20} MiB, got a larger file")
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise CheckpointError(f"{path}: expected a weights file of this project ({FORMAT}), got another kind")
        fields["model"] = ARCHITECTURES[fields.get("architecture", "mdrn")](**fields["model"])
        fields["noise_level"] = tuple(float(level) for level in fields["noise_level"])
        header = Header(**fields)
        low, high = header.noise_level
        if not 0 <= low <= high:
            raise ValueError(f"noise_level {header.noise_level}")
    except CheckpointError:
        raise
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: expected a readable safetensors file, got: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error}); get the file again") from error
    return header, tensors
