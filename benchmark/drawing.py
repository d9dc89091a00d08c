"""How figures look: one column wide, lines and points labelled where they are, the same bytes every time.

`figures` and `showcase` import this module; matplotlib is imported when something is drawn.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, told apart by most
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#6E6E6E"
COLUMN = (3.6, 2.8)  # width and height in inches of a figure that fits one column
_NEAR = [(x, y) for r in (5, 10, 16) for x, y in ((r, 0), (-r, 0), (0, r), (0, -r), (r, r), (-r, -r), (r, -r), (-r, r))]
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 200,
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure: name of its file, what it shows, and the content of the PNG file."""

    name: str
    caption: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Label:
    """A text beside a point of the axes, in a colour; ours are bold."""

    x: float
    y: float
    text: str
    colour: str = GREY
    bold: bool = False


@contextlib.contextmanager
def open_axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = COLUMN, **options: object) -> Iterator:
    """Open a figure of one column's width, or of another size in inches (width, height), with rows and columns of axes.

    Options are those of matplotlib's `subplots`. Yields the axes; an array of them if there are several.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MplFigure

    with matplotlib.rc_context(STYLE):
        figure = MplFigure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(rows, columns, **options)


def style(index: int) -> dict[str, str]:
    """Return the colour and the marker of a line among others."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def finish(axes, labels: list[Label], name: str, caption: str) -> Figure:
    """Place the labels of an open figure and return it as a file's content."""
    place(axes, labels)
    return Figure(name, caption, png_of(axes.figure))


def png_of(figure) -> bytes:
    """Return an open figure as PNG, without anything that changes from one time to the next."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def plain_log_ticks(axes) -> None:
    """Label a logarithmic x axis with plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 1.7 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def place(axes, labels: list[Label]) -> None:
    """Put each label beside its point, on the first side where it covers neither a label nor a line nor a point.

    Call it last: what is drawn afterwards is not avoided.
    """
    from matplotlib.transforms import Bbox

    canvas = axes.figure.canvas
    canvas.draw()
    reach = 2.5 * axes.figure.dpi / 72  # half a marker, in pixels
    places = [axes.transData.transform(xy) for points in axes.collections for xy in points.get_offsets()]
    for line in axes.get_lines():
        corners = line.get_transform().transform(line.get_xydata())
        for start, end in zip(corners, [*corners[1:], corners[-1]], strict=True):
            count = 1 + int(np.hypot(*(end - start)) / (2 * reach)) if np.isfinite([start, end]).all() else 0
            places += [start + (end - start) * k / count for k in range(count)]
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in places]
    frame = axes.get_window_extent()
    for label in sorted(labels, key=lambda label: not label.bold):
        weight = "bold" if label.bold else "normal"
        for number, (dx, dy) in enumerate(_NEAR, start=1):
            sides = {"ha": ("right", "center", "left")[(dx > 0) - (dx < 0) + 1]}
            sides |= {"va": ("top", "center", "bottom")[(dy > 0) - (dy < 0) + 1]}
            style = {"fontsize": 6.5, "color": label.colour, "weight": weight, "annotation_clip": False}
            text = axes.annotate(label.text, (label.x, label.y), (dx, dy), textcoords="offset points", **sides, **style)
            box = text.get_window_extent(canvas.get_renderer())
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if number == len(_NEAR) or (inside and not any(box.overlaps(other) for other in taken)):
                break
            text.remove()
        taken.append(box)
