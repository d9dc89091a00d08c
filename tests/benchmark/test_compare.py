"""Paired comparisons: every image with itself, every seed with itself, an interval, and the right plain run."""

import numpy as np
import pytest
from synthetic import add

from benchmark import summary
from benchmark.compare import paired_bootstrap


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


def test_gains_pair_images_and_seeds(tmp_path):
    for method, psnr in {
        "mdrn.plain_n25_s0": {"01": 30.0, "02": 20.0},
        "mdrn.plain_n25_s1": {"01": 31.0, "02": 21.0},
        "mdrn.plain_n25_s2": {"01": 99.0, "02": 99.0},  # a seed that the other strategy lacks
        "mdrn.hmds_n25_s0": {"02": 20.3, "01": 30.1},
        "mdrn.hmds_n25_s1": {"01": 31.1, "02": 21.5},
        "mdrn_tiny.hmds_n25_s0": {"01": 29.0, "02": 19.0},  # no plain run of its size
    }.items():
        add(tmp_path, method, psnr)
    (gain,) = summary.load(tmp_path).gains.itertuples()
    assert (gain.size, gain.strategy, gain.set, gain.images) == ("mdrn", "hmds", "BSD68", 2)
    assert (gain.plain, gain.gain) == pytest.approx((25.5, 0.25))
    assert gain.seeds == "0:+0.200 1:+0.300"
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.4))


def test_only_runs_of_equal_length_are_compared(tmp_path):
    add(tmp_path, "mdrn.plain_n25_s0", [30.0, 31.0], steps=5000)
    add(tmp_path, "mdrn.hmds_n25_s0", [30.2, 31.2], steps=20_000)
    add(tmp_path, "mdrn_tiny.plain_n25_s0", [30.0, 31.0], steps=None)  # of unknown length
    add(tmp_path, "mdrn_tiny.hmds_n25_s0", [30.2, 31.2], steps=None)
    assert summary.load(tmp_path).gains.empty


def test_an_arm_is_compared_with_its_own_plain_run_or_else_with_the_usual_one(tmp_path):
    add(tmp_path, "mdrn.plain_n25_s0", [30.0, 31.0])
    add(tmp_path, "mdrn.hmds_n25_s0", [30.3, 31.3])
    add(tmp_path, "mdrn.hmds_n25_s0", [30.2, 31.2], arm="features")
    add(tmp_path, "mdrn.plain_n25_s0", [29.9, 30.9], arm="absolute error")
    add(tmp_path, "mdrn.hmds_n25_s0", [30.4, 31.4], arm="absolute error")
    found = {(g.strategy, g.arm): g.gain for g in summary.load(tmp_path).gains.itertuples()}
    expected = {("hmds", ""): 0.3, ("hmds", "features"): 0.2, ("hmds", "absolute error"): 0.5}
    assert found == pytest.approx(expected | {("plain", "absolute error"): -0.1})


def test_estimated_levels_are_no_strategy(tmp_path):
    for method in ("mdrn.plain_n0-75_s0", "mdrn.plain_n0-75_s0+auto"):
        add(tmp_path, method, [30.0, 31.0])
    assert summary.load(tmp_path).gains.empty


def test_strategies_with_an_underscore_are_told_from_levels():
    parts = summary.RUN_ID.match("mdrn_tiny_rgb.hmds_n_n50_s2")
    assert parts.group("size", "strategy", "trained", "seed") == ("mdrn_tiny_rgb", "hmds_n", "50", "2")
    assert summary.RUN_ID.match("mdrn.hmds_n50_s0")["strategy"] == "hmds"
    assert summary.RUN_ID.match("mdrn.plain_n0-75_s0")["trained"] == "0-75"
