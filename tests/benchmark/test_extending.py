"""A test set, a strategy and a classical method are each added in one place, and are seen in table, plan and CLI."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import add

from benchmark import run, summary, tables, testsets
from mdrn import classical

ROOT = Path(run.__file__).parent.parent
OPTIONS = ["--quiet", "--lpips", "none", "--levels", "25", "--out", "results"]


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def table_of(set_name: str) -> str:
    add(Path("results"), "mdrn.plain_n0-75_s0", [30.0, 31.0], set_name=set_name)  # a plan to have a table of
    results = summary.load(Path("results"))
    return tables.quality(results, "release", set_name, "awgn").markdown()


def test_a_classical_method(monkeypatch):
    monkeypatch.setitem(classical.CLASSICAL, "half_way_to_grey", lambda noisy, sigma: 0.5 * noisy + 0.25)
    assert run.main([*OPTIONS, "--methods", "half_way*", "--sets", "samples_held_out"]) == 0
    assert "| `half_way_to_grey` |" in table_of("samples_held_out")


def test_a_test_set(monkeypatch, capsys):
    stripes = testsets.TestSet("the cat alone, in grey", 1, picks=lambda name: name == "chelsea")
    monkeypatch.setitem(testsets.SETS, "cat", stripes)
    assert run.main([*OPTIONS, "--methods", "noisy", "--sets", "cat"]) == 0
    assert "the cat alone, in grey" in table_of("cat")
    with pytest.raises(SystemExit):
        run.main(["--help"])
    assert "samples_held_out, cat" in " ".join(capsys.readouterr().out.split())


_STRATEGY = """
from mdrn import distill
distill.VIEWS["again_2"] = lambda config: distill.NoiseView(0.25)
distill.STRATEGIES["hmds_again2"] = ("again_2", "hmds_c")
assert len(distill.DistillConfig().views("hmds_again2")) == 2
from benchmark import run, training
training.seconds_per_step = lambda config, device: 1.0  # measured elsewhere
run.main(["--preset", "hmds", "--only", "*hmds_again2_n15*", "--dry-run", "--methods", "noisy", "--sets", "samples"])
"""


def test_a_strategy(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _STRATEGY], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    runs = [line.split(":")[0].strip() for line in done.stdout.splitlines() if line.strip().startswith("mdrn_tiny.")]
    assert runs == [f"mdrn_tiny.hmds_again2_n15_s{seed}@5000" for seed in (0, 1, 2)], done.stderr
    for strategy, gain in (("plain", 0.0), ("hmds_again2", 0.5)):
        add(tmp_path, f"mdrn.{strategy}_n25_s0", list(30 + gain + np.arange(3.0)))
    text = tables.distillation(summary.load(tmp_path), "release").markdown()
    assert "| `mdrn.hmds_again2_n25` | 5,000 | BSD68 | 25 | 31.00 | 31.50 | +0.500 |" in text
