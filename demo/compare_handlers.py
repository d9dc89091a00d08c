"""Handlers of the Compare tab: they turn a visitor's request into `demo.comparison`. `demo.ui` wires them."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pandas as pd

from demo import comparison, service
from demo.comparison import Comparison, Result
from demo.handlers import readable
from demo.workspace import Workspace
from mdrn import image_io
from mdrn.classical import CLASSICAL

_PROGRESS = gr.Progress()
_QUICK_NETWORKS = 3


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
        ordered = [method for _, method in method_choices(level) if method in methods]

        def method_done(done: int, total: int) -> None:
            progress((done, total), desc="Comparing", unit="methods")

        made = comparison.compare(path, level, int(seed or 0), ordered, method_done)
        folder = self.workspace.new(request.session_hash)
        images = [(_write(folder / "clean.png", made.clean), "clean")]
        differences = []
        for index, result in enumerate(made.results):
            caption = f"{result.psnr:.2f} dB, {_words(result.method)}"
            images.append((_write(folder / f"{index}.png", result.image), caption))
            shown = comparison.difference(result, made.clean)
            differences.append((_write(folder / f"difference_{index}.png", shown), caption))
        link = None if image else comparison.link(photograph, level, int(seed or 0), ordered)
        return scores(made.results), describe(made, level, link), images, differences

    def choose_level(self, level: int):
        """Offer the methods for a level."""
        return gr.CheckboxGroup(choices=method_choices(level), value=quick_methods(level))

    def open_link(self, request: gr.Request):
        """Set the tab as a link asks for."""
        asked = comparison.from_link(dict(request.query_params))
        if asked is None:
            return [gr.skip()] * 5
        photograph, level, seed, methods = asked
        boxes = gr.CheckboxGroup(choices=method_choices(level), value=methods)
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
    path.write_bytes(image_io.encode_image(image, "png"))
    return str(path)


def method_choices(level: float) -> list[tuple[str, str]]:
    """Return what can be compared at a level: (label, method), networks first."""
    able = [n for n in service.networks() if n.noise_level[0] <= level <= n.noise_level[1]]
    networks = [(f"{n.id} ({n.parameters / 1e6:.2f} M)", n.id) for n in able]
    return [*networks, *((f"{_words(name)} (classical)", name) for name in CLASSICAL)]


def quick_methods(level: float) -> list[str]:
    """Return a first choice for a level that takes seconds: a few networks and one classical method."""
    networks = [method for _, method in method_choices(level) if method not in CLASSICAL]
    return [*networks[:_QUICK_NETWORKS], "non_local_means"]


def _words(method: str) -> str:
    return method.replace("_", " ") if method in CLASSICAL else method


def scores(results: list[Result]) -> pd.DataFrame:
    """Return the table of scores, best first."""
    rows = [
        {
            "Method": _words(result.method),
            "PSNR, dB": round(result.psnr, 2),
            "SSIM": None if result.ssim is None else round(result.ssim, 4),
            "LPIPS": None if result.lpips is None else round(result.lpips, 4),
            "Seconds": None if result.seconds is None else round(result.seconds, 2),
            "Parameters, M": None if result.parameters is None else round(result.parameters / 1e6, 2),
        }
        for result in results
    ]
    frame = pd.DataFrame(rows).sort_values("PSNR, dB", ascending=False)
    return frame.drop(columns="LPIPS") if frame["LPIPS"].isna().all() else frame


def describe(made: Comparison, level: int, link: str | None) -> str:
    """Return what the scores are of, what was left out, and a link that makes them again."""
    height, width = made.clean.shape[:2]
    text = [
        f"{width} × {height} pixels{', the middle of the image' if made.cropped else ''}; every method is told the "
        f"noise level, {level}. PSNR and SSIM: higher is closer to the clean image. The noisy image is scored clipped."
    ]
    if made.left_out:
        text.append(f"Not made for this level or these colours, left out: {', '.join(made.left_out)}.")
    text.append(f"[Link to exactly this comparison]({link})" if link else "Comparisons of your own image have no link.")
    return " ".join(text)
