"""Everything pretty in a results folder, from its rows alone: the same rows give the same bytes. No torch.

`run` imports this module; what it writes is never edited by hand.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmark import gallery, tables
from benchmark import results as results_module
from benchmark.figures import Figure, all_figures, gain_by_share, throughput
from benchmark.results import SETS, Results
from benchmark.rows import write_atomically
from benchmark.table import Table
from benchmark.tables import PROTOCOLS

README, TABLES, FIGURES, CURVES, CROPS = "README.md", "tables", "figures", "curves", "crops"
_PREFACE = """# Results

Written by `python -m benchmark.run` from `rows.csv`, `evaluations.jsonl`, `curves/` and `crops/`; do not edit.
`python -m benchmark.run --report-only` writes this page again. Numbers of an independent implementation made from the
paper's abstract: none of them is the paper's. A difference of 0.02 dB on Set12 is the noise of a training seed.
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A second-level heading of the page with its tables and figures."""

    title: str
    tables: list[Table]
    figures: list[Figure]


def all_sections(results: Results, out: Path) -> list[Section]:
    """Return the sections of the page in order; empty ones are left out."""
    protocols = [name for name in PROTOCOLS if name in set(results.images.protocol) | set(results.estimates.protocol)]
    sections = []
    for plan in (plan for plan in results.plans if plan not in results.shares):
        title = {"released": "Released networks", "": "Methods without training"}.get(plan, f"Plan `{plan}`")
        made: list[Table | None] = [tables.quality(results, plan, p, name) for p in protocols for name in SETS]
        for make in (tables.distillation, tables.stages, tables.known_or_estimated):
            made += [make(results, plan, protocol) for protocol in protocols]
        made.append(tables.networks(results, plan))
        drawn = [figure for p in protocols for figure in _figures(results, out, plan, p)] if plan else []
        sections.append(Section(title, [table for table in made if table], list({f.name: f for f in drawn}.values())))
    made = [*(tables.by_share(results, p) for p in protocols), *(tables.networks(results, p) for p in results.shares)]
    drawn = [gain_by_share(results, protocol) for protocol in protocols]
    sections.append(Section("HMDS and the step budget", [t for t in made if t], [figure for figure in drawn if figure]))
    estimates = [tables.estimator(results, protocol) for protocol in protocols]
    sections.append(Section("Noise-level estimator", [table for table in estimates if table], []))
    sections.append(Section("Speed", tables.speed(results), throughput(results)))
    return [section for section in sections if section.tables or section.figures]


def _figures(results: Results, out: Path, plan: str, protocol: str) -> list[Figure]:
    crops = gallery.crops(out / CROPS, plan, protocol, "" if plan == "released" else f"_{plan}")
    return [*([crops] if crops else []), *all_figures(results, out / CURVES / plan, plan, protocol)]


def write(out: Path) -> list[Path]:
    """Write README.md, the tables as CSV and LaTeX and the figures as PNG and SVG into a results folder.

    Tables and figures of an earlier report that are no longer made are deleted.

    Returns:
        The files written, README.md first.

    Raises:
        RowsError: if the rows are damaged; nothing is written.
    """
    sections = all_sections(results_module.load(out), out)
    written = []
    page = [_PREFACE]
    for section in sections:
        page.append(f"## {section.title}\n")
        for table in section.tables:
            page.append(table.markdown())
            for suffix, text in ((".csv", table.csv()), (".tex", table.latex())):
                written.append(out / TABLES / f"{table.name}{suffix}")
                write_atomically(written[-1], text)
        for figure in section.figures:
            page.append(f"![{figure.caption}]({FIGURES}/{figure.name}.png)\n\n{figure.caption}\n")
            written += figure.write(out / FIGURES)
    for folder, suffixes in ((TABLES, (".csv", ".tex")), (FIGURES, (".png", ".svg"))):
        for path in (out / folder).glob("*"):
            if path.suffix in suffixes and path not in written:
                path.unlink()
    write_atomically(out / README, "\n".join(page))
    return [out / README, *written]
