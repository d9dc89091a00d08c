"""The report: tables and pages come from the tidy tables alone, and every number is the mean it claims to be."""

import pytest
from synthetic import add, add_speed, add_study

from benchmark import report, rows, summary, tables
from mdrn.denoiser import MdrnError


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "results"
    for level, psnr in ((25.0, [20.0, 21.0]), (50.0, [14.0, 15.0])):
        add(folder, "noisy", psnr, set_name="Set12", level=level, ssim=0.8)
    stages = {"ssim": 0.8, "stages": "27.500"}
    add(folder, "mdrn.plain_n25_s0", [30.0, 31.0], set_name="Set12", **stages)
    add(folder, "mdrn.plain_n50_s0", [26.0, 27.5], set_name="Set12", level=50.0, **stages)
    add(folder, "mdrn.plain_n0-75_s0", [30.0, 31.0], set_name="Set12", **stages)
    add(folder, "mdrn.plain_n0-75_s0+auto", [29.9, 30.8], set_name="Set12", estimated=26.0, **stages)
    levels = {"01": None, "02": None}
    add(folder, rows.ESTIMATOR, levels, estimated=24.5)
    add_speed(folder, DnCNN=1000.0, FFDNet=200.0, mdrn=70.0)
    return folder


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def quality(out, protocol="awgn") -> tables.Table:
    return tables.quality(summary.load(out), "release", "Set12", protocol)


def test_quality_table(out):
    table = quality(out)
    text = table.markdown()
    assert cells(text, "`noisy`") == ["`noisy`", "–", "20.50 / 0.8000", "14.50 / 0.8000"]
    assert cells(text, "`mdrn.plain_n*_s0`")[1:] == ["0.100 M", "30.50 / 0.8000", "26.75 / 0.8000"]
    assert cells(text, "`mdrn.plain_n0-75_s0`")[2:] == ["30.50 / 0.8000", "–"]
    assert cells(text, "DnCNN-S") == ["DnCNN-S 2017, *as published*", "0.555 M", "30.44", "27.18"]
    assert "Protocol `awgn`" in text and "SwinIR repo" in text and "`+auto`" in text
    assert r"\emph{as published}" in table.latex()
    assert r"mdrn.plain\_n*\_s0" in table.latex()


def test_published_numbers_stay_out_of_clip8(out):
    add(out, "mdrn.plain_n25_s0", [30.0, 31.0], set_name="Set12", protocol="clip8")
    text = quality(out, "clip8").markdown()
    assert "as published" not in text and "Not comparable" in text


def test_seeds_share_a_line_and_lengths_do_not(out):
    for seed, steps, psnr in ((0, 5000, 30.0), (1, 5000, 31.0), (0, 20_000, 33.0)):
        add(out, f"mdrn.hmds_n25_s{seed}", [psnr, psnr], set_name="Set12", steps=steps, plan="study")
    text = tables.quality(summary.load(out), "study", "Set12", "awgn").markdown()
    assert cells(text, "`mdrn.hmds_n*_s*@5,000`")[2] == "30.50"
    assert cells(text, "`mdrn.hmds_n*_s0@20,000`")[2] == "33.00"


def test_stage_table(out):
    text = tables.stages(summary.load(out)).markdown()
    assert cells(text, "`mdrn.plain_n50_s0`")[1:] == ["Set12", "50", "14.50", "27.50", "26.75"]


def test_known_or_estimated_table(out):
    text = tables.known_or_estimated(summary.load(out)).markdown()
    assert cells(text, "`mdrn")[3:] == ["30.50", "30.35", "0.15", "+1.00", "1.00"]


def test_estimator_table(out):
    assert cells(tables.estimator(summary.load(out)).markdown(), "BSD68") == ["BSD68", "awgn", "25", "-0.50", "0.50"]


def test_speed_table_takes_the_faster_format(out):
    slow = rows.read(out / rows.SPEED, rows.SpeedRow)[-1]
    fast = rows.SpeedRow(**vars(slow) | {"memory_format": "channels_last", "milliseconds": 50.0})
    rows.append(out / rows.SPEED, [fast], rows.SpeedRow)
    (table,) = tables.speed(summary.load(out))
    assert cells(table.markdown(), "mdrn")[3:] == ["channels_last", "50", "0.050", "0.250", "5.24", "–"]


def test_photographs_have_a_table_without_levels(out):
    shared = {"set_name": "PolyU", "level": None, "protocol": "camera"}
    add(out, "noisy", [35.0, 36.0], **shared)
    add(out, "mdrn_rgb.plain_n0-75_s0+auto", [37.0, 38.0], ssim=0.95, lpips=0.125, estimated=8.0, **shared)
    results = summary.load(out)
    text = tables.photographs(results, "PolyU").markdown()
    assert cells(text, "`noisy`")[2:] == ["35.50", "–", "–", "–", "–"]
    assert cells(text, "`mdrn_rgb")[1:] == ["0.100 M", "37.50", "0.9500", "0.125", "8.0", "–"]
    report.write(out)
    assert "`mdrn_rgb.plain_n0-75_s0+auto`" in (out / "README.md").read_text()


def test_times_are_those_of_a_network_of_this_size(out):
    add(out, "mdrn.plain_n0-75_s1", [30.0, 31.0], set_name="Set12", parameters=200_000)  # an older architecture
    known = summary.load(out).summary.set_index("method").ms_512
    assert known["mdrn.plain_n25_s0"] == 70.0
    assert known[["mdrn.plain_n0-75_s1", "noisy"]].isna().all()
    assert (known["FFDNet"] == 200.0).all()


def test_the_summary_has_every_number_once(out):
    add_study(out)
    report.write(out)
    results = summary.load(out)
    lines = (out / summary.SUMMARY).read_text().splitlines()
    assert lines[0] == ",".join(summary.COLUMNS)
    assert len(lines) - 1 == len(results.evaluations) + (results.summary.plan == "published").sum()
    line = next(line for line in lines if line.startswith("release,mdrn.plain_n0-75_s0,"))
    expected = "release,mdrn.plain_n0-75_s0,mdrn,plain,0-75,0,,5000,Set12,25,awgn,0,2,30.500,0.8000,,,,27.500,100000"
    assert line == f"{expected},0.500,70.0,w,"
    gains = (out / summary.GAINS).read_text().splitlines()
    assert gains[1].startswith("hmds,mdrn_tiny,hmds,15,,5000,BSD68,15,awgn,6,32.500,32.52")


def test_an_incomplete_evaluation_is_refused(out):
    path = rows.rows_path(out, "release")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(MdrnError, match=r"expected 2 images of mdrn.plain_n0-75_s0\+auto on Set12"):
        summary.load(out)


def test_rows_that_no_evaluation_names_do_not_count(out):
    before = summary.load(out).summary
    rows.append(rows.rows_path(out, "release"), [rows.Row("lost", "01", 99.0)], rows.Row)
    assert summary.load(out).summary.equals(before)


def test_what_hmds_gives_is_said_in_three_sentences_from_the_rows(out):
    assert "`python -m benchmark.run --preset hmds`" in report.hmds_in_words(summary.load(out))
    add_study(out)
    words = report.hmds_in_words(summary.load(out))
    assert words.startswith(
        "On BSD68, after 5,000 steps from scratch with squared error, `hmds` is worth +0.060 dB (+0.060 to +0.060) for "
        "`mdrn_tiny` at level 50, "
    )
    assert "+0.080 dB (+0.080 to +0.080) for `mdrn_tiny` after 1,250" in words
    assert "plain training needs 2.3 times the 5,000 steps" in words
    assert "`mdrn_tiny` (one seed) at level 25" in words and words.count(". ") == 2


def generated(out) -> dict[str, bytes]:
    kinds = (".md", ".tex", ".png")
    made = [p for p in out.rglob("*") if p.suffix in kinds or p.name in (summary.SUMMARY, summary.GAINS)]
    return {str(p.relative_to(out)): p.read_bytes() for p in made}


def test_the_same_rows_give_the_same_bytes_and_what_is_no_longer_made_goes(out):
    add_study(out)
    report.write(out)
    first = generated(out)
    for name in ("tables/old.csv", "tables/old.tex", "figures/old.svg"):
        (out / name).write_text("old")
    report.write(out)
    assert generated(out) == first
    assert not list(out.rglob("old.*"))
    pages = {"quality", "distillation", "noise_level", "training", "speed"}
    assert {f"tables/{name}.md" for name in pages} <= set(first)
    text = first["README.md"].decode()
    assert all(f"(tables/{name}.md)" in text for name in pages)
    assert text.count("![") == 3 and len(text.splitlines()) < 80


def test_the_main_tables_have_means_and_what_others_printed(out):
    add(out, "mdrn_rgb.plain_n0-75_s0", [30.0, 30.2], set_name="CBSD68")
    grey, colour, note = report.white_noise(summary.load(out)).split("\n\n")
    assert "| `mdrn.plain_n*_s0` | 0.100 M | 70 | – / 30.50 / 26.75 | – | – |" in grey
    assert "mdrn_rgb" not in grey and "| DnCNN-S 2017, *as published* | 0.555 M | 1000 |" in grey
    assert colour.splitlines()[-1] == "| `mdrn_rgb.plain_n0-75_s0` | 0.100 M | – | – / 30.10 / – | – |"
    assert note.startswith("PSNR in dB at noise levels 15 / 25 / 50")


def test_only_what_is_between_the_marks_changes(out, tmp_path):
    readme = tmp_path / "README.md"
    begin, end = (mark.format("white noise") for mark in (report.BEGIN, report.END))
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert report.update_readme(readme, out)
    text = readme.read_text()
    assert text.startswith(f"before\n{begin}\n| grey |") and text.endswith(f"{end}\nafter\n")
    assert "old" not in text
    assert report.update_readme(readme, out) and readme.read_text() == text
    readme.write_text("no marks")
    assert not report.update_readme(readme, out) and readme.read_text() == "no marks"
    assert not report.update_readme(tmp_path / "none.md", out)
