"""The command line: `mdrn denoise | info | export | train`, also `python -m mdrn`.

Every option is declared here, and the small commands are carried out here; `mdrn.cli_denoise` carries out the large
one. What takes long to import is imported when a command needs it, so that --version and --help answer at once.
"""

import argparse
import math
import os
import re
import signal
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from mdrn import __version__

EXIT_CODES = """\
exit codes:
  0    everything is done, now or earlier
  2    wrong options, or some images failed: one line each on stderr; the others are done
  130  interrupted; files are written whole or not at all: run the command again to do the rest
"""
_FOR_TRAINING = ("timm", "skimage", "filelock")  # packages of the extra `train`
_EXAMPLES = """\
examples:
  mdrn denoise photo.jpg                         writes photo_denoised.jpg; the noise level is estimated
  mdrn denoise photo.jpg -o clean.png --strength 0.7
  mdrn denoise scan.tif --noise-level 15         a level from 0 to 75: the standard deviation of the noise on the
                                                 0-255 scale, also for 16-bit and float images
  mdrn denoise photos/ -o clean/ --recursive     a folder; run it again to do the rest
  mdrn denoise - < in.png > out.png              through a pipe
"""


class _Parser(argparse.ArgumentParser):
    """A parser that says a mistake in one line and where the help is; `later` adds its options when it is used."""

    def __init__(self, later: Callable[[argparse.ArgumentParser], None] | None = None, **options: object) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._later = later

    def parse_known_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None) -> tuple:
        if self._later:
            self._later(self)
            self._later = None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:
        self.exit(fail(f"{message}; see {self.prog} --help"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to clean up as after Ctrl-C
    try:
        options = _parser().parse_args(arguments)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return fail(f"the reader of standard output went away ({error.strerror})")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _FOR_TRAINING:
            raise
        return fail(f"this command needs {package}, which is not installed; pip install 'mdrn[train]'")
    except (ValueError, OSError, RuntimeError) as error:
        return fail(error)
    except KeyboardInterrupt:
        print("mdrn: interrupted; finished files are whole, nothing is half-written", file=sys.stderr)
        return 130


def fail(error: Exception | str) -> int:
    """Say in one line on stderr what went wrong, and return the exit code for it."""
    print(f"mdrn: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mdrn", description="Removes noise from images and keeps their metadata.", epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"mdrn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_denoise(commands)

    info = commands.add_parser("info", help="describe a network; without a name, all included ones")
    info.add_argument("model", nargs="*", help="short names, released ids or weights files")
    info.set_defaults(run=_info)

    export = commands.add_parser("export", help="export a network to ONNX, for any image size")
    export.add_argument("model", help="short name, released id or weights file")
    export.add_argument("-o", "--output", type=Path, help="default: ID.onnx in the current folder")
    export.add_argument("--overwrite", action="store_true", help="replace an existing file")
    export.set_defaults(run=_export)

    train = commands.add_parser("train", help="train a network; run it again to resume", later=_add_training_options)
    train.set_defaults(run=_train)
    return parser


def _add_denoise(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "denoise",
        help="remove noise from images or folders of images",
        description="Removes noise from PNG, JPEG, WebP, TIFF and BMP images; AVIF and HEIC are written as PNG.\n"
        "Each file keeps its format, bit depth, colour description and metadata; one line says what could not be kept.",
        epilog=f"{_EXAMPLES}\n{EXIT_CODES}",
    )
    add = parser.add_argument
    add("input", nargs="+", help="image files or folders, or - for standard input")
    add(
        "-o",
        "--output",
        help="output file for one image, else a folder; required for folders; - for standard output, in the input's "
        "format (default: NAME_denoised next to the image)",
    )
    add("--recursive", action="store_true", help="include subfolders, and keep their structure")
    add(
        "--overwrite",
        action="store_true",
        help="replace existing files, even the input; by default finished files are skipped when there are several",
    )
    add(
        "--noise-level",
        type=_noise_level,
        metavar="auto|0-75",
        help="how noisy the images are: standard deviation on the 0-255 scale (default: auto, which estimates it)",
    )
    add(
        "--strength",
        type=lambda text: _number(text, 2.0, "0 to 2"),
        default=1.0,
        metavar="0-2",
        help="0: unchanged, 0.5: half the effect, 1: full effect (default); above 1 multiplies the noise level",
    )
    add(
        "--model",
        help="short name such as mdrn_tiny, id from `mdrn info`, weights or ONNX file (default: fits the image)",
    )
    add("--runtime", choices=("torch", "onnx"), help="default: onnx for an ONNX file, else torch")
    add(
        "--depth",
        type=int,
        choices=(8, 16),
        help="bits per channel of the result (default: as the input, or the most that the format holds)",
    )
    metadata = parser.add_mutually_exclusive_group()
    metadata.add_argument("--keep-metadata", action="store_true", help="keep EXIF, XMP, text and resolution (default)")
    metadata.add_argument("--strip", action="store_true", help="remove metadata except the colour description")
    add("--tile", type=_tile, metavar="PIXELS", help="side of tiles (default: chosen to fit memory)")
    add("--device", default="cpu", help="cpu (default), or cuda or cuda:1 for a GPU")
    parser.set_defaults(run=_denoise)


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrainConfig` that one word can give, explained by the class's docstring."""
    import dataclasses
    import inspect

    from mdrn.train import TrainConfig

    text = inspect.getdoc(TrainConfig).partition("Args:")[2].partition("Raises:")[0]
    explained = {entry.partition(":")[0].strip(): entry.partition(":")[2] for entry in re.split(r"\n {4}(?=\w)", text)}
    types = typing.get_type_hints(TrainConfig)
    kinds = {tuple[float, float]: {"type": _noise_range, "metavar": "N|LOW-HIGH"}, tuple[str, ...]: {"nargs": "+"}}
    kinds |= {kind: {"type": single} for single in (int, float, str) for kind in (single, single | None)}
    for field in dataclasses.fields(TrainConfig):
        if types[field.name] in kinds:
            default = field.default
            if isinstance(default, tuple):
                default = "-".join(f"{value:g}" if isinstance(value, float) else value for value in default)
            said = " ".join(explained[field.name].split()).removesuffix(".").replace("%", "%%")
            said += "" if default is None else f" (default: {default})"
            parser.add_argument(f"--{field.name.replace('_', '-')}", help=said, **kinds[types[field.name]])
    parser.add_argument("--data-root", type=Path, help="folder with BSDS500/ (default: the variable MDRN_DATA)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for all that is written (default: runs)")
    parser.add_argument("--pools", type=Path, help="folder for stored training patches (default: OUT/pools)")
    parser.add_argument("--plan", default="", help="plan name to record in the weights file")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's choice)")


def _noise_level(text: str) -> float | None:
    from mdrn.noise import MAX_NOISE_LEVEL

    expected = f"auto or a number from 0 to {MAX_NOISE_LEVEL:g}"
    return None if text == "auto" else _number(text, MAX_NOISE_LEVEL, expected)


def _number(text: str, highest: float, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= highest:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return number


def _tile(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected at least 1 pixel, got {text}")
    return int(text)


def _noise_range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a level (25) or a range (0-75), got {text!r}") from error


def _denoise(options: argparse.Namespace) -> int:
    from mdrn import cli_denoise
    from mdrn.denoiser import check_device
    from mdrn.inference import reuse_freed_memory

    check_device(options.device)
    reuse_freed_memory()
    return cli_denoise.run(options, fail)


def _info(options: argparse.Namespace) -> int:
    from mdrn import checkpoint
    from mdrn.denoiser import count_parameters

    problems = 0
    for name in options.model or checkpoint.list_models():
        try:
            model = checkpoint.load(name)
        except ValueError as error:
            problems = fail(error)
            continue
        header = model.header
        low, high = header.noise_level
        data, recipe = header.data.get("sets", "unknown data"), header.recipe.get("version", "unknown")
        print(
            f"{header.id}: {'grey' if model.config.channels == 1 else 'RGB'}, {count_parameters(model) / 1e6:.3f} M "
            f"parameters, noise level {f'{low:g}' if low == high else f'{low:g} to {high:g}'}, "
            f"{len(getattr(model.config, 'stages', [1]))} stages, {header.patches:,} training patches "
            f"({data}, recipe {recipe}), receptive-field radius {model.receptive_field_radius} px"
        )
    return problems


def _export(options: argparse.Namespace) -> int:
    from mdrn.checkpoint import read_header
    from mdrn.export import SUFFIX, export_onnx

    output = options.output or Path(f"{read_header(options.model).id}{SUFFIX}")
    if output.suffix != SUFFIX:
        raise ValueError(f"{output}: expected a name that ends in {SUFFIX}, which tells ONNX files from others")
    if output.exists() and not options.overwrite:
        raise ValueError(f"{output}: exists already; add --overwrite to replace it")
    export_onnx(options.model, output)
    print(f"{options.model} -> {output}  {output.stat().st_size / 1e6:.1f} MB, same results as PyTorch; any image size")
    return 0


def _train(options: argparse.Namespace) -> int:
    import dataclasses

    import torch

    from mdrn.denoiser import check_device
    from mdrn.inference import reuse_freed_memory
    from mdrn.train import TrainConfig, fit

    reuse_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = check_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(TrainConfig)}
    if options.minutes and options.steps is None:
        given["steps"] = 10_000_000
    config = TrainConfig(**{name: value for name, value in given.items() if value is not None})
    print(fit(config, options.out, options.data_root, device, pools=options.pools, plan=options.plan))
    return 0
