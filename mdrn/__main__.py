"""The command line: `python -m mdrn denoise | info | export | train`, also installed as `mdrn`.

Exit codes: see `EXIT_CODES`, which --help shows.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from mdrn import __version__
from mdrn.allocator import reuse_freed_memory
from mdrn.cli_denoise import EXIT_CODES, add_denoise_parser, fail


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    reuse_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to clean up as after Ctrl-C
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return fail(f"the reader of standard output went away ({error.strerror})")
    except (ValueError, OSError, RuntimeError) as error:
        return fail(error)
    except KeyboardInterrupt:
        print("mdrn: interrupted; finished files are whole, nothing is half-written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mdrn", description="MDRN: a lightweight progressive image denoiser.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"mdrn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_denoise_parser(commands)

    info = commands.add_parser("info", help="say what a network is; without a name, list the released ones")
    info.add_argument("model", nargs="*", help="released ids or weights files")
    info.set_defaults(run=_info)

    export = commands.add_parser("export", help="write a network as an ONNX file, any image size")
    export.add_argument("model", help="released id or weights file")
    export.add_argument("--format", choices=("onnx",), default="onnx")
    export.add_argument("-o", "--output", type=Path, help="default: the network's id with .onnx")
    export.add_argument("--overwrite", action="store_true", help="replace an existing file")
    export.set_defaults(run=_export)

    train = commands.add_parser("train", help="train one network; run again to resume")
    train.add_argument("--preset", default="mdrn", help="mdrn, mdrn_tiny, mdrn_rgb, mdrn_tiny_rgb or teacher")
    train.add_argument("--noise-level", type=_noise_range, metavar="N|LOW-HIGH", help="default: 0-75")
    train.add_argument("--strategy", help="plain (default), hmds_c, hmds_n or hmds")
    train.add_argument("--teacher", help="released id or weights file; every strategy but plain needs one")
    train.add_argument("--seed", type=int)
    train.add_argument("--steps", type=int, help="length of the run; default: 20000")
    train.add_argument("--minutes", type=float, help="end after so much training time, if not after the steps")
    train.add_argument("--batch-size", type=int)
    train.add_argument("--patch-size", type=int)
    train.add_argument(
        "--large-patches", type=float, metavar="SHARE", help="of the run, its end, on patches twice as large"
    )
    train.add_argument(
        "--map-share", type=float, metavar="SHARE", help="of the patches whose level differs across them"
    )
    train.add_argument(
        "--camera-share", type=float, metavar="SHARE", help="of the stored draws with photographs' noise"
    )
    train.add_argument("--pool", type=int, metavar="DRAWS", help="read so many stored draws instead of fresh ones")
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--loss", help="mse (default), l1 or log_mse")
    train.add_argument("--data", nargs="+", help="training sets: bsds, extra, samples")
    train.add_argument("--init-from", help="released id or weights file to start from")
    train.add_argument("--data-root", type=Path, help="folder with BSDS500/ (default: MDRN_DATA)")
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder for checkpoints and weights")
    train.add_argument("--pools", type=Path, help="folder of stored draws (default: pools in --out)")
    train.add_argument("--plan", default="", help="name of the plan that the run belongs to, for the file's header")
    train.add_argument("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    train.add_argument("--threads", type=int, help="CPU threads")
    train.set_defaults(run=_train)
    return parser


def _noise_range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a level (25) or a range (0-75), got {text!r}") from error


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
            f"({data}, recipe {recipe}), receptive-field radius "
            f"{model.receptive_field_radius} px"
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

    from mdrn.train import TrainConfig, fit

    if options.threads:
        torch.set_num_threads(options.threads)
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(TrainConfig)}
    if options.minutes and options.steps is None:
        given["steps"] = 10_000_000
    config = TrainConfig(**{name: value for name, value in given.items() if value is not None})
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(fit(config, options.out, options.data_root, device, pools=options.pools, plan=options.plan))
    return 0


if __name__ == "__main__":
    sys.exit(main())
