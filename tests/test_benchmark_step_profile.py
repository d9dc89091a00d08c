"""What a training step spends its time on: shares of the whole, of real steps."""

import pandas as pd
import pytest

from benchmark import step_profile


def test_shares_are_of_the_whole_and_convolutions_lead():
    shares = step_profile.shares("mdrn", "cpu", steps=2)
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert max(shares, key=shares.get) == "convolution" and shares["optimizer and running mean"] > 0


def test_one_row_for_each_grey_network(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["step_profile", "--steps", "1", "--out", str(tmp_path)])
    assert step_profile.main() == 0
    assert pd.read_csv(tmp_path / "step_cpu.csv").network.tolist() == ["mdrn_tiny", "mdrn", "teacher"]
    assert "Convolutions are" in (tmp_path / "README.md").read_text()
