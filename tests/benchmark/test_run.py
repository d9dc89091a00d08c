"""The command line: what it does without options, what it says of mistakes, and that it repeats nothing."""

import dataclasses
import re
import subprocess
import sys

import pytest

from benchmark import plan, report, rows, run, summary
from mdrn import checkpoint
from mdrn.files import writing

FAST = ["--quiet", "--methods", "noisy", "small*", "--sets", "samples_held_out", "--levels", "25"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path, weights_file):
    """One released network, no data root, no LPIPS trunk, and a folder of its own to work in."""
    released = tmp_path / "released"
    released.mkdir()
    weights_file.rename(released / "small.plain_n0-75_s0.safetensors")
    monkeypatch.setattr(checkpoint, "WEIGHTS_DIR", released)
    monkeypatch.delenv("MDRN_DATA", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "all_figures", lambda *_: [])  # tested elsewhere, and slow


def evaluated(out) -> dict[str, str]:
    return {evaluation.method: evaluation.plan for evaluation in rows.read_evaluations(out)}


def test_rows_and_tables_appear_and_a_second_time_nothing_is_done(tmp_path, capsys):
    assert run.main(FAST) == 0
    assert "of which 0 have their rows; 3 to do" in capsys.readouterr().out
    out = tmp_path / "results"
    network = "small.plain_n0-75_s0"
    assert evaluated(out) == {"noisy": "baselines", network: "release", f"{network}+auto": "release"}
    written = [out / name for name in ("README.md", "summary.csv", "gains.csv", "tables/quality.md")]
    before = {path: path.read_bytes() for path in [*written, out / rows.EVALUATIONS]}
    assert b"`small.plain_n0-75_s0+auto`" in before[written[-1]]
    assert run.main(FAST) == 0
    assert "3 have their rows; 0 to do" in capsys.readouterr().out
    assert run.main(["--report-only"]) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_force_measures_again_and_compares(tmp_path, capsys):
    assert run.main(FAST) == 0
    assert run.main([*FAST, "--force"]) == 0
    assert "largest change of PSNR in rows of unchanged weights: 0.0000 dB" in capsys.readouterr().out
    path = rows.rows_path(tmp_path / "results", "baselines")
    psnr = rows.read(path, rows.Row)[0].psnr
    path.write_text(path.read_text().replace(f"{psnr:.3f}", f"{psnr + 0.01:.3f}"))
    assert run.main([*FAST, "--force"]) == 1
    assert "0.0100 dB" in capsys.readouterr().out


def test_force_without_the_trunk_keeps_rows_that_have_lpips(tmp_path, capsys):
    assert run.main(FAST) == 0
    path = tmp_path / "results" / rows.EVALUATIONS
    measured = [dataclasses.replace(evaluation, lpips="alex") for evaluation in rows.read_evaluations(path.parent)]
    rows.write(path, measured, rows.Evaluation)
    capsys.readouterr()
    assert run.main([*FAST, "--force"]) == 2
    assert "--force would lose what the rows have" in capsys.readouterr().err
    assert rows.read_evaluations(path.parent) == measured


def test_without_data_the_samples_are_used_and_it_says_so(capsys):
    assert run.main(["--dry-run", "--quiet", "--methods", "small*", "estimate*"]) == 0
    said = capsys.readouterr().out
    assert "no data root given (--data-root or MDRN_DATA, or --fetch): evaluating on scikit-image's bundled" in said
    assert "samples 15 small.plain_n0-75_s0\n" in said
    assert "samples 75 estimate_noise_level" in said
    assert "samples_rgb" not in said  # no colour network
    assert "measured here" in said


def test_dry_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run.evaluate, "seconds_left", lambda *_: 1.0)
    assert run.main([*FAST, "--dry-run"]) == 0
    assert run.main(["--preset", "smoke", "--dry-run", "--quiet", "--methods", "mdrn_tiny.*"]) == 0
    assert run.main(["--preset", "smoke", "--dry-run", "--quiet", "--methods", "mdrn.plain*"]) == 2  # not in this plan
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "runs").exists()


def shorten(monkeypatch) -> None:
    """Make the smoke plan a matter of four steps."""
    smoke, short = plan.PLANS["smoke"], {"steps": 4, "batch_size": 4, "patch_size": 16}
    groups = tuple(dataclasses.replace(g, options=dict(g.options) | short | {"pool": 16}) for g in smoke.groups)
    teacher = dataclasses.replace(smoke.teacher, **short)
    shorter = dataclasses.replace(smoke, groups=groups, validations=1, teacher=teacher)
    monkeypatch.setitem(plan.PLANS, "smoke", shorter)


def test_smoke_trains_tests_and_stays_out_of_results(tmp_path, monkeypatch, capsys):
    shorten(monkeypatch)
    options = ["--preset", "smoke", "--quiet", "--methods", "noisy", "mdrn_*", "teacher*"]
    assert run.main(options) == 0
    out = tmp_path / "runs" / "smoke"
    students = {f"mdrn_tiny.{strategy}_n{level}_s0" for strategy in ("plain", "hmds") for level in (25, 50)}
    assert set(evaluated(out)) == {"noisy", "teacher.plain_n0-75_s0", *students}
    results = summary.load(out)
    assert set(results.evaluations.set) == {"samples_held_out"}
    assert sorted(results.gains.level) == [25, 50] and set(results.gains.strategy) == {"hmds"}
    assert set(results.runs.run) == {"teacher.plain_n0-75_s0", *students}
    assert len(results.curves) == len(students) + 3  # one validation each; the teacher's at three levels
    assert "### Plain and distilled" in (out / "tables" / "distillation.md").read_text()
    assert "### Plan `smoke`: 5 runs" in (out / "tables" / "training.md").read_text()
    assert not (tmp_path / "results").exists()
    capsys.readouterr()
    assert run.main(options) == 0  # nothing is trained or evaluated again
    said = capsys.readouterr().out
    assert "5 runs, 5 done" in said
    assert "0 to do" in said


BAD = {
    "unknown preset": (["--preset", "huge"], "argument --preset: invalid choice: 'huge'"),
    "unknown option": (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    "level 0": (["--levels", "0"], "--levels: expected numbers above 0"),
    "level 80": (["--levels", "80"], "--levels: expected numbers above 0, up to 75, got 80"),
    "level nan": (["--levels", "nan"], "--levels: expected numbers above 0"),
    "level text": (["--levels", "high"], "invalid float value: 'high'"),
    "protocol": (["--protocol", "awgn8"], "argument --protocol: invalid choice"),
    "method": (["--methods", "bm4d"], "--methods: nothing is named 'bm4d'; expected some of noisy, "),
    "weights file": (["--methods", "gone.safetensors"], "gone.safetensors: expected a .safetensors file, got none"),
    "set": (["--sets", "Set13"], "--sets: expected some of Set12"),
    "set not there": (["--sets", "Set12"], "Set12: not found in any data root"),
    "data root": (["--data-root", "nowhere"], "nowhere: expected a folder of image sets"),
    "jobs": (["--jobs", "0"], "--jobs: expected at least 1"),
    "device": (["--device", "abacus"], "--device: expected cpu, cuda or cuda:1, got abacus"),
    "teacher": (["--preset", "smoke", "--teacher", "gone"], "gone: no network of this name"),
    "only without preset": (["--only", "mdrn*"], "--only needs --preset"),
    "no run left": (["--preset", "smoke", "--only", "x"], "--only, --levels and --seeds leave no run of "),
    "out is a file": (["--out", "file", *FAST], "file"),
    "out under a file": (["--out", "file/results", *FAST], "Not a directory"),
    "nothing to report": (["--report-only", "--out", "empty"], "empty: expected a folder with evaluations.csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_give_one_line_and_exit_code_2(case, capsys, tmp_path):
    (tmp_path / "file").write_text("precious")
    arguments, expected = BAD[case]
    try:
        code = run.main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("options", [FAST, ["--report-only"]])
def test_a_damaged_row_file_is_refused_in_one_line(options, tmp_path, capsys):
    path = tmp_path / "results" / rows.EVALUATIONS
    path.parent.mkdir()
    path.write_text("plan,method\nhalf a li")
    assert run.main(options) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"python -m benchmark.run: results/evaluations.csv, line 2: .*\n", error)
    assert path.read_text() == "plan,method\nhalf a li"
    assert not (tmp_path / "results" / "README.md").exists()


SMOKE = ["--preset", "smoke", "--only", "mdrn_tiny.plain_n25_s0", "--quiet"]


@pytest.mark.parametrize("options", [FAST, [*FAST, "--force"], ["--report-only"], SMOKE])
def test_a_full_disk_is_one_line_and_nothing_is_lost(options, tmp_path, monkeypatch, capsys):
    assert run.main(FAST) == 0
    if options == FAST:  # as if nothing had been done yet
        (tmp_path / "results").rename(tmp_path / "earlier")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)  # what every atomic write ends with, weights and figures included
    shorten(monkeypatch)
    assert run.main(options) == 2
    assert capsys.readouterr().err == "python -m benchmark.run: No space left on device\n"
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("options", [FAST, SMOKE])
def test_an_unwritable_results_folder_is_one_line_before_anything_is_computed(options, monkeypatch, capsys):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "results")

    monkeypatch.setattr(run.tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(run.evaluate, "run_jobs", None)
    monkeypatch.setattr(run, "train_all", None)
    assert run.main(options) == 2
    assert capsys.readouterr().err == "python -m benchmark.run: results: Permission denied\n"


def test_a_fault_of_the_code_is_not_hidden(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "plan", broken)
    with pytest.raises(ZeroDivisionError):
        run.main([])


def test_help_and_module_entry():
    done = subprocess.run([sys.executable, "-m", "benchmark.run", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "--report-only" in done.stdout


ROOT = run.__file__.rsplit("/benchmark/", 1)[0]
