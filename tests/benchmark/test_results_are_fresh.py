"""What is generated from rows is what the rows say now, and the rows are of the weights that are released now."""

import shutil
from pathlib import Path

import pytest

import mdrn
from benchmark import methods, report, rows, summary
from mdrn import checkpoint

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "results"
_WRITTEN = (".md", ".tex")
_TIDY = (summary.SUMMARY, summary.GAINS)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with the same rows and a report of them."""
    out = tmp_path_factory.mktemp("results")
    for name in (rows.EVALUATIONS, rows.SPEED, rows.RUNS):
        if (OUT / name).exists():
            shutil.copy(OUT / name, out / name)
    for name in (rows.ROWS, rows.CURVES):
        if (OUT / name).exists():
            shutil.copytree(OUT / name, out / name)
    report.write(out)
    return out


def made(out: Path, kinds: tuple[str, ...]) -> set[str]:
    found = [path.relative_to(out) for path in out.rglob("*") if path.suffix in kinds and path.parent != out]
    return {str(path) for path in found}


def test_pages_tables_and_summary_are_those_of_the_rows(written):
    assert made(written, (*_WRITTEN, ".png")) == made(OUT, (*_WRITTEN, ".png"))
    for name in [*made(written, _WRITTEN), report.README, *_TIDY]:  # figures depend on matplotlib's version
        assert (written / name).read_text() == (OUT / name).read_text(), name


@pytest.mark.parametrize("name", report.BLOCKS)
def test_the_top_readme_shows_what_the_rows_say(written, name):
    text = (ROOT / "README.md").read_text()
    shown = text.split(report.BEGIN.format(name))[1].split(report.END.format(name))[0].strip()
    assert report.BLOCKS[name](summary.load(written)) == shown


@pytest.mark.parametrize("name", mdrn.list_models())
def test_every_released_network_has_rows_of_its_weights(name):
    header = checkpoint.read_header(name)
    weights = header.sha256[:16]
    ours = [e for e in rows.read_evaluations(OUT) if e.method.removesuffix(rows.AUTO) == name and e.weights == weights]
    found = {e.set for e in ours if e.method == name}
    grey, colour = {"Set12", "BSD68", "Urban100"}, {"CBSD68", "Urban100_rgb"}
    assert (grey if header.model.channels == 1 else colour) <= found
    assert header.model.channels == 1 or "PolyU" in {e.set for e in ours if e.method == f"{name}{rows.AUTO}"}


def test_rows_are_of_the_code_that_is_there():
    every = [*methods.without_weights(), *methods.networks(mdrn.list_models(), rows.RELEASE)]
    known = {method.name: method.code for method in every}
    told = [evaluation for evaluation in rows.read_evaluations(OUT) if evaluation.method in known]
    assert {"noisy", "wavelet", "wavelet+auto", "mdrn.denoise", "estimate_noise_level"} <= {e.method for e in told}
    assert {e.method for e in told if e.code != known[e.method]} == set()


def test_results_stay_small():
    tracked = [path for path in OUT.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    assert sum(path.stat().st_size for path in tracked if "runs" not in path.parts) < 3 * 2**20
