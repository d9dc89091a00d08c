"""Paired comparisons and their intervals, and the figures that show them."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmark import figures, report, results, rows, tables
from benchmark.comparisons import gains, paired_bootstrap
from benchmark.rows import Row


def test_interval_of_equal_differences_is_a_point():
    assert paired_bootstrap(np.full(12, 0.25)) == (0.25, 0.25)


def test_interval_is_the_normal_one_for_many_images():
    """For a mean of many values the percentile bootstrap agrees with mean +- 1.96 s / sqrt(n)."""
    values = np.random.default_rng(1).normal(0.1, 0.5, 400)
    low, high = paired_bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        low, high = paired_bootstrap(rng.normal(0.1, 1.0, 68), resamples=500)
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 199


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(3).normal(size=12)
    assert paired_bootstrap(values) == paired_bootstrap(values)
    assert paired_bootstrap(values) != paired_bootstrap(values, seed=1)


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(bad):
    with pytest.raises(ValueError, match="expected finite values"):
        paired_bootstrap(np.array(bad))


def frame(*runs: tuple[str, dict[str, float]]) -> pd.DataFrame:
    lines = []
    for method, psnr in runs:
        for image, value in psnr.items():
            level = float(method.partition("_n")[2].partition("_s")[0].removeprefix("n_n"))
            lines.append(
                {"method": method, "set": "Set12", "noise_level": level, "noise_seed": 0, "image": image, "psnr": value}
            )
    return pd.DataFrame(lines)


def test_gains_pair_images_and_seeds():
    found = gains(
        frame(
            ("mdrn.plain_n25_s0", {"01": 30.0, "02": 20.0}),
            ("mdrn.plain_n25_s1", {"01": 31.0, "02": 21.0}),
            ("mdrn.plain_n25_s2", {"01": 99.0, "02": 99.0}),  # a seed that the other strategy lacks
            ("mdrn.hmds_n25_s0", {"02": 20.3, "01": 30.1}),
            ("mdrn.hmds_n25_s1", {"01": 31.1, "02": 21.5}),
            ("mdrn_tiny.hmds_n25_s0", {"01": 29.0, "02": 19.0}),  # no plain run of its size
        )
    )
    (gain,) = found
    assert (gain.size, gain.strategy, gain.set_name) == ("mdrn", "hmds", "Set12")
    assert gain.plain == pytest.approx(25.5)
    assert gain.mean == pytest.approx(0.25)
    assert gain.by_seed == pytest.approx({0: 0.2, 1: 0.3})
    assert gain.by_image.to_dict() == pytest.approx({"01": 0.1, "02": 0.4})
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.4))


def test_strategies_with_an_underscore_are_told_from_levels():
    parts = results.RUN_ID.match("mdrn_tiny_rgb.hmds_n_n50_s2")
    assert parts.groupdict() == {"size": "mdrn_tiny_rgb", "strategy": "hmds_n", "levels": "50", "seed": "2"}
    assert results.RUN_ID.match("mdrn.hmds_n50_s0")["strategy"] == "hmds"
    assert results.RUN_ID.match("mdrn.plain_n0-75_s0")["levels"] == "0-75"


@pytest.fixture
def out(tmp_path):
    """A results folder with plain and distilled networks of two sizes, timings and training curves."""
    facts = {"gmacs_256": 0.5, "patches": 64_000, "trained_on": {"sets": "bsds"}, "trained_git": "abc", "weights": "w"}
    facts |= {"machine": "m", "device": "cpu", "threads": 1, "git": "abc", "versions": {"torch": "2"}}
    methods = [("noisy", [20.0], 0)]
    for size, parameters, start in (("mdrn", 600_000, 29.1), ("mdrn_tiny", 120_000, 28.8)):
        methods += [(f"{size}.{s}_n25_s0", [28.0, start + g], parameters) for s, g in (("plain", 0.0), ("hmds", 0.05))]
    written = []
    for number, (method, psnr, parameters) in enumerate(methods):
        plan, weights = ("released", "w") if parameters else ("", "")
        for image in range(6):
            for stage, value in enumerate(psnr, start=1):
                key = (plan, method, "c", weights, "awgn", 0, 25.0, "BSD68", f"test{image}", stage, len(psnr))
                ssim = 0.8 if stage == len(psnr) else None
                written.append(Row(*key, value + image + number * image / 100, ssim, None, None, None, f"e{number}"))
        record = {"id": f"e{number}", "images": 6, "method": method, "parameters": parameters} | facts
        rows.append_evaluation(tmp_path / rows.EVALUATIONS, record)
        if parameters:
            history = [{"step": s, "loss": 0.1, "psnr": {"25": 28 + s / 1000}} for s in (500, 1000)]
            curve = {"id": method, "patches": 64_000, "history": history}
            kept = tmp_path / "curves" / "released"
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{method}.json").write_text(json.dumps(curve))
    rows.append(tmp_path / rows.ROWS, written)
    timed = [
        ("DnCNN", 555_137, 1000.0),
        ("FFDNet", 485_316, 200.0),
        ("mdrn", 600_000, 70.0),
        ("mdrn_tiny", 120_000, 15.0),
    ]
    speeds = [
        rows.SpeedRow("r", name, count, 1.0, "contiguous", 512, time, time, 5, "cpu", "m", 2, "2", "g", "t")
        for name, count, time in timed
    ]
    rows.append(tmp_path / rows.SPEED, speeds, rows.SpeedRow)
    return tmp_path


NAMES = {
    "psnr_against_parameters",
    "psnr_against_cpu_time",
    "progressive_awgn",
    "gain_by_level_awgn",
    "gain_by_image_awgn",
    "training_curves",
}


def test_figures_are_drawn_and_the_same_again(out):
    files = [path for path in report.write(out) if path.parent.name == "figures"]
    assert {path.stem for path in files} == NAMES
    first = {path: path.read_bytes() for path in files}
    for path, content in first.items():
        assert content[:4] == b"\x89PNG" if path.suffix == ".png" else b"<svg" in content
        assert b"<dc:date>" not in content
    report.write(out)
    assert {path: path.read_bytes() for path in files} == first
    page = (out / "README.md").read_text()
    assert all(f"](figures/{name}.png)" in page for name in NAMES)


def test_curves_of_colour_networks_have_a_figure_of_their_own(out):
    loaded = results.load(out)
    frame = loaded.of_plan("released").replace({"method": {"mdrn.plain_n25_s0": "mdrn_rgb.plain_n25_s0"}})
    curves = out / "curves" / "released"
    record = json.loads((curves / "mdrn.plain_n25_s0.json").read_text()) | {"id": "mdrn_rgb.plain_n25_s0"}
    (curves / "mdrn_rgb.plain_n25_s0.json").write_text(json.dumps(record))
    grey, colour = (figures.training_curves(frame, curves, "", kind) for kind in (False, True))
    assert (grey.name, colour.name) == ("training_curves", "training_curves_rgb")
    assert "mdrn_tiny.plain" in grey.svg.decode() and "rgb" not in grey.svg.decode()
    assert "mdrn_rgb.plain" in colour.svg.decode() and "tiny" not in colour.svg.decode()


def test_files_of_an_earlier_report_go_and_others_stay(out, monkeypatch):
    monkeypatch.setattr(report, "all_figures", lambda *_: [])
    (out / "figures").mkdir()
    report.write(out)
    (out / "figures" / "old.png").write_bytes(b"")
    (out / "tables" / "old.csv").write_text("")
    (out / "tables" / "notes.txt").write_text("mine")
    report.write(out)
    assert not (out / "figures" / "old.png").exists()
    assert not (out / "tables" / "old.csv").exists()
    assert (out / "tables" / "notes.txt").read_text() == "mine"


def test_plans_with_a_share_of_the_steps_are_compared_in_one_section(out):
    frame = pd.read_csv(out / rows.ROWS, keep_default_na=False)
    networks = frame[frame.plan != ""]
    shares = [networks.assign(plan=f"hmds_{n}", evaluation=networks.evaluation + f"_{n}") for n in (10, 30, 100)]
    for record in [*rows.read_evaluations(out / rows.EVALUATIONS).values()]:
        for share in (10, 30, 100):
            rows.append_evaluation(out / rows.EVALUATIONS, record | {"id": f"{record['id']}_{share}"})
    shares[0].loc[shares[0].method.str.contains("hmds"), "psnr"] += 0.5
    pd.concat([frame, *shares]).to_csv(out / rows.ROWS, index=False)
    loaded = results.load(out)
    assert loaded.shares == {"hmds_10": 10, "hmds_30": 30, "hmds_100": 100}
    lines = tables.by_share(loaded, "awgn").lines
    assert [line[0] for line in lines] == ["10 %", "30 %", "100 %"] * 2
    assert [line[6] for line in lines[:3]] == ["+0.575", "+0.075", "+0.075"]
    page = {path.name: path for path in report.write(out)}["README.md"].read_text()
    assert "## HMDS and the step budget" in page and "(figures/gain_by_share_awgn.png)" in page
    assert "Plan `hmds_" not in page and "## Released networks" in page


def test_distillation_table(out):
    text = tables.distillation(results.load(out), "released", "awgn").markdown()
    (line,) = [line for line in text.splitlines() if line.startswith("| `mdrn.hmds_n25`")]
    assert [cell.strip() for cell in line.split("|")][5:7] == ["31.70", "+0.075"]
    assert "s0 +0.075" in text


def test_without_networks_there_is_no_figure(out):
    text = (out / rows.ROWS).read_text().splitlines(keepends=True)
    (out / rows.ROWS).write_text("".join(line for line in text if line.startswith(("plan", ",noisy"))))
    loaded = results.load(out)
    assert figures.all_figures(loaded, out / "curves" / "released", "released", "awgn") == []
    assert tables.distillation(loaded, "released", "awgn") is None
