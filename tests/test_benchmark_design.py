"""The studies of design and recipe: equal patches for every candidate, a page made of its rows alone."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from mdrn.recipe import TrainConfig

from benchmark import design, studies
from mdrn.model import ModelConfig
from mdrn.train import fit


@pytest.mark.parametrize("study", studies.STUDIES)
def test_every_candidate_sees_equally_many_pixels(study):
    for name, candidate in studies.STUDIES[study].items():
        seen = sum(c.steps * c.batch_size * c.patch_size**2 for c in candidate.configs(name, 400))
        assert seen == pytest.approx(400 * 16 * 64**2, rel=0.01)


def test_a_second_run_starts_from_the_first_and_sees_other_batches(tmp_path):
    candidate = studies.Candidate("", options={"data": ("samples",), "patch_size": 32}, then={"learning_rate": 1e-4})
    studies.STUDIES["recipe"]["chained"] = candidate
    try:
        record = design.run_one("recipe", "chained", 8, str(tmp_path), None)
    finally:
        del studies.STUDIES["recipe"]["chained"]
    assert "/8/chained/1/" in record
    assert pd.read_json(record, typ="series").patches == (24 + 8) * 16


def test_the_page_is_made_of_the_rows(tmp_path):
    facts = {"parameters": 120_000, "gmacs_256": 0.5, "radius": 86, "patches_per_second": 1.0}
    names = ["two_stages", "plain_u", "shared"]
    records = {
        name: {"psnr": {"15": 30.0, "25": 28.0 + i / 10, "50": 25.0}, "patches": 64} for i, name in enumerate(names)
    }
    measured = {name: facts | {"time_against_dncnn": 0.02 + i / 100} for i, name in enumerate(names)}
    design.write_study("designs", records, measured, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "a plain U is +0.00 / +0.10 / +0.00 dB above two stages" in page and "1.50 times as long" in page
    assert "FFDNet" not in page and (tmp_path / "designs.svg").stat().st_size > 1000
    design.write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == page
    assert pd.read_csv(tmp_path / "designs.csv").name.tolist()[0] == "shared"


def test_a_study_without_its_reference_has_a_table_and_no_conclusion(tmp_path):
    rows = [{"name": "patch_48", "what": "x", "psnr_25": 28.0}]
    design.write_csv(pd.DataFrame(rows), tmp_path / "recipe.csv")
    design.write_page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| patch_48 | x | 28.0 |" in page and "Against the reference" not in page


def test_long_runs_are_recorded_once(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    model = ModelConfig(widths=(8, 8, 16))
    config = TrainConfig(preset="small", model=model, steps=2, batch_size=4, patch_size=16, data=("samples",))
    config = dataclasses.replace(config, large_patches=0.5)
    record = fit(config, tmp_path, validations=1, quiet=True).with_suffix(".json")
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["design", "--record", str(record), "--out", str(tmp_path / "out")])
        assert design.main() == 0
    (row,) = pd.read_csv(tmp_path / "out" / "long.csv").to_dict("records")
    assert (row["network"], row["widths"], row["batch"], row["patches"]) == (
        *(config.id, "8/8/16"),
        *("4 of 16 x 16; 1 of 32 x 32 in the last 50%", 8),
    )
    assert 10 < row["psnr_25"] < 40 and row["starts_from"] == "random weights"
    assert "## long" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr("sys.argv", ["design", "--record", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit):
        design.main()
    assert "--record: expected the .json" in capsys.readouterr().err


def test_the_committed_page_is_fresh(tmp_path):
    committed = Path(__file__).parent.parent / "results" / "design"
    for path in committed.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    design.write_page(tmp_path)
    assert (tmp_path / "README.md").read_text() == (committed / "README.md").read_text()
