"""Test sets are verified pixel by pixel, and whatever is not right is named."""

import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import testsets
from mdrn.data import DataError, validation_files


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root whose Set12 is three small images, and facts that say so."""
    facts, folder = tmp_path / "facts", tmp_path / "data [1]" / "Set12"
    facts.mkdir()
    folder.mkdir(parents=True)
    lines = []
    for index in (1, 2, 3):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"0{index}.png")
        lines.append(("Set12", f"0{index}", 12, 16, "L", hashlib.sha256(pixels.tobytes()).hexdigest()))
    with (facts / "pixels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("set", "name", "height", "width", "mode", "sha256"), *lines])
    monkeypatch.setattr(testsets, "FACTS", facts)
    testsets._facts.cache_clear()
    yield folder.parent
    testsets._facts.cache_clear()


def message(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        testsets.load("Set12", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_right_set_loads_in_order(root):
    test_set = testsets.load("Set12", root)
    assert list(test_set.clean) == ["01", "02", "03"]
    assert all(image.shape == (12, 16) and image.dtype == np.uint8 for image in test_set.clean.values())
    assert sorted(p.name for p in (root / "Set12").iterdir()) == ["01.png", "02.png", "03.png"]  # nothing written


def test_other_lossless_formats_names_and_case_of_the_folder_pass(root):
    digest = testsets.load("Set12", root).digest
    first = root / "Set12" / "01.png"
    Image.open(first).convert("RGB").save(root / "Set12" / "barbara.webp", lossless=True)
    first.unlink()
    (root / "Set12").rename(root / "set12")
    assert testsets.load("Set12", root).digest == digest


def test_split_like_file_names_are_no_obstacle(root):
    for path in list((root / "Set12").iterdir()):
        path.rename(path.with_name(f"test0{path.name}"))
    assert len(testsets.load("Set12", root).clean) == 3


def test_a_wrong_image_is_named(root):
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "Set12" / "02.png")
    assert "wrong pixels: 02.png;" in message(root)
    assert "missing" not in message(root)


def test_one_pixel_off_by_one_is_wrong(root):
    pixels = np.asarray(Image.open(root / "Set12" / "02.png")).copy()
    pixels[3, 4] ^= 1
    Image.fromarray(pixels).save(root / "Set12" / "02.png")
    assert "wrong pixels: 02.png" in message(root)


def test_missing_and_extra_images_are_named(root):
    (root / "Set12" / "03.png").rename(root / "Set12" / "copy.png")
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "Set12" / "lena.png")
    (root / "Set12" / "01.png").unlink()
    assert "missing: 01;" in message(root)
    assert "extra: lena.png;" in message(root)


def test_a_second_copy_is_extra(root):
    (root / "Set12" / "copy.png").write_bytes((root / "Set12" / "01.png").read_bytes())
    assert "extra: copy.png (a second 01)" in message(root)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_corrupt_image_is_named(root, content):
    path = root / "Set12" / "03.png"
    path.write_bytes(path.read_bytes()[:80] if content is None else content)
    assert "corrupt: 03.png" in message(root)


def test_an_empty_folder_is_said_to_be(root):
    for path in (root / "Set12").iterdir():
        path.unlink()
    assert "expected a folder of images" in message(root)


def test_sets_that_are_not_there_are_reported(root):
    chosen, said = testsets.choose(root, None)
    assert chosen == ["Set12", "samples_jpeg"]
    assert "not found: BSD68, Urban100, CBSD68, Urban100_rgb, PolyU" in said
    assert testsets.choose(None, None)[0] == list(testsets.OFFLINE)
    with pytest.raises(DataError, match="expected a folder BSD68"):
        testsets.load("BSD68", root)
    with pytest.raises(DataError, match="expected one of Set12"):
        testsets.load("Set13", root)
    with pytest.raises(DataError, match="expected a folder of image sets"):
        testsets.choose(root / "nowhere", None)


def test_samples_need_no_data():
    grey, colour = testsets.load("samples"), testsets.load("samples_rgb")
    assert list(grey.clean) == ["camera", "astronaut", "coffee", "chelsea", "rocket"]
    assert list(colour.clean) == ["astronaut", "coffee", "chelsea", "rocket"]
    assert {image.ndim for image in grey.clean.values()} == {2}
    assert list(testsets.load("samples_held_out").clean) == ["camera", "astronaut"]


def test_noise_after_jpeg_is_8_bit_and_no_longer_white():
    images = testsets.load("samples_jpeg")
    noisy = images.corrupted("coffee", 10.0, "jpeg90", 0)
    assert noisy.dtype == np.float32 and np.abs(noisy * 255 - np.round(noisy * 255)).max() < 1e-4
    error = noisy - images.clean["coffee"].astype(np.float32) / 255
    shifted = np.corrcoef(error[:, :-1, 0].ravel(), error[:, 1:, 0].ravel())[0, 1]
    assert shifted > 0.05  # white noise: 0 within 0.003
    assert np.array_equal(noisy, images.corrupted("coffee", 10.0, "jpeg90", 0))


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A data root with two pairs of photographs, one of a camera that is for decisions, and facts that say so."""
    facts, folder = tmp_path / "facts", tmp_path / "data" / "PolyU"
    facts.mkdir()
    folder.mkdir(parents=True)
    lines = []
    for seed, name in enumerate(("Canon5D2_chair_1", "Canon80D_toy_2")):
        for kind in ("mean", "real"):
            path = folder / f"{name}_{kind}.JPG"
            pixels = np.full((16, 24, 3), 60 + 40 * seed + 5 * (kind == "real"), np.uint8)
            Image.fromarray(pixels).save(path, "JPEG")
            lines.append((path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
    with (facts / "polyu.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "sha256"), *lines])
    monkeypatch.setattr(testsets, "FACTS", facts)
    testsets._facts.cache_clear()
    yield folder.parent
    testsets._facts.cache_clear()


def test_photographs_come_with_their_own_noise(pairs):
    images = testsets.load("PolyU", pairs)
    assert list(images.clean) == ["Canon5D2_chair_1"]
    assert list(testsets.load("PolyU_decisions", pairs).clean) == ["Canon80D_toy_2"]
    noisy = images.corrupted("Canon5D2_chair_1", None, "camera", 0)
    assert noisy.mean() * 255 == pytest.approx(65, abs=1) and images.clean["Canon5D2_chair_1"].mean() < 62
    (pairs / "PolyU" / "Canon5D2_chair_1_real.JPG").write_bytes(b"other")
    with pytest.raises(DataError, match="wrong or corrupt: Canon5D2_chair_1_real.JPG"):
        testsets.load("PolyU", pairs)


def test_crops_to_report_and_to_decide_with_are_the_designs():
    stems = {name.removesuffix("_mean.JPG") for name in testsets.expected_bytes("PolyU") if "_mean" in name}
    report, decide = ({s for s in stems if testsets.SETS[n].picks(s)} for n in ("PolyU", "PolyU_decisions"))
    assert (len(stems), len(report), len(decide)) == (100, 73, 24)
    assert not report & decide


def test_validation_images_are_those_of_training(tmp_path):
    root = os.environ.get("MDRN_DATA")
    if not root or not (Path(root) / "BSDS500").is_dir():
        pytest.skip("set MDRN_DATA to a folder that holds BSDS500 to run this test")
    images = testsets.load("validation", Path(root))
    assert list(images.clean) == [path.stem for path in validation_files(Path(root))]
    assert len(images.clean) == 32


@pytest.mark.parametrize("name", ["Set12", "BSD68", "CBSD68"])
def test_the_real_sets_are_the_literature_s(name):
    root = os.environ.get("MDRN_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"set MDRN_DATA to a folder that holds {name} to run this test")
    test_set = testsets.load(name, Path(root))
    assert len(test_set.clean) == {"Set12": 12, "BSD68": 68, "CBSD68": 68}[name]
    assert {image.ndim for image in test_set.clean.values()} == {3 if name == "CBSD68" else 2}
