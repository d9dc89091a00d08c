"""The speed command measures every network in both formats, and prints and keeps what it found."""

import pytest

from benchmark import rows, speed


def test_rows_and_ratios(tmp_path, capsys):
    assert speed.main(["--size", "32", "--repeats", "2", "--quiet", "--out", str(tmp_path)]) == 0
    written = rows.read(tmp_path / rows.SPEED, rows.SpeedRow)
    assert {row.network for row in written} == {"DnCNN", "FFDNet", "mdrn", "mdrn_tiny"}
    assert len(written) == 8
    assert {row.memory_format for row in written} == {"contiguous", "channels_last"}
    assert all(0 < row.fastest <= row.milliseconds for row in written)
    assert len({row.run for row in written}) == 1
    said = capsys.readouterr().out
    assert "| network | parameters | GMACs | memory format | ms (median) | / DnCNN | / FFDNet |" in said
    (line,) = [line for line in said.splitlines() if line.startswith("| DnCNN")]
    assert line.split("|")[6].strip() == "1.000"


@pytest.mark.parametrize("arguments", [["--size", "4"], ["--repeats", "0"], ["--size", "big"], ["--device", "abacus"]])
def test_mistakes_give_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_file_is_left_alone(tmp_path, capsys):
    (tmp_path / rows.SPEED).write_text("run,network\nhalf")
    with pytest.raises(SystemExit) as stop:
        speed.main(["--size", "16", "--repeats", "1", "--quiet", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "speed.csv, line 2" in capsys.readouterr().err
    assert (tmp_path / rows.SPEED).read_text() == "run,network\nhalf"
