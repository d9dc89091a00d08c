import dataclasses

import pytest

from benchmark import overview, results, rows

ROW = rows.Row(
    plan="released",
    method="mdrn.plain_n25_s0",
    config="c",
    weights="w",
    protocol="awgn",
    noise_seed=0,
    noise_level=25.0,
    set="Set12",
    image="01",
    stage=1,
    stages=1,
    psnr=30.0,
    ssim=0.8,
    lpips=None,
    estimated_level=None,
    seconds=0.1,
    evaluation="e",
)


@pytest.fixture
def out(tmp_path):
    """A results folder whose network has a mean of 30.55 dB on two images, the noisy input 20 dB."""
    noisy = {"plan": "", "method": "noisy", "weights": "", "evaluation": "n"}
    measured = [ROW, dataclasses.replace(ROW, image="02", psnr=31.1)]
    measured += [dataclasses.replace(row, **noisy, psnr=20.0) for row in measured]
    folder = tmp_path / "results"
    rows.append(folder / rows.ROWS, measured)
    rows.append_evaluation(folder / rows.EVALUATIONS, {"id": "e", "images": 2, "parameters": 570_000})
    rows.append_evaluation(folder / rows.EVALUATIONS, {"id": "n", "images": 2})
    return folder


def test_the_table_has_means_and_what_others_printed(out):
    text = overview.table(results.load(out))
    assert "| `mdrn.plain_n*_s0` | 0.570 M | – / 30.55 / – | – | – |" in text
    assert "| `noisy` | – | – / 20.00 / – | – | – |" in text
    published = next(line for line in text.splitlines() if line.startswith("| DnCNN-S"))
    assert "as published" in published and "30.4" in published


def test_only_what_is_between_the_marks_changes(out, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{overview.BEGIN}\nold\n{overview.END}\nafter\n")
    assert overview.update(readme, results.load(out))
    text = readme.read_text()
    assert text.startswith(f"before\n{overview.BEGIN}\n| |") and text.endswith(f"{overview.END}\nafter\n")
    assert "old" not in text
    assert overview.update(readme, results.load(out)) and readme.read_text() == text
    readme.write_text("no marks")
    assert not overview.update(readme, results.load(out)) and readme.read_text() == "no marks"
    assert not overview.update(tmp_path / "none.md", results.load(out))
