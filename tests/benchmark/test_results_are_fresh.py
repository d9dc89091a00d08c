"""What is generated from rows is what the rows say now, and the rows are of the weights that are released now."""

import json
import shutil
from pathlib import Path

import pytest

import mdrn
from benchmark import ablation, overview, report, results, rows
from mdrn import checkpoint

ROOT = Path(__file__).parent.parent
OUT = ROOT / "results"


def test_the_top_readme_shows_the_table_of_the_rows():
    text = (ROOT / "README.md").read_text()
    assert overview.table(results.load(OUT)) == text.split(overview.BEGIN)[1].split(overview.END)[0].strip()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> list[Path]:
    """Two folders with the same rows, curves and crops, and a report in each."""
    folders = []
    for number in range(2):
        out = tmp_path_factory.mktemp(f"results{number}")
        for name in (rows.ROWS, rows.EVALUATIONS, rows.SPEED):
            if (OUT / name).exists():
                shutil.copy(OUT / name, out / name)
        for name in (report.CURVES, report.CROPS):
            if (OUT / name).exists():
                shutil.copytree(OUT / name, out / name)
        report.write(out)
        folders.append(out)
    return folders


def _made(out: Path) -> list[Path]:
    return sorted(p.relative_to(out) for p in out.rglob("*") if p.suffix in (".md", ".csv", ".tex", ".svg", ".png"))


def test_pages_and_tables_are_those_of_the_rows(written):
    for path in _made(written[0]):
        if path.suffix in (".md", ".csv", ".tex"):  # figures depend on matplotlib's version
            assert (written[0] / path).read_text() == (OUT / path).read_text(), path


def test_two_reports_are_the_same_to_the_byte(written):
    first, second = written
    assert _made(first) == _made(second)
    assert {".svg", ".png", ".tex"} <= {path.suffix for path in _made(first)}
    for path in _made(first):
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_the_page_on_distillation_is_that_of_its_rows(tmp_path):
    shutil.copy(OUT / "hmds" / ablation.ROWS, tmp_path)
    ablation.write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == (OUT / "hmds" / "README.md").read_text()


@pytest.mark.parametrize("name", mdrn.list_models())
def test_every_released_network_has_rows_of_its_weights(name):
    header = checkpoint.read_header(name)
    weights = header.sha256[:16]
    found = {
        row.set for row in rows.newest(rows.read(OUT / rows.ROWS)) if row.method == name and row.weights == weights
    }
    grey, colour = {"Set12", "BSD68", "Urban100"}, {"CBSD68", "Urban100_rgb"}
    assert (grey if header.model.channels == 1 else colour) <= found


@pytest.mark.parametrize("name", mdrn.list_models())
def test_every_released_network_has_its_training_curve(name):
    curve = json.loads((OUT / report.CURVES / "released" / f"{name}.json").read_text())
    assert curve["patches"] == checkpoint.read_header(name).patches
