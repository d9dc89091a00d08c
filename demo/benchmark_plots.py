"""What the Benchmark tab draws of a table: frames with one row a point. It does not import Gradio."""

from __future__ import annotations

import dataclasses
import re

import pandas as pd

_LEVEL_PSNR = re.compile(r"^level ([\d.]+)(?: PSNR)?$")
_STAGE = re.compile(r"^stage (\d+)$")
_PSNR, _LEVEL, _STAGES = "PSNR, dB", "noise level", "stage"
_PARAMETERS = "parameters, millions"
_FIRST_PARAMETERS = 2.0  # larger published networks would press the small ones together; a click shows them
_FIRST_NAMES = 8
_OKABE_ITO = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]  # told apart by most
_COLOURS = [*_OKABE_ITO, "#8c564b", "#9467bd", "#17a2a2", "#b0a030", "#7f7f7f", "#c44e52"]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Up to two plots of one table.

    Args:
        lines: columns 'name' and those of `line_axes`, or None.
        line_axes: names of x and y.
        points: columns 'name' and those of `point_axes`, or None.
        point_axes: names of x and y.
        first: names that are drawn before anybody chooses.
    """

    lines: pd.DataFrame | None = None
    line_axes: tuple[str, str] = (_LEVEL, _PSNR)
    points: pd.DataFrame | None = None
    point_axes: tuple[str, str] = (_PARAMETERS, _PSNR)
    first: list[str] = dataclasses.field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All names that can be drawn, in the table's order."""
        frames = [frame["name"] for frame in (self.lines, self.points) if frame is not None]
        return list(dict.fromkeys(name for frame in frames for name in frame))


def draw(table: pd.DataFrame) -> Drawing:
    """Choose what to draw of a table; an empty drawing for a kind that is only read."""
    by_level = psnr_by_level(table)
    if by_level is not None:
        return _draw_levels(table, by_level)
    if any(_STAGE.match(name) for name in table.columns) and {"network", "set", "level"} <= set(table.columns):
        return _draw_stages(table)
    time = next((name for name in table.columns if "ms" in re.split(r"\W+", name)), None)
    if time and _PARAMETERS in table.columns:
        name = table.columns[0]  # of a network, whatever the column is called
        points = table[[name, _PARAMETERS, time]].rename(columns={name: "name", time: "milliseconds"}).dropna()
        return Drawing(
            points=points, point_axes=(_PARAMETERS, "milliseconds"), first=list(points["name"])[:_FIRST_NAMES]
        )
    return Drawing()


def colours(names: list[str], chosen: list[str]) -> dict[str, str]:
    """Return a colour for each chosen name that a drawing has, the same in both plots."""
    drawn = [name for name in names if name in chosen]
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(drawn)}


def limits(values: pd.Series) -> list[float]:
    """Return an axis that holds all values, with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = (high - low) / 12 or 1.0
    return [low - margin, high + margin]


def psnr_by_level(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return (name, noise level, PSNR) rows of a table with levels as columns; None for another kind of table."""
    columns = {name: float(found[1]) for name in table.columns if (found := _LEVEL_PSNR.match(name))}
    if len(columns) < 2 or table.columns[0] != "method":
        return None
    rows = table.melt(id_vars="method", value_vars=list(columns), var_name=_LEVEL, value_name=_PSNR)
    rows[_LEVEL] = rows[_LEVEL].map(columns)
    rows[_PSNR] = pd.to_numeric(rows[_PSNR], errors="coerce")
    return rows.rename(columns={"method": "name"}).dropna().reset_index(drop=True)


def _draw_levels(table: pd.DataFrame, lines: pd.DataFrame) -> Drawing:
    middle = lines[_LEVEL].drop_duplicates().sort_values().iloc[lines[_LEVEL].nunique() // 2]
    quality = f"PSNR at level {middle:g}, dB"
    points = None
    sizes = table.set_index("method").get(_PARAMETERS)
    if sizes is not None:
        points = lines[lines[_LEVEL] == middle].rename(columns={_PSNR: quality}).drop(columns=_LEVEL)
        points[_PARAMETERS] = points["name"].map(sizes)
        points = points.dropna().reset_index(drop=True)
    small = set(sizes[sizes < _FIRST_PARAMETERS].index) if sizes is not None else set(lines["name"])
    first = [method for method in table["method"] if method in small]  # the table has what was measured first
    return Drawing(lines, (_LEVEL, _PSNR), points, (_PARAMETERS, quality), first[:_FIRST_NAMES])


def _draw_stages(table: pd.DataFrame) -> Drawing:
    columns = {"noisy": 0, **{name: int(found[1]) for name in table.columns if (found := _STAGE.match(name))}}
    named = table.assign(name=table["network"] + ", " + table["set"] + ", level " + table["level"].astype(str))
    rows = named.melt("name", [name for name in columns if name in table.columns], _STAGES, _PSNR)
    rows[_STAGES] = rows[_STAGES].map(columns)
    first = named["name"][named["set"] == named["set"].iloc[0]]
    lines = rows.dropna().reset_index(drop=True)
    return Drawing(lines, (_STAGES, _PSNR), first=list(first)[:_FIRST_NAMES])
