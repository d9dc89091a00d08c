"""Rows are written whole, a damaged file is refused and left alone, and a newer evaluation takes the older's place."""

import dataclasses
import threading

import pytest

from benchmark import rows
from benchmark.rows import Evaluation, Row
from mdrn.denoiser import MdrnError
from mdrn.files import writing

FILE = "rows.csv"


def row(**changes) -> Row:
    return dataclasses.replace(Row("e1", "01", psnr=30.125, ssim=0.8617, stages="27.125"), **changes)


def evaluation(**changes) -> Evaluation:
    fields = {f.name: "" for f in dataclasses.fields(Evaluation)} | {
        "id": "e1",
        "plan": "study",
        "method": "mdrn.plain_n25_s0",
        "steps": 5000,
        "set": "Set12",
        "level": 25.0,
        "protocol": "awgn",
        "noise_seed": 0,
        "weights": "w1",
        "images": 2,
        "parameters": 1000,
        "gmacs": 0.5,
        "seconds": 1.5,
    }
    return Evaluation(**(fields | changes))


def test_rows_come_back_as_they_went(tmp_path):
    path = tmp_path / "deep" / FILE
    first, second = row(), row(image="02", lpips=0.125, psnr=float("inf"))
    rows.append(path, [first], Row)
    before = path.read_text()
    rows.append(path, [second], Row)
    assert path.read_text().startswith(before)
    assert rows.read(path, Row) == [first, second]
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_a_missing_metric_is_empty_not_zero(tmp_path):
    rows.append(tmp_path / FILE, [row(lpips=None)], Row)
    assert ",0.8617,,," in (tmp_path / FILE).read_text()
    assert rows.read(tmp_path / FILE, Row)[0].lpips is None


def cut(text: str) -> str:
    return text[:-5]


DAMAGE = {
    "cut short": cut,
    "empty": lambda text: "",
    "other header": lambda text: text.replace("psnr", "snr", 1),
    "a field less": lambda text: text.replace("e1,", ""),
    "no number": lambda text: text.replace("30.125", "thirty"),
    "not a number": lambda text: text.replace("30.125", "nan"),
    "blank line": lambda text: text + "\n",
    "merge conflict": lambda text: text + "<<<<<<< HEAD\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_not_overwritten(tmp_path, damage):
    path = tmp_path / FILE
    rows.append(path, [row()], Row)
    path.write_text(DAMAGE[damage](path.read_text()))
    damaged = path.read_bytes()
    for action in (lambda: rows.read(path, Row), lambda: rows.append(path, [row()], Row)):
        with pytest.raises(MdrnError, match=r"rows.csv, line \d") as caught:
            action()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / FILE
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(MdrnError, match="expected UTF-8 text"):
        rows.read(path, Row)


def test_a_full_disk_leaves_the_old_rows(tmp_path, monkeypatch):
    path = tmp_path / FILE
    rows.append(path, [row()], Row)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        rows.append(path, [row(image="02")], Row)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def in_folder(out) -> tuple[list[str], list[tuple[str, str]]]:
    found = rows.read(rows.rows_path(out, "study"), Row)
    return [e.id for e in rows.read_evaluations(out)], [(r.evaluation, r.image) for r in found]


def test_a_newer_evaluation_takes_the_place_of_the_older_one(tmp_path):
    rows.add_evaluation(tmp_path, evaluation(), [row(), row(image="02")])
    elsewhere = [row(evaluation="e2", image=name) for name in ("a", "b")]
    rows.add_evaluation(tmp_path, evaluation(id="e2", set="BSD68"), elsewhere)
    rows.add_evaluation(tmp_path, evaluation(id="e3", steps=1250), [row(evaluation="e3")])
    assert in_folder(tmp_path)[0] == ["e1", "e2", "e3"]
    rows.add_evaluation(tmp_path, evaluation(id="e4", weights="w2"), [row(evaluation="e4")])
    assert in_folder(tmp_path) == (["e2", "e3", "e4"], [("e2", "a"), ("e2", "b"), ("e3", "01"), ("e4", "01")])


def test_rows_are_of_the_weights_whatever_the_header_says():
    """A rewritten header changes no tensor, so it makes nothing stale: weights and code tell measurements apart."""
    same = evaluation(id="e9", start="later", git="other", torch="other", seconds=9.0)
    assert same.identity == evaluation().identity
    assert evaluation(weights="w2").identity != evaluation().identity
    assert evaluation(code="changed").identity != evaluation().identity


def test_two_writers_lose_nothing(tmp_path):
    def write(start: int) -> None:
        for index in range(start, start + 10):
            new = evaluation(id=f"e{index}", level=float(index))
            rows.add_evaluation(tmp_path, new, [row(evaluation=new.id)])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids, found = in_folder(tmp_path)
    assert set(ids) == {f"e{n}" for n in range(20)} == {evaluation for evaluation, _ in found}


def test_a_released_name_is_one_network_however_long_it_was_trained():
    old, new = evaluation(plan="release", steps=None), evaluation(plan="release", steps=40_000)
    assert old.place == new.place and old.identity != new.identity
    assert evaluation(plan="hmds", steps=1_250).place != evaluation(plan="hmds", steps=5_000).place
