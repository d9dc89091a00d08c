"""How figures look: one column wide, colours from Okabe and Ito told apart by marker too, the same bytes every time.

`figures` imports this module; matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

from benchmark.rows import write_bytes_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, told apart by most
MARKERS = ("o", "s", "^", "D", "v", "P", "*")
GREY = "#6E6E6E"
_SIDES = (  # where a label may go: offset in points, and which edge of it is there
    (4, 0, "left", "center"),
    (-4, 0, "right", "center"),
    (0, 4, "center", "bottom"),
    (0, -4, "center", "top"),
    (3, 3, "left", "bottom"),
    (-3, -3, "right", "top"),
    (3, -3, "left", "top"),
    (-3, 3, "right", "bottom"),
    (0, 10, "center", "bottom"),
    (0, -10, "center", "top"),
    (0, 16, "center", "bottom"),
    (0, -16, "center", "top"),
    (4, 0, "left", "center"),
)
WIDTH, HEIGHT = 3.5, 2.7  # inches: one column
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.hashsalt": "mdrn",
    "savefig.dpi": 300,
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Args:
        name: of its files.
        caption: what it shows.
        png: content of the PNG file.
        svg: content of the SVG file.
    """

    name: str
    caption: str
    png: bytes
    svg: bytes

    def write(self, folder: Path) -> list[Path]:
        """Write both files, atomically."""
        paths = [folder / f"{self.name}.png", folder / f"{self.name}.svg"]
        for path, content in zip(paths, (self.png, self.svg), strict=True):
            write_bytes_atomically(path, content)
        return paths


def plain_log_ticks(axes) -> None:
    """Label a logarithmic x axis with plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 1.7 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def scatter(
    axes, theirs: list[tuple[float, float, str]], ours: list[tuple[float, float, str]], legend: str = "lower right"
) -> None:
    """Draw (x, y, name) over a logarithmic x: published points grey and labelled, ours in colour with a legend."""
    axes.scatter([x for x, _, _ in theirs], [y for _, y, _ in theirs], color=GREY, marker="o", s=14)
    for index, (x, y, name) in enumerate(sorted(ours, key=lambda point: point[2])):  # colours as in other figures
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        axes.scatter([x], [y], s=26, zorder=3, label=name, **style)
    axes.set_xscale("log")
    axes.margins(x=0.22, y=0.12)
    plain_log_ticks(axes)
    axes.legend(loc=legend)
    _place_labels(axes, theirs, [(x, y) for x, y, _ in ours])


def _place_labels(axes, points: list[tuple[float, float, str]], avoid: list[tuple[float, float]]) -> None:
    """Put each label beside its point, on the first side where it covers neither a label nor a point."""
    from matplotlib.transforms import Bbox

    canvas = axes.figure.canvas
    canvas.draw()
    places = [axes.transData.transform(xy) for xy in [*((x, y) for x, y, _ in points), *avoid]]
    reach = 2.5 * axes.figure.dpi / 72  # half a marker, in pixels
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in places]
    taken.append(axes.get_legend().get_window_extent(canvas.get_renderer()))
    frame = axes.get_window_extent()
    for x, y, text in points:
        for attempt, (dx, dy, across, along) in enumerate(_SIDES, start=1):
            options = {"textcoords": "offset points", "ha": across, "va": along, "fontsize": 6, "color": GREY}
            label = axes.annotate(text, (x, y), (dx, dy), **options)
            box = label.get_window_extent(canvas.get_renderer())
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            if attempt < len(_SIDES):
                label.remove()
        taken.append(box)


@contextlib.contextmanager
def column_axes(panels: int | None = None) -> Iterator[tuple]:
    """Open a one-column figure with `panels` axes above each other; yields one axes, or a list if panels is given."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MplFigure

    with matplotlib.rc_context(STYLE):
        height = HEIGHT if panels in (None, 1) else 1.9 * panels + 0.4
        figure = MplFigure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(panels or 1, 1, squeeze=False)[:, 0]
        yield figure, axes[0] if panels is None else list(axes)


@contextlib.contextmanager
def panel_grid(rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple]:
    """Open a figure of `size` inches for images, axes hidden; yields it and an array (rows, columns) of axes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MplFigure

    with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.titlesize": 6.5, "axes.titlepad": 3}):
        figure = MplFigure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        yield figure, grid


def finish(figure, name: str, caption: str) -> Figure:
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return Figure(name, caption, png.getvalue(), svg.getvalue())
