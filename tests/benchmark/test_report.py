"""Tables come from rows alone, the same rows give the same bytes, and every number is the mean it claims to be."""

import csv
import dataclasses
import math
import subprocess
import sys

import pytest

from benchmark import report, results, rows, tables
from benchmark.rows import Row, RowsError


def write_rows(out, method, psnr, *, level=25.0, evaluation, stages=1, plan="released", **changes):
    """Write a complete evaluation of two images; psnr maps image -> one value for each stage."""
    new = []
    for image, values in psnr.items():
        for stage, value in enumerate(values, start=1):
            last = stage == stages
            measured = {"psnr": value, "ssim": 0.8 if last else None, "lpips": None, "estimated_level": None}
            measured |= changes if last else {}
            weights = "w" if plan else ""
            key = Row(
                plan, method, "c", weights, "awgn", 0, level, "Set12", image, stage, stages, *[None] * 5, evaluation
            )
            new.append(dataclasses.replace(key, seconds=0.1 if last else None, **measured))
    record = {"id": evaluation, "images": len(psnr), "method": method}
    if plan:
        facts = {"parameters": 120_000, "gmacs_256": 0.5, "patches": 1000, "trained_on": {"sets": "bsds"}}
        facts |= {"trained_git": "abc", "weights": "w", "machine": "m", "device": "cpu", "threads": 1, "git": "abc"}
        record |= facts | {"versions": {"torch": "2"}, "trained_levels": [level, level]}
    rows.append_evaluation(out / rows.EVALUATIONS, record)
    rows.append(out / rows.ROWS, new)


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "all_figures", lambda *_: [])  # tested with the comparisons, and slow
    folder = tmp_path / "results"
    for level, evaluation in ((25.0, "n25"), (50.0, "n50")):
        write_rows(folder, "noisy", {"01": [20.0], "02": [21.0]}, level=level, evaluation=evaluation, plan="")
    psnr = {"01": [27.0, 30.0], "02": [28.0, 31.0]}
    write_rows(folder, "mdrn.plain_n25_s0", psnr, evaluation="e25", stages=2)
    write_rows(
        folder, "mdrn.plain_n50_s0", {"01": [24.0, 26.0], "02": [25.0, 27.5]}, level=50.0, evaluation="e50", stages=2
    )
    write_rows(folder, "mdrn.plain_n0-75_s0", psnr, evaluation="r25", stages=2)
    auto = {"01": [27.0, 29.9], "02": [28.0, 30.8]}
    write_rows(folder, "mdrn.plain_n0-75_s0+auto", auto, evaluation="a25", stages=2, estimated_level=26.0)
    levels = {"01": [None], "02": [None]}
    write_rows(folder, rows.ESTIMATOR, levels, evaluation="s25", plan="", estimated_level=24.5, ssim=None)
    speed = rows.SpeedRow(
        "r", "DnCNN", 555_137, 145.3, "contiguous", 512, 1000.0, 990.0, 5, "cpu", "m", 2, "2", "g", "t"
    )
    tiny = {"network": "mdrn_tiny", "parameters": 120_000, "gmacs": 1.9, "milliseconds": 20.0}
    fast = dataclasses.replace(speed, **tiny, memory_format="channels_last")
    slow = dataclasses.replace(fast, memory_format="contiguous", milliseconds=30.0)
    rows.append(folder / rows.SPEED, [speed, slow, fast], rows.SpeedRow)
    return folder


def cells(markdown: str, start: str) -> list[str]:
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_quality_table(out):
    table = tables.quality(results.load(out), "released", "awgn", "Set12")
    text = table.markdown()
    assert cells(text, "`noisy`") == ["`noisy`", "–", "20.50 / 0.8000", "20.50 / 0.8000"]
    assert cells(text, "`mdrn.plain_n*_s0`")[1:] == ["0.120 M", "30.50 / 0.8000", "26.75 / 0.8000"]
    assert cells(text, "`mdrn.plain_n0-75_s0`")[2:] == ["30.50 / 0.8000", "–"]
    assert cells(text, "DnCNN-S") == ["DnCNN-S 2017, *as published* [a]", "0.555 M", "30.44", "27.18"]
    assert "Protocol `awgn`" in text
    assert "SwinIR repo" in text
    lines = list(csv.DictReader(table.csv().splitlines()))
    assert lines[0] | {"level 25 PSNR": "20.50", "level 50 SSIM": "0.8000"} == lines[0]
    assert any(line["method"] == "DnCNN-S 2017, as published [a]" for line in lines)
    assert r"\emph{as published}" in table.latex()
    assert "mdrn.plain\\_n*\\_s0" in table.latex()


def test_published_numbers_stay_out_of_clip8(out):
    text = (out / rows.ROWS).read_text().replace(",awgn,", ",clip8,")
    (out / rows.ROWS).write_text(text)
    table = tables.quality(results.load(out), "released", "clip8", "Set12")
    assert "as published" not in table.markdown()
    assert "Not comparable" in table.markdown()


def test_stage_table(out):
    text = tables.stages(results.load(out), "released", "awgn").markdown()
    assert cells(text, "`mdrn.plain_n50_s0`")[1:] == ["Set12", "50", "20.50", "24.50", "26.75"]


def test_auto_table(out):
    text = tables.known_or_estimated(results.load(out), "released", "awgn").markdown()
    assert cells(text, "`mdrn")[3:] == ["30.50", "30.35", "0.15", "0.20", "+1.00", "1.00"]


def test_estimator_table(out):
    text = tables.estimator(results.load(out), "awgn").markdown()
    assert cells(text, "Set12") == ["Set12", "25", "-0.50", "0.50", "-0.50 (01)"]


def test_speed_table_takes_the_faster_format(out):
    (table,) = tables.speed(results.load(out))
    assert cells(table.markdown(), "mdrn_tiny")[3:] == ["channels_last", "20", "0.020", "–", "13.11", "–"]


def test_newer_weights_replace_older_in_tables(out):
    newer = {"01": [27.0, 31.0], "02": [28.0, 32.0]}
    write_rows(out, "mdrn.plain_n25_s0", newer, evaluation="later", stages=2)
    text = tables.quality(results.load(out), "released", "awgn", "Set12").markdown()
    assert cells(text, "`mdrn.plain_n*_s0`")[2] == "31.50 / 0.8000"


def test_an_incomplete_evaluation_is_refused(out):
    lines = (out / rows.ROWS).read_text().splitlines(keepends=True)
    (out / rows.ROWS).write_text("".join(lines[:-1]))
    with pytest.raises(RowsError, match="expected 2 images of estimate_noise_level on Set12"):
        results.load(out)


def test_a_row_without_its_record_is_refused(out):
    lines = (out / rows.EVALUATIONS).read_text().splitlines(keepends=True)
    (out / rows.EVALUATIONS).write_text("".join(line for line in lines if '"e50"' not in line))
    with pytest.raises(RowsError, match="expected a record e50"):
        results.load(out)


def generated(out) -> dict[str, bytes]:
    sources = (rows.ROWS, rows.EVALUATIONS, rows.SPEED)
    files = (p for p in out.rglob("*") if p.is_file() and p.name not in sources and p.suffix != ".lock")
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def test_the_same_rows_give_the_same_bytes(out):
    report.write(out)
    first = generated(out)
    assert "README.md" in first
    for name in first:
        (out / name).unlink()
    report.write(out)
    assert generated(out) == first


def test_order_of_rows_does_not_matter_within_an_evaluation(out):
    report.write(out)
    first = generated(out)
    header, *lines = (out / rows.ROWS).read_text().splitlines(keepends=True)
    (out / rows.ROWS).write_text(header + "".join(sorted(lines, key=lambda line: line.split(",")[8], reverse=True)))
    report.write(out)
    assert generated(out) == first


def test_no_rows_give_a_page_without_tables(tmp_path):
    assert report.write(tmp_path) == [tmp_path / "README.md"]
    assert "##" not in (tmp_path / "README.md").read_text()[2:]


def test_a_report_needs_no_torch():
    code = "import sys, benchmark.report, benchmark.run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_lines_of_methods():
    assert results.line_of("mdrn_tiny_rgb.hmds_c_n25_s3") == "mdrn_tiny_rgb.hmds_c_n*_s3"
    assert results.line_of("mdrn.plain_n0-75_s0") == "mdrn.plain_n0-75_s0"
    assert sorted(["mdrn.plain_n*_s0", "noisy", "wavelet"], key=results.order_of)[0] == "noisy"


def test_published_numbers_are_complete():
    frame = results.published()
    assert not frame.duplicated(["method", "set", "level"]).any()
    assert not frame[["method", "set", "level", "psnr", "source"]].isna().any().any()
    assert not any(math.isinf(value) for value in frame.psnr)
