"""The command line: `python -m mdrn denoise | info | train`, also installed as `mdrn`.

Exit codes: 0 all done; 2 a mistake in the call or an input that cannot be used, said in one line each on stderr; 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mdrn import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("mdrn: interrupted; finished files are whole, nothing is half-written", file=sys.stderr)
        return 130


def _fail(error: Exception | str) -> int:
    print(f"mdrn: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mdrn", description="MDRN: a lightweight progressive image denoiser.")
    parser.add_argument("--version", action="version", version=f"mdrn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    denoise = commands.add_parser("denoise", help="remove noise from images or folders of images")
    denoise.add_argument("input", nargs="+", type=Path, help="image files or folders")
    denoise.add_argument("-o", "--output", type=Path, help="file for one image, else folder (default: NAME_denoised)")
    denoise.add_argument("--noise-level", type=_noise_level, default=None, metavar="auto|0-75", help="8-bit scale")
    denoise.add_argument("--strength", type=float, default=1.0, help="0 leaves the image, 1 is the full effect")
    denoise.add_argument("--model", help="released id or weights file (see: mdrn info)")
    denoise.add_argument("--recursive", action="store_true", help="take folders within folders, keeping the tree")
    denoise.add_argument(
        "--overwrite", action="store_true", help="replace existing files, the input too if it is named"
    )
    denoise.add_argument("--strip", action="store_true", help="leave out EXIF and XMP; the colour profile stays")
    denoise.add_argument("--tile", type=int, help="side of tiles in pixels (default: from the memory at hand)")
    denoise.add_argument("--device", default="cpu", help="cpu or cuda")
    denoise.set_defaults(run=_denoise)

    info = commands.add_parser("info", help="say what a network is; without a name, list the released ones")
    info.add_argument("model", nargs="*", help="released ids or weights files")
    info.set_defaults(run=_info)

    train = commands.add_parser("train", help="train one network; run again to resume")
    train.add_argument("--preset", default="mdrn", help="mdrn, mdrn_tiny, mdrn_rgb, mdrn_tiny_rgb or teacher")
    train.add_argument("--noise-level", type=_noise_range, default=(25.0, 25.0), metavar="N|LOW-HIGH")
    train.add_argument(
        "--strategy", nargs="+", default=["plain"], help="plain, hmds_c, hmds_n or hmds; several train side by side"
    )
    train.add_argument("--teacher", help="released id or weights file; every strategy but plain needs one")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--steps", type=int, required=True)
    train.add_argument("--batch-size", type=int)
    train.add_argument("--patch-size", type=int)
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--data", nargs="+", help="training sets: bsds, extra, samples")
    train.add_argument("--init-from", help="released id or weights file to start a new cycle from")
    train.add_argument("--data-root", type=Path, help="folder with BSDS500/ (default: MDRN_DATA)")
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder for checkpoints and weights")
    train.add_argument("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    train.add_argument("--threads", type=int, help="CPU threads")
    train.set_defaults(run=_train)
    return parser


def _noise_level(text: str) -> float | None:
    from mdrn.noise import check_noise_level

    try:
        return None if text == "auto" else check_noise_level(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _noise_range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a level (25) or a range (0-75), got {text!r}") from error


def _denoise(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from mdrn import checkpoint, image_io, inference

    if not 0.0 <= options.strength <= 1.0:
        return _fail(f"--strength: expected 0 to 1, got {options.strength:g}")
    if options.tile is not None and options.tile < 1:
        return _fail(f"--tile: expected at least 1 pixel, got {options.tile}")
    if options.model:
        checkpoint.load(options.model)
    jobs, problems = _jobs(options)
    for source, target in tqdm(jobs, disable=len(jobs) < 2, unit="image"):
        try:
            if target.exists() and not options.overwrite:
                raise ValueError(f"{target}: exists already; add --overwrite to replace it")
            file = image_io.read_image(source)
            with tqdm(unit="tile", desc=source.name, leave=False, delay=1) as bar:

                def show(done: int, total: int, bar: tqdm = bar) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                result = inference.restore(
                    file.pixels,
                    options.noise_level,
                    options.model,
                    strength=options.strength,
                    tile=options.tile,
                    device=options.device,
                    progress=show,
                )
            if options.output and target != options.output:
                target.parent.mkdir(parents=True, exist_ok=True)
            image_io.write_image(
                target, result.image, file, keep_metadata=not options.strip, overwrite=options.overwrite
            )
        except (ValueError, OSError, RuntimeError) as error:
            problems.append(str(error) if str(source) in str(error) else f"{source}: {error}")
            continue
        height, width = file.pixels.shape[:2]
        how = "estimated" if result.estimated else "given"
        note = ", a grey network: colour channel by channel" if result.per_channel else ""
        tqdm.write(
            f"{source} -> {target}  {width}x{height} {file.pixels.dtype}, noise level {result.noise_level:.1f} "
            f"({how}), {result.model}{note}, {result.seconds:.1f} s"
        )
    for problem in problems:
        _fail(problem)
    if problems and len(jobs) > 1:
        print(f"mdrn: {len(problems)} not done, {len(jobs) - len(problems)} done", file=sys.stderr)
    return 2 if problems else 0


def _jobs(options: argparse.Namespace) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return (input, output) pairs, and what is wrong with the others."""
    from mdrn.image_io import SUFFIXES

    output, jobs, problems = options.output, [], []
    single = len(options.input) == 1 and not options.input[0].is_dir()
    for source in options.input:
        if source.is_dir():
            if output is None or output.is_file() or output.suffix.lower() in SUFFIXES:
                raise ValueError(f"{source}: is a folder; give another folder for its results with --output")
            found = sorted(source.rglob("*") if options.recursive else source.iterdir())
            found = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and output not in p.parents]
            if not found:
                problems.append(f"{source}: expected images in this folder, found none ({', '.join(SUFFIXES)})")
            jobs += [(path, output / path.relative_to(source)) for path in found]
        elif output is None:
            jobs.append((source, source.with_stem(f"{source.stem}_denoised")))
        elif single and not output.is_dir():
            jobs.append((source, output))
        else:
            jobs.append((source, output / source.name))
    targets = [target for _, target in jobs]
    for target in {target for target in targets if targets.count(target) > 1}:
        raise ValueError(f"{target}: two inputs would be written to it; denoise them in two calls")
    return jobs, problems


def _info(options: argparse.Namespace) -> int:
    from mdrn import checkpoint
    from mdrn.model import count_parameters

    problems = 0
    for name in options.model or checkpoint.list_models():
        try:
            model = checkpoint.load(name)
        except ValueError as error:
            problems = _fail(error)
            continue
        header = model.header
        low, high = header.noise_level
        print(
            f"{header.id}: {'grey' if model.config.channels == 1 else 'RGB'}, {count_parameters(model) / 1e6:.3f} M "
            f"parameters, noise level {f'{low:g}' if low == high else f'{low:g} to {high:g}'}, "
            f"{getattr(model.config, 'stages', 1)} stages, {header.patches:,} training patches "
            f"({header.data['sets']}, recipe {header.recipe['version']}), receptive-field radius "
            f"{model.receptive_field_radius} px"
        )
    return problems


def _train(options: argparse.Namespace) -> int:
    import dataclasses

    import torch

    from mdrn.train import TrainConfig, fit_together

    if options.threads:
        torch.set_num_threads(options.threads)
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    configs = [
        TrainConfig(**given | {"strategy": strategy, "teacher": None if strategy == "plain" else options.teacher})
        for strategy in options.strategy
    ]
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for path in fit_together(configs, options.out, options.data_root, device):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
