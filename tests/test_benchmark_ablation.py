"""The ablation of the distillation: arms beside each other on the same batches, rows by image, a page made of them."""

import pandas as pd
import pytest
from conftest import header_for
from mdrn.recipe import TrainConfig

from benchmark import ablation
from mdrn import checkpoint, trainer
from mdrn.teacher import TeacherConfig

SHORT = ["--steps", "3", "--batch-size", "2", "--patch-size", "16", "--data", "samples", "--quiet"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Return the arguments that name a small teacher and where to write."""
    monkeypatch.delenv("MDRN_DATA", raising=False)
    config = TeacherConfig(widths=(8, 8, 16), blocks=1)
    teacher = tmp_path / "teacher.safetensors"
    network = config.build()
    header = header_for(network, id="teacher.plain_n0-75_s0", architecture="teacher", noise_level=(0.0, 75.0))
    checkpoint.write_weights(teacher, network, header)
    return ["--teacher", str(teacher), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]


def test_arms_are_trained_once_and_compared_by_image(folders, tmp_path, monkeypatch):
    arms = ["--only", "capacity_both_terms", "noise", "plain_as_long"]
    monkeypatch.setattr(ablation, "seconds_per_step", lambda runs, device: 2.5 if runs[0].teacher else 1.0)
    assert ablation.main([*SHORT, *arms, *folders]) == 0
    rows = pd.read_csv(tmp_path / "out" / "ablation.csv")
    assert set(rows.arm) == {"plain", "capacity_both_terms", "noise", "plain_as_long"}
    assert rows.groupby("arm").size().nunique() == 1 and rows.psnr.between(5, 40).all()
    assert rows.weights.nunique() == 4
    steps = rows.groupby("arm").steps.first()
    assert steps["plain_as_long"] == round(3 * 2.5) and steps["plain"] == 3
    costs = pd.read_csv(tmp_path / "out" / "step_cost.csv")
    assert costs.ratio.tolist() == [1.0, 2.5]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "## mdrn_tiny at level 50 from nothing" in page and "batches of 2 x 16 pixels" in page
    (figure,) = (tmp_path / "out").glob("arms_mdrn_tiny_50_*.svg")
    assert figure.stat().st_size > 1000 and f"({figure.stem}.png)" in page

    monkeypatch.setattr(ablation, "fit_together", lambda *a, **o: pytest.fail("trained again"))
    assert ablation.main([*SHORT, *arms, *folders]) == 0
    assert pd.read_csv(tmp_path / "out" / "ablation.csv").equals(rows)
    assert ablation.main(["--report-only", *folders]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == page


def test_runs_from_released_weights_are_another_study(folders, tmp_path):
    arguments = [*SHORT, *folders, "--only", "capacity"]
    assert ablation.main(arguments) == 0
    assert ablation.main([*arguments, "--init-from", "mdrn_tiny.plain_n0-75_s0", "--learning-rate", "1e-4"]) == 0
    rows = pd.read_csv(tmp_path / "out" / "ablation.csv")
    psnr = rows[rows.arm == "plain"].groupby(["start", "rate"]).psnr.mean()
    ((continued, rate),) = [key for key in psnr.index if key[0] != "nothing"]
    assert continued.startswith("mdrn_tiny.plain_n0-75_s0@") and rate == 1e-4
    assert psnr[continued, rate] > 25 > psnr["nothing", TrainConfig.learning_rate]
    assert (tmp_path / "out" / "README.md").read_text().count("## ") == 2


def test_every_arm_can_be_trained(folders):
    options = ablation._parse([*SHORT, *folders])
    configs = {arm: ablation.config_of(arm, options, 0, 3) for arm in ablation.ARMS}
    assert len({config.id for config in configs.values()}) == len(ablation.ARMS)
    for config in configs.values():
        criterion = trainer.build_criterion(config)
        assert config.strategy == "plain" or criterion.config == ablation.ARMS[config.preset.partition("-")[2]].distill


def test_gains_are_averaged_over_the_seeds_that_both_have():
    study = ("mdrn", 50.0, "t", "nothing", "2 x 16", "muon, l1", 2e-3, 10)
    run = dict(zip(ablation.STUDY, study, strict=True)) | {"steps": 10}
    psnr = {("plain", 0): (20.0, 30.0), ("plain", 1): (20.0, 30.2), ("both", 0): (20.1, 30.3), ("capacity", 2): (1, 2)}
    rows = pd.DataFrame(
        run | {"arm": arm, "seed": seed, "image": image, "psnr": value}
        for (arm, seed), values in psnr.items()
        for image, value in zip("ab", values, strict=True)
    )
    table = ablation.summary(rows).set_index("arm")
    assert table.gain["both"] == pytest.approx(0.2) and table["by seed"]["both"] == "0: +0.200"
    assert table.low["both"] == pytest.approx(0.1) and table.high["both"] == pytest.approx(0.3)
    assert table.psnr["plain"] == pytest.approx(25.05)
    assert pd.isna(table.gain["plain"]) and pd.isna(table.gain["capacity"])
    assert len(ablation.figures(table.reset_index(), "x")) == 1
    longer = table.reset_index().assign(budget=20, gain=0.3, low=0.2, high=0.4)
    assert len(ablation.figures(pd.concat([table.reset_index(), longer]), "x")) == 2


@pytest.mark.parametrize("wrong", [["--only", "magic"], ["--teacher", "nobody"], ["--level", "90"]])
def test_mistakes_give_one_line(folders, tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        ablation.main([*SHORT, *folders, *wrong])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
