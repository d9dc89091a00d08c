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


def test_a_line_of_several_networks_has_the_largest_ones_parameters(out):
    other = dataclasses.replace(ROW, method="mdrn.plain_n50_s0", noise_level=50.0, evaluation="r", psnr=27.0)
    rows.append(out / rows.ROWS, [other])
    rows.append_evaluation(out / rows.EVALUATIONS, {"id": "r", "images": 1, "parameters": 600_000})
    assert "| `mdrn.plain_n*_s0` | 0.600 M | – / 30.55 / 27.00 |" in overview.table(results.load(out))


def test_parameters_are_those_of_the_rows_shown(out):
    later = dataclasses.replace(ROW, plan="hmds_100", weights="another", evaluation="r")
    rows.append(out / rows.ROWS, [later])
    rows.append_evaluation(out / rows.EVALUATIONS, {"id": "r", "images": 1, "parameters": 900_000})
    assert "| `mdrn.plain_n*_s0` | 0.570 M |" in overview.table(results.load(out))


def test_colour_networks_have_a_table_of_their_own(out):
    assert "| colour |" not in overview.table(results.load(out))
    ours = {"method": "mdrn_rgb.plain_n0-75_s0", "set": "CBSD68", "evaluation": "r"}
    noisy = ours | {"plan": "", "method": "noisy", "weights": "", "evaluation": "s"}
    rows.append(out / rows.ROWS, [dataclasses.replace(ROW, **ours), dataclasses.replace(ROW, **noisy, psnr=20.1)])
    rows.append_evaluation(out / rows.EVALUATIONS, {"id": "r", "images": 1, "parameters": 572_000})
    rows.append_evaluation(out / rows.EVALUATIONS, {"id": "s", "images": 1})
    grey, colour, _ = overview.table(results.load(out)).split("\n\n")
    assert "mdrn_rgb" not in grey and "| `mdrn.plain_n*_s0`" in grey and "DnCNN" in grey
    assert colour.splitlines()[2:] == [
        "| `noisy` | – | – / 20.10 / – | – |",
        "| `mdrn_rgb.plain_n0-75_s0` | 0.572 M | – / 30.00 / – | – |",
    ]


def test_only_what_is_between_the_marks_changes(out, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{overview.BEGIN}\nold\n{overview.END}\nafter\n")
    assert overview.update(readme, results.load(out))
    text = readme.read_text()
    assert text.startswith(f"before\n{overview.BEGIN}\n| grey |") and text.endswith(f"{overview.END}\nafter\n")
    assert "old" not in text
    assert overview.update(readme, results.load(out)) and readme.read_text() == text
    readme.write_text("no marks")
    assert not overview.update(readme, results.load(out)) and readme.read_text() == "no marks"
    assert not overview.update(tmp_path / "none.md", results.load(out))
