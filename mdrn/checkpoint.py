"""Weights files: one safetensors file with a JSON header, from which a network is rebuilt without any other knowledge.

The only door to weights: `load`. No pickle anywhere. `train` writes through this module; inference, the benchmark and
the demo read through it.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from mdrn.denoiser import MdrnError
from mdrn.estimate import COARSENESS
from mdrn.files.writing import write_atomically
from mdrn.model import MDRN, ModelConfig
from mdrn.noise import MAX_NOISE_LEVEL
from mdrn.teacher import Teacher, TeacherConfig

FORMAT = "mdrn-weights-1"
WEIGHTS_DIR = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
ARCHITECTURES = {"mdrn": ModelConfig, "teacher": TeacherConfig}
METADATA_KEY = "mdrn"  # one metadata key: safetensors does not keep the order of several
MAX_BYTES, _MAX_HEADER_BYTES = 256 * 2**20, 2**20
Modules = Mapping[str, nn.Module]  # what a training run consists of, by names without a dot


class CheckpointError(MdrnError):
    """A weights file is missing, not ours, or not what its header says."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a weights file says of itself.

    Args:
        id: the run's id, '{preset}.{strategy}_n{level}_s{seed}'.
        model: what rebuilds the network.
        noise_level: lowest and highest training level on the 8-bit scale; equal for a single-level network.
        strategy: 'plain', 'hmds_c', 'hmds_n' or 'hmds'.
        seed: seed of initial weights, patches and noise.
        patches: training patches, in units of the recipe's `patch_size`.
        recipe: the training configuration.
        data: training sets and the SHA-256 of their pixels.
        git: commit of the code that trained it, '+dirty' when uncommitted changes were there.
        torch: version of torch.
        architecture: which kind of network `model` describes, see `ARCHITECTURES`.
        sha256: of the tensors; set by `write_weights`.
        plan: name of the benchmark's plan that it was trained for, or empty.
        device: what it was trained on, such as 'cpu' or the name of a GPU.
        steps: of training.
        validation: PSNR in dB on the validation images at each noise level.
        coarseness: maps measured noise to the level at which the network does best, see `estimate.Noise.level`.
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
    plan: str = ""
    device: str = ""
    steps: int = 0
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    coarseness: float = COARSENESS


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_weights(path: Path, model: nn.Module, header: Header) -> None:
    """Write a network's state in half precision with its header; the same state and header give the same bytes."""
    tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = dataclasses.replace(header, sha256=tensors_sha256(tensors))
    write_atomically(path, save(tensors, metadata={METADATA_KEY: header_text(header)}))


def header_text(header: Header) -> str:
    """Return the header as the JSON that files carry."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(header)}, sort_keys=True)


def parse_header(text: str) -> Header:
    """Read what `header_text` wrote, and trust none of it.

    Raises:
        CheckpointError: if it is not ours, or a field is not what it must be.
    """
    try:
        fields: Any = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise CheckpointError(f"expected a weights file of this project ({FORMAT}), got another kind")
        kinds = {f.name: f.type if f.type in (str, int, float) else dict for f in dataclasses.fields(Header)}
        kinds["noise_level"] = list
        for name, value in fields.items():
            _expect(type(value) is kinds.get(name), name, value)
        said = [*(value for value in fields.values() if isinstance(value, str)), *fields["data"].values()]
        for value in [*said, str(fields["recipe"].get("version"))]:
            _expect(isinstance(value, str) and value.isprintable() and len(value) <= 1000, "text", value)
        _expect(re.fullmatch(r"[\w.+-]{1,100}", fields["id"]), "id", fields["id"])
        for name in fields.keys() & {"patches", "steps"}:
            _expect(0 <= fields[name] < 2**63, name, fields[name])
        _expect(0 <= fields.get("coarseness", COARSENESS) <= 2, "coarseness", fields.get("coarseness"))
        for level, psnr in fields.get("validation", {}).items():
            _expect(type(psnr) is float and 0 <= psnr < 200 and len(level) < 20, "validation", psnr)
        low, high = fields["noise_level"] = tuple(float(level) for level in fields["noise_level"])
        _expect(0 <= low <= high <= MAX_NOISE_LEVEL, "noise_level", (low, high))
        config = ARCHITECTURES[fields.get("architecture", "mdrn")]
        defaults = json.loads(json.dumps(dataclasses.asdict(config())))
        _expect(fields["model"].keys() <= defaults.keys(), "model", fields["model"])
        for name, value in fields["model"].items():
            _expect(type(value) is type(defaults[name]), f"model.{name}", value)
        fields["model"] = config(**fields["model"])
        return Header(**fields)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"its header is damaged ({str(error)[:200]}); get the file again") from error


def _expect(ok: object, name: str, value: object) -> None:
    if not ok:
        raise ValueError(f"{name}: got {repr(value)[:60]}")


def list_models() -> list[str]:
    """Return the ids of the released networks, which come with the package."""
    return sorted(path.name[: -len(SUFFIX)] for path in WEIGHTS_DIR.glob(f"*{SUFFIX}"))


def short_names() -> dict[str, str]:
    """Return which released id each short name ('mdrn_tiny') means: the best network of that preset.

    That is the one for the widest range of noise levels, then the one with the highest PSNR in validation, then the
    distilled one.
    """

    def rank(name: str) -> tuple[str, float, float, bool, str]:
        header = _read(WEIGHTS_DIR / f"{name}{SUFFIX}", with_tensors=False)[0]
        low, high = header.noise_level
        return name.partition(".")[0], high - low, sum(header.validation.values()), header.strategy != "plain", name

    return {name.partition(".")[0]: name for name in sorted(list_models(), key=rank)}  # the last of a preset stays


def find_weights(id_or_path: str | Path) -> Path:
    """Return the file of a released id or short name, or the path itself.

    '{id}@{hash}', the first digits of the weights' SHA-256, means these weights and no later release of the id.

    Raises:
        CheckpointError: if there is neither such an id nor such a file, or the id's weights have another hash.
    """
    path = Path(id_or_path)
    name, _, pin = str(id_or_path).partition("@")
    if os.sep not in name and name.isidentifier():
        name = short_names().get(name, name)
    released = WEIGHTS_DIR / f"{name}{SUFFIX}"
    if os.sep not in name and released.is_file():
        if pin and not (found := _read(released, with_tensors=False)[0].sha256).startswith(pin):
            raise CheckpointError(f"{id_or_path}: the released weights are now {name}@{found[: len(pin)]}; say so")
        return released
    if path.is_file():
        return path
    if path.is_dir() or path.suffix == SUFFIX or os.sep in name:
        got = "a folder" if path.is_dir() else "none of that name"
        raise CheckpointError(f"{id_or_path}: expected a {SUFFIX} file, got {got}")
    close = difflib.get_close_matches(name, [*short_names(), *list_models()], n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(short_names()) or 'none yet'}, or"
    rest = "`mdrn info` lists all, and a file's name works too" if close else f"name a {SUFFIX} file"
    raise CheckpointError(f"{id_or_path}: no network of this name; {hint} {rest}")


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
        >>> load("mdrn_tiny").header.noise_level
        (0.0, 75.0)
    """
    path = find_weights(id_or_path)
    header, model, tensors = _read(path, with_tensors=True)
    if tensors_sha256(tensors) != header.sha256:
        raise CheckpointError(f"{path}: its tensors are not the ones that were written (SHA-256); get the file again")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: expected finite weights, got NaN or infinity in {name}; get another file")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    model.header = header
    return model.to(device or "cpu").to(memory_format=torch.channels_last).eval()


def _read(path: Path, with_tensors: bool) -> tuple[Header, MDRN | Teacher, dict[str, Tensor]]:
    """Return header, network without weights, and tensors; none of them is read before what it claims is checked."""
    try:
        _check_sizes(path)
        with safe_open(path, framework="pt") as file:
            header = parse_header((file.metadata() or {}).get(METADATA_KEY, "{}"))
            model = _network_that_fits(file, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
        return header, model, tensors
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: expected a readable safetensors file, got: {reason}") from error


def _check_sizes(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"expected a weights file under {MAX_BYTES >> 20} MiB, got a larger file")
    with path.open("rb") as file:
        start = file.read(8)
    claimed = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if claimed > min(_MAX_HEADER_BYTES, size):
        raise CheckpointError(f"expected a readable safetensors file, got one that claims a header of {claimed} bytes")


def _network_that_fits(file: Any, header: Header) -> MDRN | Teacher:
    """Return the network that the header describes, without weights, if the tensors are its own: name, shape, type."""
    mismatch = CheckpointError("its tensors do not fit the network its header describes; get the file again")
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    config = header.model
    if config.blocks > len(slices):  # building thousands of layers to compare takes seconds
        raise mismatch
    with torch.device("meta"):
        model = config.build()
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: list(part.get_shape()) for name, part in slices.items()}
    if shapes != expected or {part.get_dtype() for part in slices.values()} - {"F16", "F32"}:
        raise mismatch
    return model


def write_state(path: Path, modules: Modules, optimizer: Optimizer, facts: Mapping[str, Any]) -> None:
    """Write the state of a training run into one file, atomically; `facts` is anything that JSON can hold."""
    tensors = {f"{prefix}.{name}": t for prefix, module in modules.items() for name, t in module.state_dict().items()}
    numbers: dict[str, float] = {}
    state = optimizer.state_dict()
    for index, values in state["state"].items():
        for name, value in values.items():
            kind: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            kind[f"optimizer.{index}.{name}"] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    said = json.dumps({"facts": facts, "groups": groups, "numbers": numbers})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata={"state": said}))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts that `write_state` wrote.

    Raises:
        CheckpointError: if there is no such file, or it is damaged.
    """
    return dict(_read_state(path)[0]["facts"])


def read_state(path: Path, modules: Modules, optimizer: Optimizer, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put what `write_state` wrote back into modules and optimizer, and return the file's facts.

    `facts` is what they must agree with, as far as both have them.

    Raises:
        CheckpointError: if the file is damaged or its facts differ.
    """
    said, tensors = _read_state(path)
    for name, value in facts.items():
        if said["facts"].get(name) != value:
            raise CheckpointError(f"{path}: belongs to a run with another {name}")
    for prefix, module in modules.items():
        start = len(prefix) + 1
        module.load_state_dict({n[start:]: t for n, t in tensors.items() if n.startswith(f"{prefix}.")})
    state = optimizer.state_dict()
    for name, value in (tensors | said["numbers"]).items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, field = rest.partition(".")
            state["state"].setdefault(int(index), {})[field] = value
    for group, saved in zip(state["param_groups"], said["groups"], strict=True):
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():  # steps take memory as it lies
        for field, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[field] = torch.empty_like(parameter, requires_grad=False).copy_(value)
    return dict(said["facts"])


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()["state"])
            return said, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from error
