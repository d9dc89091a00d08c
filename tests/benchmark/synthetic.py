"""Made-up rows for tests of what is drawn from rows: complete evaluations in a results folder."""

from __future__ import annotations

import itertools
from pathlib import Path

from benchmark import rows
from benchmark.rows import Evaluation, Row

_number = itertools.count()


def add(out: Path, method: str, psnr, *, set_name="BSD68", level=25.0, **changes) -> str:
    """Write an evaluation whose images have these PSNR values; return its id.

    Args:
        out: results folder.
        method: its name.
        psnr: one value for each image, or image -> value.
        set_name: of the test set.
        level: of the noise.
        **changes: fields of `Evaluation`, or of every `Row`: ssim, lpips, estimated, stages.
    """
    number = f"e{next(_number)}"
    by_image = psnr if isinstance(psnr, dict) else {f"image{i}": value for i, value in enumerate(psnr)}
    of_rows = {name: changes.pop(name) for name in ("ssim", "lpips", "estimated", "stages") if name in changes}
    network = "." in method and method != "mdrn.denoise"
    fields = {"plan": "release", "weights": "w", "parameters": 100_000, "gmacs": 0.5, "steps": 5000}
    fields = (
        fields if network else {"plan": "baselines", "weights": "", "parameters": None, "gmacs": None, "steps": None}
    )
    same = {"arm": "", "protocol": "awgn", "noise_seed": 0, "code": "", "pixels": "", "lpips": "", "seconds": 1.0}
    same |= {"device": "m, 1 threads", "torch": "2", "git": "g", "start": "t", "images": len(by_image)}
    evaluation = Evaluation(
        **same | fields | {"id": number, "method": method, "set": set_name, "level": level} | changes
    )
    rows.add_evaluation(out, evaluation, [Row(number, image, value, **of_rows) for image, value in by_image.items()])
    return number


def add_speed(out: Path, **milliseconds: float) -> None:
    """Write timings at 512 x 512: network -> milliseconds; our networks have 100,000 parameters."""
    sizes = {"DnCNN": 555_137, "FFDNet": 485_316, "mdrn": 100_000, "mdrn_tiny": 100_000}
    timed = [
        rows.SpeedRow("r", n, sizes.get(n, 0), 1.0, "contiguous", 512, ms, ms, 5, "cpu", "m", 2, "2", "g", "t")
        for n, ms in milliseconds.items()
    ]
    rows.append(out / rows.SPEED, timed, rows.SpeedRow)


def add_study(out: Path, plan: str = "hmds") -> None:
    """Write runs, curves and evaluations of a study: `hmds` is worth more for short runs, and plain ones catch up."""
    teacher = "teacher.plain_n0-75_s0"
    runs = [rows.RunRow("t", "release", teacher, "", 40_000, 90.0, "CPU", 1, "", "")]
    ends = {("plain", 1250): 25.30, ("plain", 5000): 25.45, ("plain", 20_000): 25.55}
    ends |= {("hmds", 1250): 25.38, ("hmds", 5000): 25.51, ("hmds", 20_000): 25.57}
    for (strategy, count), psnr in ends.items():
        for seed in (0, 1, 2):
            value, run = psnr + 0.002 * seed, f"mdrn_tiny.{strategy}_n50_s{seed}"
            config, taught = f"{strategy}{count}{seed}", "" if strategy == "plain" else f"{teacher}@t"
            said = f"50:{value:.3f}"
            runs.append(rows.RunRow(config, plan, run, "", count, count / 500, "CPU", 1, taught, said))
            points = [rows.CurvePoint(config, count * k // 4, 50.0, value - 0.1 * (4 - k)) for k in (1, 2, 3, 4)]
            rows.append(out / rows.CURVES / f"{plan}.csv", points, rows.CurvePoint)
            images = [value + image for image in range(6)]
            add(out, run, images, level=50.0, plan=plan, steps=count, weights=config)
    rows.append(out / rows.RUNS, runs, rows.RunRow)
    for level, (strategy, gain) in itertools.product((15.0, 25.0), (("plain", 0.0), ("hmds", 0.02))):
        values = [30 + image + gain + 0.001 * image * bool(gain) for image in range(6)]
        add(out, f"mdrn_tiny.{strategy}_n{level:g}_s0", values, level=level, plan=plan, steps=5000)
