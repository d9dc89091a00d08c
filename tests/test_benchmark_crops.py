"""Crops: of the right networks, with the PSNR of the whole image, made once and drawn the same every time."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from benchmark import crops, gallery, methods, testsets
from benchmark.evaluate import Conditions, evaluate
from mdrn import checkpoint
from tests.conftest import header_for, small_network


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Two sizes at two levels, plain and distilled, and a network for a range."""
    monkeypatch.setattr(methods, "cost", lambda *_: {})
    found = []
    for index, name in enumerate(
        ("a.plain_n25_s0", "a.hmds_n25_s0", "a.hmds_c_n25_s0", "a.plain_n50_s0", "b.plain_n25_s0", "b.plain_n25_s1")
    ):
        level = 50.0 if "n50" in name else 25.0
        network = small_network(widths=(8, 8, 8 + 8 * index))
        path = tmp_path / f"{name}.safetensors"
        checkpoint.write_weights(path, network, header_for(network, id=name, noise_level=(level, level)))
        found.append(methods.network(path, "test"))
    ranged = small_network(widths=(8, 8, 8))
    path = tmp_path / "a.plain_n0-75_s0.safetensors"
    checkpoint.write_weights(path, ranged, header_for(ranged, id="a.plain_n0-75_s0"))
    return [*found, *methods.networks([path], "test")]


def test_the_level_with_most_sizes_is_shown_plain_before_distilled(trained):
    level, shown = crops.choose(trained, (25.0, 50.0))
    assert level == 25.0
    assert [method.name for method in shown] == ["a.plain_n25_s0", "a.hmds_n25_s0", "b.plain_n25_s0"]
    level, shown = crops.choose([m for m in trained if m.name.startswith("a.")], (15.0, 25.0, 50.0))
    assert (level, [method.name for method in shown]) == (50.0, ["a.plain_n50_s0"])
    assert crops.choose([], (25.0,)) == (25.0, [])


def test_crops_are_kept_once_and_again_when_weights_change(trained, tmp_path):
    folder, conditions = tmp_path / "crops", Conditions()
    crops.write(trained, (25.0,), "test", conditions, folder)
    path = folder / "test_awgn.json"
    record = json.loads(path.read_text())
    names = ["clean", "noisy", "non_local_means", "a.plain_n25_s0", "a.hmds_n25_s0", "b.plain_n25_s0"]
    assert [panel["method"] for panel in record["panels"]] == names
    strip = np.asarray(Image.open(path.with_suffix(".png")))
    camera = testsets.load("samples").images["camera"]
    assert strip.shape == (160, 160 * 6)
    assert np.array_equal(strip[:, :160], camera[crops.CROP])
    whole = testsets.TestSet("camera", 1, {"camera": camera})
    _, rows = evaluate(trained[0], whole, 25.0, conditions)
    assert record["panels"][3]["psnr"] == pytest.approx(rows[-1].psnr, abs=1e-3)
    path.with_suffix(".png").write_bytes(b"kept")
    crops.write(trained, (25.0,), "test", conditions, folder)
    assert path.with_suffix(".png").read_bytes() == b"kept"
    changed = [dataclasses.replace(trained[0], weights="other"), *trained[1:]]
    crops.write(changed, (25.0,), "test", conditions, folder)
    assert path.with_suffix(".png").read_bytes() != b"kept"


def test_the_figure_is_the_same_every_time(trained, tmp_path):
    assert gallery.crops(tmp_path, "test", "awgn", "") is None
    crops.write(trained, (25.0,), "test", Conditions(), tmp_path)
    first, second = (gallery.crops(tmp_path, "test", "awgn", "_test") for _ in range(2))
    assert first == second
    assert first.name == "crops_awgn_test"
    assert "level 25" in first.caption
