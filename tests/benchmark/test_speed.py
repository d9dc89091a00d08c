"""The speed command measures every denoiser in its formats, and prints and keeps what it found."""

import math
import time

import pytest
import torch

from benchmark import figures, rows, speed, summary, tables
from mdrn.model import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
NETWORKS = {"DnCNN", "FFDNet", *PRESETS}


@pytest.fixture
def one_thread():
    """Tiny images on several threads wait for each other most of the time when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_rows_ratios_and_memory(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "_MIN_SECONDS", 0.001)
    monkeypatch.setattr(speed, "peak_of", lambda name, kind, size: 12.5)
    quick = {name: denoiser for name, denoiser in speed.classical().items() if name != "bm3d"}
    monkeypatch.setattr(speed, "classical", lambda: quick)
    assert speed.main(["--sizes", "32", "48", "--repeats", "2", "--quiet", "--out", str(tmp_path)]) == 0
    written = rows.read(tmp_path / rows.SPEED, rows.SpeedRow)
    assert {row.network for row in written} >= NETWORKS | {"non_local_means", "wavelet"}
    for size in (32, 48):
        networks = [row for row in written if row.network in NETWORKS and row.size == size]
        assert len(networks) == 2 * len(NETWORKS)
        assert {row.memory_format for row in networks} == {"contiguous", "channels_last"}
    assert all(0 < row.fastest <= row.milliseconds for row in written)
    assert len({row.run for row in written}) == 1
    fastest = {(row.network, row.size): row for row in sorted(written, key=lambda row: -row.milliseconds)}
    assert all((row.peak_mib == 12.5) == (fastest[row.network, row.size] is row) for row in written)
    said = capsys.readouterr().out
    columns = "parameters | GMACs | memory format | ms (median) | / DnCNN | / FFDNet | MP/s | peak MiB |"
    assert f"| denoiser | {columns}" in said
    line = next(line for line in said.splitlines() if line.startswith("| DnCNN"))
    assert line.split("|")[6].strip() == "1.000"
    line = next(line for line in said.splitlines() if line.startswith("| wavelet"))
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["–", "–", "–"]
    figure = figures.throughput(summary.load(tmp_path))
    assert figure.name == "speed_against_image_size" and figure.png.startswith(b"\x89PNG")
    monkeypatch.setattr(speed, "measure", lambda *_: [row for row in written if row.size == 48])
    assert speed.main(["--sizes", "48", "--repeats", "1", "--quiet", "--out", str(tmp_path)]) == 0
    again = rows.read(tmp_path / rows.SPEED, rows.SpeedRow)
    assert {row.size for row in again} == {32, 48} and len(again) == len(written)  # the newest run of a size


def test_large_images_go_through_tiles_and_slow_denoisers_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "WHOLE", 48)
    tiles = []
    real = speed.restore
    monkeypatch.setattr(speed, "restore", lambda image, *a, **o: tiles.append(image.shape) or real(image, *a, **o))
    models = speed.networks()
    chosen = {"DnCNN": models["DnCNN"], "mdrn_tiny": models["mdrn_tiny"], "slow": lambda noisy, sigma: slow(noisy)}

    def slow(noisy):
        assert noisy.shape[-1] < 64
        return noisy

    monkeypatch.setattr(speed, "_PROBE", 32)
    seconds = iter([0.0, 0.0, 0.0, 0.0, 0.0, 9.0])
    real_seconds = speed.seconds_of

    def timed(call, device):
        measured = real_seconds(call, device)
        return next(seconds, measured)

    monkeypatch.setattr(speed, "seconds_of", timed)
    measured = {row.network: row for row in speed.measure(chosen, 64, repeats=5, limit=10.0)}
    assert measured["slow"].milliseconds is None and measured["slow"].repeats == 0
    assert measured["mdrn_tiny"].memory_format == "channels_last" and measured["mdrn_tiny"].repeats == 3
    assert set(tiles) == {(64, 64, 1)}
    rows.write(tmp_path / rows.SPEED, measured.values(), rows.SpeedRow)
    (table,) = tables.speed(summary.load(tmp_path))
    (line,) = [line for line in table.lines if line[0] == "slow"]
    assert line[4:] == ("–",) * 5 and any("longer than the limit" in note for note in table.notes)


def test_bm3d_is_compared_where_it_is_installed():
    pytest.importorskip("bm3d", reason="run `pip install bm3d` to run this test")
    (restored,) = speed.classical()["bm3d"](torch.rand(1, 1, 16, 17), 0.1)
    assert restored.shape == (1, 1, 16, 17)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    peaks = {size: speed.peak_of("DnCNN", "contiguous", size) for size in (64, 256)}
    assert 2 * 64 * 256**2 * 4 / 2**20 * 0.9 < peaks[256] < 150 and peaks[64] < peaks[256] / 4


def test_other_networks_can_be_measured():
    networks = {"one": speed.networks()["mdrn_tiny"]}
    (first, second) = speed.measure(networks, size=32, repeats=1)
    assert {first.memory_format, second.memory_format} == set(speed.FORMATS) and first.peak_mib is None
    assert math.isfinite(first.milliseconds) and torch.is_inference_mode_enabled() is False
    assert next(networks["one"].parameters()).is_contiguous()  # the formats are tried on copies


def test_a_short_call_is_repeated_and_its_set_up_not_timed():
    calls = []
    seconds = speed._seconds(lambda: calls.append(time.sleep(0.02 if calls else 0.2)), "cpu")
    assert 0.02 <= seconds < 0.1 and len(calls) >= 5


@pytest.mark.parametrize(
    "arguments", [["--sizes", "4"], ["--repeats", "0"], ["--sizes", "big"], ["--device", "abacus"]]
)
def test_mistakes_give_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_file_is_left_alone(tmp_path, capsys):
    (tmp_path / rows.SPEED).write_text("run,network\nhalf")
    with pytest.raises(SystemExit) as stop:
        speed.main(["--sizes", "16", "--repeats", "1", "--quiet", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "speed.csv, line 2" in capsys.readouterr().err
    assert (tmp_path / rows.SPEED).read_text() == "run,network\nhalf"
