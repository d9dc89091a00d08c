"""Handlers of the Compare tab: they turn a visitor's request into `demo.comparison`. `demo.ui` wires them."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pandas as pd

from demo import comparison
from demo.comparison import Comparison, Result
from demo.handlers import readable
from demo.workspace import Workspace
from mdrn import files
from mdrn.classical import CLASSICAL

_PROGRESS = gr.Progress()
COLUMNS = ["Method", "PSNR, dB", "SSIM", "LPIPS", "Seconds", "Parameters, M"]


class Compare:
    """What happens on each event of the tab."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @readable
    def compare(
        self,
        image: str | None,
        photograph: str,
        level: int,
        seed: int,
        methods: list[str],
        request: gr.Request,
        progress: gr.Progress = _PROGRESS,
    ):
        """Run a comparison and show its scores, images and differences."""
        path = Path(image) if image else comparison.photographs()[photograph]
        ordered = [method for _, method in method_choices(level, _colours(image, photograph)) if method in methods]

        def method_done(done: int, total: int) -> None:
            progress((done, total), desc="Comparing", unit="methods")

        made = comparison.compare(path, level, int(seed or 0), ordered, method_done)
        folder = self.workspace.new(request.session_hash)
        images = [(_write(folder / "clean.png", made.clean), "clean")]
        differences = []
        for index, result in enumerate(made.results):
            caption = _caption(result)
            images.append((_write(folder / f"{index}.png", result.image), caption))
            shown = comparison.difference(result, made.clean)
            differences.append((_write(folder / f"difference_{index}.png", shown), caption))
        link = None if image else comparison.link(photograph, level, int(seed or 0), ordered)
        return scores(made.results), describe(made, level, link), images, differences

    @readable
    def offer(self, image: str | None, photograph: str, level: int):
        """Offer the methods for an image and a level, and say what is not released."""
        offered, chosen, lacking = offer(image, photograph, level)
        return gr.CheckboxGroup(offered, value=chosen), lacking

    def open_link(self, request: gr.Request):
        """Set the tab as a link asks for."""
        asked = comparison.from_link(dict(request.query_params))
        if asked is None:
            return [gr.skip()] * 5
        photograph, level, seed, methods = asked
        boxes = gr.CheckboxGroup(method_choices(level, _colours(None, photograph)), value=methods)
        return gr.Tabs(selected="compare"), photograph, level, seed, boxes

    def compare_linked(
        self,
        photograph: str,
        level: int,
        seed: int,
        methods: list[str],
        request: gr.Request,
        progress: gr.Progress = _PROGRESS,
    ):
        """Run the comparison that a link asked for, and nothing without one."""
        if comparison.from_link(dict(request.query_params)) is None:
            return [gr.skip()] * 4
        return self.compare(None, photograph, level, seed, methods, request, progress)


def _write(path: Path, image: np.ndarray) -> str:
    path.write_bytes(files.encode_image(image, "png"))
    return str(path)


def _colours(image: str | None, photograph: str) -> int:
    path = Path(image) if image else comparison.photographs()[photograph]
    return comparison.colours_of(comparison.read_clean(path)[0])


def offer(image: str | None, photograph: str, level: int) -> tuple[list[tuple[str, str]], list[str], str]:
    """Return the methods for an image and a level, those to begin with, and what is not released."""
    colours = _colours(image, photograph)
    return method_choices(level, colours), comparison.first_choice(level, colours), describe_missing(level, colours)


def method_choices(level: float, colours: int) -> list[tuple[str, str]]:
    """Return what can be compared at a level: (label, method); classical, plain, HMDS, teacher."""
    choices = [(f"{_words(name)} (classical)", name) for name in CLASSICAL]
    for role, networks in comparison.by_role(level, colours).items():
        choices += [(f"{n.id} ({role}, {n.parameters / 1e6:.2f} M)", n.id) for n in networks]
    return choices


def describe_missing(level: float, colours: int) -> str:
    """Say which kinds of networks are not there to be compared; empty if all are."""
    released = {"plain": "plain student", "HMDS": "student trained by distillation (HMDS)", "teacher": "teacher"}
    missing = [released[role] for role, networks in comparison.by_role(level, colours).items() if not networks]
    return f"Not released for level {level:g} yet: {', '.join(missing)}." if missing else ""


def _caption(result: Result) -> str:
    return f"{result.psnr:.2f} dB, {_words(result.method)}"


def _words(method: str) -> str:
    return method.replace("_", " ") if method in CLASSICAL else method


def scores(results: list[Result]) -> pd.DataFrame:
    """Return the table of scores, best first."""
    rows = [
        (
            _words(result.method),
            round(result.psnr, 2),
            None if result.ssim is None else round(result.ssim, 4),
            None if result.lpips is None else round(result.lpips, 4),
            None if result.seconds is None else round(result.seconds, 2),
            None if result.parameters is None else round(result.parameters / 1e6, 2),
        )
        for result in results
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("PSNR, dB", ascending=False)
    return frame.drop(columns="LPIPS") if frame["LPIPS"].isna().all() else frame


def describe(made: Comparison, level: int, link: str | None) -> str:
    """Return what the scores are of, what was left out, and a link that makes them again."""
    height, width = made.clean.shape[:2]
    text = [
        f"{width} × {height} pixels{', the middle of the image' if made.cropped else ''}; every method is told the "
        f"noise level, {level}. PSNR and SSIM: higher is closer to the clean image; LPIPS: lower looks closer. "
        "The noisy image is scored clipped."
    ]
    if all(result.lpips is None for result in made.results):
        text.append("LPIPS needs weights that are not on this server, or an image of 64 pixels a side.")
    if made.left_out:
        text.append(f"Not made for this level or for grey images, left out: {', '.join(made.left_out)}.")
    text.append(
        f"[A link to exactly this comparison]({link})" if link else "Comparisons of your own image have no link."
    )
    return " ".join(text)
