"""The overview table in the top README, from rows alone, between two comments that mark it. No torch.

`run` imports this module.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.results import AS_OVERVIEW, Results, line_of, order_of, published
from benchmark.rows import AUTO, write_atomically
from benchmark.table import AS_PUBLISHED, EMPTY

BEGIN = "<!-- results: written by `python -m benchmark.run`, do not edit -->"
END = "<!-- end of results -->"
SETS, LEVELS = ("Set12", "BSD68", "Urban100"), (15.0, 25.0, 50.0)
COLOUR_SETS = ("CBSD68", "Urban100_rgb")
_NOTE = (
    "PSNR in dB at noise levels 15 / 25 / 50; unclipped Gaussian noise, seed 0 for every image, output rounded to 8 "
    "bits. `n*`: one network for each level, parameters of the largest. "
    f"*{AS_PUBLISHED.capitalize()}*: printed by others, not measured here."
)


def table(results: Results) -> str:
    """Return the tables, grey and colour: PSNR of the released networks on each set, and of well-known ones on grey."""
    others = published()
    theirs = []
    for method in AS_OVERVIEW:
        rows = others[others.method == method]
        cells = [_cell(rows[rows["set"] == name].set_index("level").psnr.to_dict()) for name in SETS]
        size = rows.params_m.iloc[0] * 1e6
        theirs.append(_line(f"{method}, *{AS_PUBLISHED}*", None if size != size else size, cells))
    colour = _ours(results, COLOUR_SETS)
    parts = [[*_head("grey", SETS), *_ours(results, SETS), *theirs]]
    parts += [[*_head("colour", COLOUR_SETS), *colour]] if len(colour) > 1 else []  # more than the noisy input
    return "\n\n".join(["\n".join(lines) for lines in parts] + [_NOTE])


def _head(kind: str, sets: tuple[str, ...]) -> list[str]:
    return [f"| {kind} | parameters | " + " | ".join(sets) + " |", "|---|---:|" + "---:|" * len(sets)]


def _ours(results: Results, sets: tuple[str, ...]) -> list[str]:
    """Return the lines of what was measured on these sets."""
    frame = results.of_plan("released")
    frame = frame[(frame.protocol == "awgn") & (frame.noise_seed == 0) & ~frame.method.str.endswith(AUTO)]
    frame = frame.assign(line=frame.method.map(line_of))
    means = frame.groupby(["line", "set", "noise_level"]).psnr.mean()
    lines = []
    for line in sorted(frame.line.unique(), key=order_of):
        size = results.parameters(frame[frame.line == line])
        cells = [_cell({level: means.get((line, name, level)) for level in LEVELS}) for name in sets]
        if set(cells) != {EMPTY}:
            lines.append(_line(f"`{line}`", size, cells))
    return lines


def update(readme: Path, results: Results) -> bool:
    """Put the table between its marks in a README; return whether there are marks.

    Raises:
        OSError: if the file cannot be written.
    """
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        return False
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    changed = f"{head}{BEGIN}\n{table(results)}\n{END}{tail}"
    if changed != text:
        write_atomically(readme, changed)
    return True


def _line(name: str, parameters: float | None, cells: list[str]) -> str:
    size = EMPTY if parameters is None else f"{parameters / 1e6:.3f} M"
    return f"| {name} | {size} | {' | '.join(cells)} |"


def _cell(psnr: dict[float, float | None]) -> str:
    known = {level: value for level, value in psnr.items() if value is not None and value == value}
    if not known:
        return EMPTY
    return " / ".join(f"{known[level]:.2f}" if level in known else EMPTY for level in LEVELS)
