"""Rows only grow, are written whole, and a damaged file is refused and left alone."""

import dataclasses
import threading

import pytest

from benchmark import rows
from benchmark.rows import Row, RowsError


def row(**changes) -> Row:
    fields = {
        "plan": "released",
        "method": "mdrn.plain_n25_s0",
        "config": "c",
        "weights": "w1",
        "protocol": "awgn",
        "noise_seed": 0,
        "noise_level": 25.0,
        "set": "Set12",
        "image": "01",
        "stage": 1,
        "stages": 1,
        "psnr": 30.125,
        "ssim": 0.86172,
        "lpips": None,
        "estimated_level": None,
        "seconds": 0.5,
        "evaluation": "e1",
    }
    return Row(**(fields | changes))


def test_rows_come_back_as_they_went(tmp_path):
    path = tmp_path / "deep" / rows.ROWS
    first, second = row(), row(image="02", lpips=0.125, psnr=float("inf"))
    rows.append(path, [first])
    before = path.read_text()
    rows.append(path, [second])
    assert path.read_text().startswith(before)
    assert rows.read(path) == [first, second]
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_a_missing_metric_is_empty_not_zero(tmp_path):
    rows.append(tmp_path / rows.ROWS, [row(lpips=None)])
    assert ",0.86172,,," in (tmp_path / rows.ROWS).read_text()
    assert rows.read(tmp_path / rows.ROWS)[0].lpips is None


def cut(text: str) -> str:
    return text[:-5]


DAMAGE = {
    "cut short": cut,
    "empty": lambda text: "",
    "other header": lambda text: text.replace("psnr", "snr", 1),
    "a field less": lambda text: text.replace("mdrn.plain_n25_s0,", ""),
    "no number": lambda text: text.replace("30.1250", "thirty"),
    "not a number": lambda text: text.replace("30.1250", "nan"),
    "blank line": lambda text: text + "\n",
    "merge conflict": lambda text: text + "<<<<<<< HEAD\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_not_overwritten(tmp_path, damage):
    path = tmp_path / rows.ROWS
    rows.append(path, [row()])
    path.write_text(DAMAGE[damage](path.read_text()))
    damaged = path.read_bytes()
    for action in (lambda: rows.read(path), lambda: rows.append(path, [row()])):
        with pytest.raises(RowsError, match=r"rows.csv, line \d") as caught:
            action()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / rows.ROWS
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(RowsError):
        rows.read(path)


def test_a_damaged_record_is_refused(tmp_path):
    path = tmp_path / rows.EVALUATIONS
    rows.append_evaluation(path, {"id": "e1"})
    path.write_text(path.read_text() + '{"id": "e2"')
    with pytest.raises(RowsError, match="line 2"):
        rows.append_evaluation(path, {"id": "e3"})
    assert path.read_text().endswith('{"id": "e2"')


def test_a_full_disk_leaves_the_old_rows(tmp_path, monkeypatch):
    path = tmp_path / rows.ROWS
    rows.append(path, [row()])
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        rows.append(path, [row(image="02")])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_the_newest_evaluation_counts():
    old = [row(), row(image="02")]
    other = row(set="BSD68", evaluation="e3")
    new = [row(weights="w2", evaluation="e2"), row(weights="w2", evaluation="e2", image="02")]
    assert rows.newest([*old, other, *new]) == [other, *new]
    assert rows.newest([*new, *old]) == old  # newest is what was written last
    assert len(rows.newest([*old, dataclasses.replace(old[0], noise_level=50.0, evaluation="e4")])) == 3


def test_two_writers_lose_nothing(tmp_path):
    path = tmp_path / rows.ROWS

    def write(start: int) -> None:
        for index in range(start, start + 10):
            rows.append(path, [row(image=str(index))])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(r.image) for r in rows.read(path)) == list(range(20))
