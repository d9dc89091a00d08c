"""Networks as ONNX files, and ONNX files as denoisers under the library's contract.

The command line comes through here. onnx, onnxscript and onnxruntime are the extra `onnx`, imported when called.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import torch
from torch import nn

from mdrn import checkpoint
from mdrn.checkpoint import MAX_BYTES, METADATA_KEY, CheckpointError
from mdrn.denoiser import MdrnError, check_noisy, sigma_map
from mdrn.files.writing import write_atomically

SUFFIX = ".onnx"
TOLERANCE = 1e-4
_SMALLEST = (2, 37, 31)  # batch, height and width that fit no stride: the example to trace, and the check
_DOCUMENTATION = (
    "noisy (batch, channels, height, width), float32 in [0, 1] units; sigma (batch,), standard deviation of the noise "
    "in the same units (8-bit level / 255); restored: the shape of noisy, not clipped."
)


def export_onnx(id_or_path: str | Path, output: Path) -> None:
    """Write a network as an ONNX file, whole or not at all, after comparing it with PyTorch.

    Batch, height and width are free, any size from 1x1; sigma is an input. The file carries the header of the weights.

    Args:
        id_or_path: a released id or the path of a weights file.
        output: the file; one that exists is replaced.

    Raises:
        CheckpointError: if there is no such network.
        MdrnError: if a package is missing, or the exported network's result is not PyTorch's.
    """
    network = checkpoint.load(id_or_path)
    content = to_onnx(network)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.rand(_SMALLEST[0], network.config.channels, *_SMALLEST[1:], generator=generator)
    sigma = torch.linspace(0.05, 0.2, _SMALLEST[0])
    with torch.inference_mode():
        difference = (OnnxDenoiser(content)(noisy, sigma) - network(noisy, sigma)).abs().max().item()
    if not difference <= TOLERANCE:
        raise MdrnError(f"{id_or_path}: the exported network differs from PyTorch's by {difference:.2g}; not written")
    write_atomically(Path(output), content)


def to_onnx(network: nn.Module) -> bytes:
    """Return a loaded network (it has a `header`) as the content of an ONNX file.

    Raises:
        MdrnError: if a package is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _require(package)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    example = torch.zeros(_SMALLEST[0], network.config.channels, *_SMALLEST[1:]), torch.zeros(_SMALLEST[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names for axes, and of versions to come
        program = torch.onnx.export(
            network.cpu(),
            example,
            dynamo=True,
            verbose=False,
            input_names=["noisy", "sigma"],
            output_names=["restored"],
            dynamic_shapes={"noisy": {0: batch, 2: height, 3: width}, "sigma": {0: batch}},
        )
    graph = program.model.graph
    graph.outputs[0].shape = graph.inputs[0].shape
    program.model.doc_string = _DOCUMENTATION
    program.model.metadata_props[METADATA_KEY] = checkpoint.header_text(network.header)
    return program.model_proto.SerializeToString()


def load_onnx(id_or_path: str | Path) -> OnnxDenoiser:
    """Return a denoiser that runs under ONNX Runtime: an ONNX file of ours, or any network, exported in memory.

    Example:
        >>> denoiser = load_onnx("mdrn_tiny.plain_n25_s0")  # doctest: +SKIP
        >>> mdrn.denoise(image, model=denoiser)  # doctest: +SKIP

    Raises:
        CheckpointError: if there is no such network, or the file is damaged or not ours.
        MdrnError: if a package is missing.
    """
    path = Path(id_or_path)
    if path.suffix != SUFFIX:
        return OnnxDenoiser(to_onnx(checkpoint.load(id_or_path)))
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: expected an ONNX file under {MAX_BYTES >> 20} MiB, got none or a larger one")
    try:
        return OnnxDenoiser(path.read_bytes())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


class OnnxDenoiser:
    """An ONNX file of ours under the denoisers' contract, on the CPU, with as many threads as torch has.

    Shape:
        noisy (B, channels, H, W), any H, W >= 1, in [0, 1] units; sigma a float or (B,) in the same units -> restored,
        the shape, type and device of noisy, not clipped. Without gradients.

    Args:
        content: of the file.

    Raises:
        CheckpointError: if it is damaged or not ours.
        MdrnError: if onnxruntime is missing.
    """

    def __init__(self, content: bytes) -> None:
        runtime = _require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base class of their own
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"expected a readable ONNX file, got: {reason}") from error
        carried = self.session.get_modelmeta().custom_metadata_map
        self.header = checkpoint.parse_header(carried.get(METADATA_KEY, "null"))
        signature = [(value.name, value.type) for value in self.session.get_inputs()]
        if signature != [("noisy", "tensor(float)"), ("sigma", "tensor(float)")]:
            raise CheckpointError(f"expected the inputs noisy and sigma, got {str(signature)[:100]}")
        with torch.device("meta"):
            described = self.header.model.build()
        self.config, self.stride = self.header.model, described.stride
        self.receptive_field_radius = described.receptive_field_radius

    def __call__(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        check_noisy(noisy, self.config.channels)
        images = noisy.detach().to("cpu", torch.float32, memory_format=torch.contiguous_format)
        sigmas = sigma_map(sigma, images).detach()
        if sigmas.shape[2:] != (1, 1):
            raise MdrnError(f"sigma: expected a float or a ({len(images)},) tensor, got a map; maps need PyTorch")
        feeds = {"noisy": images.numpy(), "sigma": sigmas.flatten().contiguous().numpy()}
        return torch.from_numpy(self.session.run(["restored"], feeds)[0]).to(noisy)


def _require(package: str):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MdrnError(f"ONNX needs the package {package}; run: pip install onnx onnxruntime onnxscript") from error
