"""Evaluation: what is measured is what the protocol says, for every kind of method."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmark import evaluate, methods, rows, testsets
from benchmark.evaluate import Conditions, Job, exact_fp32
from benchmark.methods import Method
from benchmark.testsets import Images
from mdrn import checkpoint, metrics, noise
from mdrn.denoiser import MdrnError
from tests.conftest import header_for, small_network


@pytest.fixture
def crops() -> Images:
    clean = testsets.load("samples_held_out").clean
    return Images("samples_held_out", {name: image[:48, :37].copy() for name, image in clean.items()})


def measured(method: Method, images: Images, level: float | None, conditions: Conditions | None = None):
    return evaluate.evaluate(Job(method, images.name, level), images, conditions or Conditions())


def named(name: str) -> Method:
    return next(method for method in methods.without_weights() if method.name == name)


def probe(function) -> Method:
    return Method("probe", lambda device: lambda noisy, sigma: [function(noisy)])


def test_the_noisy_input_is_scored_clipped_and_rounded(crops):
    evaluation, found = measured(named("noisy"), crops, 25.0)
    assert [row.image for row in found] == list(crops.clean)
    for row, clean in zip(found, crops.clean.values(), strict=True):
        noisy = metrics.to_uint8(noise.benchmark_noisy(clean, 25))
        assert (row.psnr, row.ssim) == (metrics.psnr(noisy, clean), metrics.ssim(noisy, clean))
        assert (row.lpips, row.stages, row.evaluation) == (None, "", evaluation.id)
    assert (evaluation.plan, evaluation.weights, evaluation.images) == ("baselines", "", 2)
    assert evaluation.pixels == crops.digest
    assert evaluation.device.endswith(f", {torch.get_num_threads()} threads")


def test_a_network_says_what_each_stage_gave(crops, weights_file):
    evaluation, found = measured(methods.network(weights_file, "given"), crops, 25.0)
    network, clean = checkpoint.load(weights_file), crops.clean["camera"]
    noisy = torch.from_numpy(noise.benchmark_noisy(clean, 25))[None, None]
    with torch.no_grad():
        expected = [
            metrics.psnr(metrics.to_uint8(image[0, 0].numpy()), clean) for image in network.progressive(noisy, 25 / 255)
        ]
    assert [float(found[0].stages), found[0].psnr] == pytest.approx(expected, abs=1e-3)
    assert evaluation.weights == network.header.sha256[:16]
    assert evaluation.parameters == sum(p.numel() for p in network.parameters())
    assert evaluation.gmacs > 0


def test_clip8_gives_the_network_an_8_bit_input(crops):
    seen = []
    method = probe(lambda noisy: seen.append(noisy) or noisy)
    measured(method, crops, 50.0, Conditions(protocol="clip8"))
    levels = seen[0].numpy() * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-4
    assert levels.max() <= 255
    seen.clear()
    measured(method, crops, 50.0)
    assert seen[0].max() > 1


def test_estimated_levels_reach_the_network_within_its_range(crops, weights_file, monkeypatch):
    told = methods.network(weights_file, "given")
    auto = dataclasses.replace(methods.with_estimated_level(told), estimate=lambda image: 25.0)
    assert auto.name == "small.plain_n0-75_s0+auto"
    expected = [row.psnr for row in measured(told, crops, 25.0)[1]]
    found = measured(auto, crops, 25.0)[1]
    assert [row.psnr for row in found] == expected
    assert [row.estimated for row in found] == [25.0] * 2
    narrow = dataclasses.replace(auto, estimate=lambda image: 90.0, levels=(0.0, 25.0))
    found = measured(narrow, crops, 25.0)[1]
    assert [row.psnr for row in found] == expected  # 90 is clipped to the network's 25 ...
    assert found[1].estimated == 90.0  # ... and the row says what was estimated


def test_colour_images_go_through_a_colour_network(tmp_path):
    network = small_network(channels=3)
    path = tmp_path / "small_rgb.plain_n25_s0.safetensors"
    checkpoint.write_weights(path, network, header_for(network, id="small_rgb.plain_n25_s0", noise_level=(25.0, 25.0)))
    image = testsets.load("samples_rgb").clean["coffee"][:32, :24]
    _, found = measured(methods.network(path, "given"), Images("samples_rgb", {"coffee": image}), 25.0)
    assert 15 < found[0].psnr < 40


def test_photographs_are_restored_without_being_told_the_level():
    clean = testsets.load("samples_rgb").clean["coffee"][:40, :48]
    noisy = metrics.to_uint8(noise.benchmark_noisy(clean, 10))
    images = Images("PolyU", {"one": clean}, {"one": noisy})
    for method in (named("noisy"), named("non_local_means+auto"), *methods.library_default()):
        evaluation, (row,) = measured(method, images, None)
        assert (evaluation.level, evaluation.protocol) == (None, "camera")
        assert (row.estimated is None) == (method.name == "noisy")
        if method.name == "noisy":
            assert row.psnr == metrics.psnr(noisy, clean)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_failed_image_fails_the_evaluation_and_is_named(crops, bad):
    with pytest.raises(MdrnError, match="probe on samples_held_out camera: expected finite"):
        measured(probe(lambda noisy: noisy * bad), crops, 25.0)


def test_an_output_of_another_size_fails(crops):
    with pytest.raises(MdrnError, match="expected an image of shape"):
        measured(probe(lambda noisy: noisy[..., 1:]), crops, 25.0)


def test_the_estimator_has_rows_of_levels(crops):
    method = dataclasses.replace(named(rows.ESTIMATOR), estimate=lambda image: 7.0)
    assert [(row.estimated, row.psnr) for row in measured(method, crops, 5.0)[1]] == [(7.0, None)] * 2


def test_tf32_is_off_inside_and_as_it_was_outside():
    backend = torch.backends.cudnn.conv
    before = backend.fp32_precision
    with exact_fp32():
        assert backend.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert backend.fp32_precision == before


def test_what_has_rows_is_not_missing_until_the_weights_change(tmp_path, weights_file):
    method = methods.network(weights_file, "given")
    job, conditions = Job(method, "samples_held_out", 25.0), Conditions()
    assert evaluate.missing([job], conditions, tmp_path) == [job]
    assert evaluate.run_jobs([job], conditions, tmp_path, None, quiet=True) == 2
    assert evaluate.missing([job], conditions, tmp_path) == []
    others = [
        dataclasses.replace(job, method=dataclasses.replace(method, weights="other")),
        dataclasses.replace(job, method=dataclasses.replace(method, code="other")),
        dataclasses.replace(job, method=dataclasses.replace(method, steps=7)),
        dataclasses.replace(job, level=50.0),
    ]
    assert evaluate.missing(others, conditions, tmp_path) == others
    assert evaluate.missing([job], Conditions(protocol="clip8"), tmp_path) == [job]


def test_a_rewritten_header_makes_no_row_stale(tmp_path, network):
    path, conditions = tmp_path / "one.safetensors", Conditions()
    checkpoint.write_weights(path, network, header_for(network))
    job = Job(methods.network(path, "given"), "samples_held_out", 25.0)
    evaluate.run_jobs([job], conditions, tmp_path / "out", None, quiet=True)
    checkpoint.write_weights(path, network, header_for(network, recipe={"version": "other"}, git="other", plan="p"))
    again = Job(methods.network(path, "given"), "samples_held_out", 25.0)
    assert evaluate.missing([again], conditions, tmp_path / "out") == []


def test_the_largest_change_is_that_of_the_same_measurements(tmp_path):
    job = Job(named("noisy"), "samples_held_out", 25.0)
    evaluate.run_jobs([job], Conditions(), tmp_path, None, quiet=True)
    before = evaluate.psnr_by_identity(tmp_path)
    assert len(before) == 2
    assert evaluate.largest_change(before, before) == 0
    moved = {key: psnr + 0.01 for key, psnr in before.items()}
    assert evaluate.largest_change(before, moved) == pytest.approx(0.01)
    others = {("other", *key[1:]): psnr for key, psnr in moved.items()}
    assert evaluate.largest_change(before, others) == 0


def test_time_left_is_measured_once_for_each_kind_and_grows_with_the_pixels(monkeypatch, weights_file):
    calls = []

    def evaluated(job, images, conditions):
        calls.append((job.method.name, list(images.clean)))
        return dataclasses.make_dataclass("E", ["seconds"])(images.clean["coffee"].size * 1e-6), []

    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    ranged = methods.network(weights_file, "given")
    same = dataclasses.replace(ranged, name="another")
    wanted = [Job(method, "samples_held_out", level) for method in (ranged, same) for level in (25.0, 50.0)]
    left = evaluate.seconds_left(wanted, Conditions(), None)
    assert calls == [("small.plain_n0-75_s0", ["coffee"])] * 2  # the first time does not count
    assert left == pytest.approx(4 * 2 * 512 * 512 * 1e-6)
