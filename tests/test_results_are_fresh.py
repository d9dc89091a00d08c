"""What is generated from rows is what the rows say now, and the rows are of the weights that are released now."""

import shutil
from pathlib import Path

import pytest

import mdrn
from benchmark import overview, report, results, rows
from mdrn import checkpoint

ROOT = Path(__file__).parent.parent
OUT = ROOT / "results"


def test_the_top_readme_shows_the_table_of_the_rows():
    text = (ROOT / "README.md").read_text()
    assert overview.table(results.load(OUT)) == text.split(overview.BEGIN)[1].split(overview.END)[0].strip()


def test_pages_and_tables_are_those_of_the_rows(tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    for name in (rows.ROWS, rows.EVALUATIONS, rows.SPEED):
        if (OUT / name).exists():
            shutil.copy(OUT / name, out / name)
    if (OUT / report.CURVES).exists():
        shutil.copytree(OUT / report.CURVES, out / report.CURVES)
    for path in report.write(out):
        if path.suffix in (".md", ".csv", ".tex"):  # figures depend on matplotlib's version
            assert path.read_text() == (OUT / path.relative_to(out)).read_text(), path.name


@pytest.mark.parametrize("name", mdrn.list_models())
def test_every_released_network_has_rows_of_its_weights(name):
    weights = checkpoint.read_header(name).sha256[:16]
    found = {
        row.set for row in rows.newest(rows.read(OUT / rows.ROWS)) if row.method == name and row.weights == weights
    }
    assert {"Set12", "BSD68", "Urban100"} <= found
