import itertools

import camera_noise
import numpy as np
import pytest


def photograph_with(noise):
    clean = np.full((160, 160, 3), 100, np.uint8)
    return clean, np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)


def test_statistics_of_white_and_of_blotched_noise():
    rng = np.random.default_rng(0)
    white = camera_noise.statistics(*photograph_with(rng.normal(0, 10, (160, 160, 3))))
    blotched = camera_noise.statistics(*photograph_with(np.kron(rng.normal(0, 10, (40, 40, 3)), np.ones((4, 4, 1)))))
    assert white["spectrum"][1] == pytest.approx(np.ones(16), abs=0.15)
    assert blotched["spectrum"][1][0] > 4 and blotched["spectrum"][1][-1] < 0.2
    for name in ("autocorrelation, brightness", "autocorrelation, colour"):
        assert white[name][1] == pytest.approx(np.eye(9)[0], abs=0.05)
        assert blotched[name][1] == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0], abs=0.1)
    brightness, deviation = white["deviation by brightness"]
    assert deviation[brightness == 112] == pytest.approx(1, abs=0.02) and np.isnan(deviation[brightness == 240]).all()


def test_the_figure_is_drawn_with_the_same_bytes_each_time():
    pairs = list(itertools.islice(camera_noise.synthetic_pairs(None), 2))
    summary = camera_noise.summarise([camera_noise.statistics(*pair) for pair in pairs])
    drawn = [camera_noise.draw({camera_noise.REAL: summary, camera_noise.SYNTHETIC: summary}) for _ in range(2)]
    assert drawn[0].startswith(b"\x89PNG") and drawn[0] == drawn[1]


def test_without_data_it_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["camera_noise", "--data-root", str(tmp_path), "--out", str(tmp_path)])
    assert camera_noise.main() == 2 and "PolyU" in capsys.readouterr().err
