"""The figure of crops side by side, from what `crops` kept. No torch.

`report` imports this module.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmark.drawing import WIDTH, Figure, finish, panel_grid
from benchmark.results import RUN_ID, level_text

_SHOWN_DIFFERENCE = 16  # grey levels at the ends of the colour scale
_TITLES = {"clean": "clean", "noisy": "noisy", "non_local_means": "non-local means"}


def crops(folder: Path, plan: str, protocol: str, suffix: str) -> Figure | None:
    """Draw clean, noisy and classical, then plain, distilled and their difference; None without crops."""
    path = folder / f"{plan}_{protocol}.json"
    if not path.is_file() or not path.with_suffix(".png").is_file():
        return None
    record = json.loads(path.read_text())
    names = [panel["method"] for panel in record["panels"]]
    images = dict(zip(names, _split(path.with_suffix(".png"), len(names)), strict=True))
    psnr = {panel["method"]: panel["psnr"] for panel in record["panels"]}
    lines = _lines(names[3:])
    with panel_grid(1 + len(lines), 3, (WIDTH, 1.3 * (1 + len(lines)) + 0.3)) as (figure, grid):
        for axes, name in zip(grid[0], names[:3], strict=True):
            _show(axes, images[name], _title(_TITLES[name], psnr[name]))
        for line, networks in zip(grid[1:], lines, strict=True):
            for axes, name in zip(line, networks, strict=False):
                _show(axes, images[name], _title(_label(name), psnr[name]))
            drawn = _difference(line[len(networks)], images, networks)
        bar = figure.colorbar(drawn, ax=grid.ravel().tolist(), location="bottom", aspect=40, shrink=0.6, pad=0.01)
        bar.ax.tick_params(labelsize=6)
        bar.set_label("difference (grey levels)", size=6.5)
        level = level_text(record["noise_level"])
        caption = f"A crop of the photograph *{record['image']}* at level {level}, {protocol}; PSNR of the whole image."
        return finish(figure, f"crops_{protocol}{suffix}", caption)


def _split(path: Path, count: int) -> list[np.ndarray]:
    from PIL import Image

    with Image.open(path) as file:
        return np.split(np.asarray(file), count, axis=1)


def _title(name: str, psnr: float | None) -> str:
    return name if psnr is None else f"{name}\n{psnr:.2f} dB"


def _show(axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title)


def _lines(networks: list[str]) -> list[list[str]]:
    """Return two networks for each line: plain and distilled of a size, or two sizes where nothing is distilled."""
    sizes: dict[str, list[str]] = {}
    for name in networks:
        sizes.setdefault(RUN_ID.match(name)["size"], []).append(name)
    return (
        list(sizes.values())
        if len(networks) > len(sizes)
        else [networks[i : i + 2] for i in range(0, len(networks), 2)]
    )


def _label(network: str) -> str:
    return f"{RUN_ID.match(network)['size']} {RUN_ID.match(network)['strategy']}"


def _difference(axes, images: dict[str, np.ndarray], networks: list[str]):
    """Show distilled minus plain, or what the last network still has wrong where there is no such pair."""
    labels = [_label(name).split() for name in networks]
    paired = len(labels) == 2 and labels[0][0] == labels[1][0]
    axes.set_title(f"{labels[1][1]} – {labels[0][1]}" if paired else f"{' '.join(labels[-1])} – clean")
    difference = images[networks[-1]].astype(float) - images[networks[0] if paired else "clean"]
    limit = _SHOWN_DIFFERENCE
    return axes.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
