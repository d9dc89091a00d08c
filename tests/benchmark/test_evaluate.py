"""Evaluation: what is measured is what the protocol says, for every kind of method."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmark import jobs, methods, rows, testsets
from benchmark.evaluate import Conditions, EvaluationError, evaluate, evaluate_estimator, exact_fp32
from benchmark.testsets import TestSet
from mdrn import checkpoint, metrics, noise
from tests.conftest import header_for, small_network


@pytest.fixture(autouse=True)
def no_cost(monkeypatch):
    """Time and memory are measured in a process of their own, which takes seconds; one test does it."""
    monkeypatch.setattr(methods, "cost", lambda kind, weights, device, threads: {"milliseconds_512": 1.0})


@pytest.fixture
def crops() -> TestSet:
    images = testsets.load("samples_held_out").images
    return TestSet("crops", 1, {name: image[:48, :37].copy() for name, image in images.items()})


def test_the_noisy_input_is_scored_clipped_and_rounded(crops):
    record, measured = evaluate(methods.noisy_input(), crops, 25.0, Conditions())
    assert [row.image for row in measured] == list(crops.images)
    for row, clean in zip(measured, crops.images.values(), strict=True):
        noisy = metrics.to_uint8(noise.benchmark_noisy(clean, 25))
        assert (row.psnr, row.ssim) == (metrics.psnr(noisy, clean), metrics.ssim(noisy, clean))
        assert (row.plan, row.weights, row.lpips, row.evaluation) == ("", "", None, record["id"])
    assert record["pixels_sha256"] == crops.digest
    assert record["threads"] == torch.get_num_threads()


def test_a_network_has_a_row_for_each_stage(crops, weights_file):
    record, measured = evaluate(methods.network(weights_file, "given"), crops, 25.0, Conditions())
    assert [(row.stage, row.stages) for row in measured] == [(1, 2), (2, 2)] * 2
    network, clean = checkpoint.load(weights_file), crops.images["camera"]
    noisy = torch.from_numpy(noise.benchmark_noisy(clean, 25))[None, None]
    with torch.no_grad():
        expected = [
            metrics.psnr(metrics.to_uint8(image[0, 0].numpy()), clean) for image in network.progressive(noisy, 25 / 255)
        ]
    assert [row.psnr for row in measured[:2]] == pytest.approx(expected, abs=1e-3)
    assert measured[0].ssim is None
    assert measured[1].ssim is not None
    assert measured[0].seconds is None
    assert measured[1].weights == network.header.sha256[:16]
    assert record["parameters"] == sum(p.numel() for p in network.parameters())


def test_clip8_gives_the_network_an_8_bit_input(crops):
    seen = []
    method = methods.Method("probe", "", "", lambda device: lambda noisy, sigma: [seen.append(noisy) or noisy])
    evaluate(method, crops, 50.0, Conditions(protocol="clip8"))
    levels = seen[0].numpy() * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-4
    assert levels.max() <= 255
    seen.clear()
    evaluate(method, crops, 50.0, Conditions())
    assert seen[0].max() > 1


def test_estimated_levels_reach_the_network_within_its_range(crops, weights_file):
    told = methods.network(weights_file, "given")
    auto = methods.with_estimated_level(told, lambda image: 25.0)
    assert auto.name == "small.plain_n0-75_s0+auto"
    expected = [row.psnr for row in evaluate(told, crops, 25.0, Conditions())[1]]
    measured = evaluate(auto, crops, 25.0, Conditions())[1]
    assert [row.psnr for row in measured] == expected
    assert [row.estimated_level for row in measured] == [None, 25.0] * 2
    narrow = dataclasses.replace(methods.with_estimated_level(told, lambda image: 90.0), levels=(0.0, 25.0))
    measured = evaluate(narrow, crops, 25.0, Conditions())[1]
    assert [row.psnr for row in measured] == expected  # 90 is clipped to the network's 25 ...
    assert measured[1].estimated_level == 90.0  # ... and the row says what was estimated


def test_colour_images_go_through_a_colour_network(tmp_path):
    network = small_network(channels=3)
    path = tmp_path / "small_rgb.plain_n25_s0.safetensors"
    checkpoint.write_weights(path, network, header_for(network, id="small_rgb.plain_n25_s0", noise_level=(25.0, 25.0)))
    image = testsets.load("samples_rgb").images["coffee"][:32, :24]
    _, measured = evaluate(methods.network(path, "given"), TestSet("c", 3, {"coffee": image}), 25.0, Conditions())
    assert 15 < measured[-1].psnr < 40


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_failed_image_fails_the_evaluation_and_is_named(crops, bad):
    method = methods.Method("broken", "", "", lambda device: lambda noisy, sigma: [noisy * bad])
    with pytest.raises(EvaluationError, match="broken on crops camera: expected finite"):
        evaluate(method, crops, 25.0, Conditions())


def test_an_output_of_another_size_fails(crops):
    method = methods.Method("crop", "", "", lambda device: lambda noisy, sigma: [noisy[..., 1:]])
    with pytest.raises(EvaluationError, match="expected an image of shape"):
        evaluate(method, crops, 25.0, Conditions())


def test_the_estimator_has_rows_of_levels(crops):
    _, measured = evaluate_estimator(lambda image: 7.0, crops, 5.0, Conditions())
    assert [(row.method, row.estimated_level, row.psnr) for row in measured] == [(rows.ESTIMATOR, 7.0, None)] * 2


def test_tf32_is_off_inside_and_as_it_was_outside():
    backend = torch.backends.cudnn.conv
    before = backend.fp32_precision
    with exact_fp32():
        assert backend.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert backend.fp32_precision == before


def test_a_network_for_one_level_is_evaluated_there_alone(weights_file):
    ranged = methods.network(weights_file, "given")
    single = dataclasses.replace(ranged, levels=(25.0, 25.0))
    assert single.levels_among(None) == [25.0]
    assert single.levels_among((15.0, 25.0)) == [25.0]
    assert single.levels_among((15.0,)) == []
    assert ranged.levels_among(None) == [15.0, 25.0, 50.0]
    assert dataclasses.replace(ranged, levels=(0.0, 30.0)).levels_among(None) == [15.0, 25.0]


def test_colour_sets_are_for_colour_networks(weights_file):
    grey = [methods.noisy_input(), methods.network(weights_file, "given")]
    colour = [grey[0], dataclasses.replace(grey[1], channels=(3,))]

    def names(chosen, asked):
        wanted = jobs.wanted_jobs(chosen, ["samples", "samples_rgb"], (25.0,), asked, estimator=False)
        return [(job.set_name, job.name) for job in wanted]

    assert names(grey, False) == [("samples", "noisy"), ("samples", "small.plain_n0-75_s0")]
    assert names(colour, False) == [
        ("samples", "noisy"),
        ("samples_rgb", "noisy"),
        ("samples_rgb", "small.plain_n0-75_s0"),
    ]
    assert ("samples_rgb", "noisy") in names(grey, True)


def test_what_has_rows_is_not_missing_until_the_weights_change(tmp_path, weights_file):
    method = methods.network(weights_file, "given")
    job, conditions = jobs.Job(method, "samples_held_out", 25.0), Conditions()
    assert jobs.missing_jobs([job], conditions, tmp_path) == [job]
    assert jobs.run_jobs([job], conditions, tmp_path, None, quiet=True) == 4
    assert jobs.missing_jobs([job], conditions, tmp_path) == []
    others = [
        dataclasses.replace(job, method=dataclasses.replace(method, weights="other")),
        dataclasses.replace(job, noise_level=50.0),
    ]
    assert jobs.missing_jobs(others, conditions, tmp_path) == others
    assert jobs.missing_jobs([job], Conditions(protocol="clip8"), tmp_path) == [job]


def test_the_estimator_s_rows_come_again_when_its_code_changes(tmp_path, monkeypatch):
    job, conditions = jobs.Job(None, "samples_held_out", 25.0), Conditions()
    jobs.run_jobs([job], conditions, tmp_path, None, quiet=True)
    assert jobs.missing_jobs([job], conditions, tmp_path) == []
    monkeypatch.setattr(methods, "_source_hash", lambda function: "changed")
    assert jobs.missing_jobs([job], conditions, tmp_path) == [job]


def test_largest_change_compares_the_same_weights_alone(crops):
    _, measured = evaluate(methods.noisy_input(), crops, 25.0, Conditions())
    moved = [dataclasses.replace(row, psnr=row.psnr + 0.01) for row in measured]
    assert jobs.largest_change(measured, measured) == 0
    assert jobs.largest_change(measured, moved) == pytest.approx(0.01)
    assert jobs.largest_change(measured, [dataclasses.replace(row, weights="other") for row in moved]) == 0


def test_time_left_is_measured_once_for_each_kind_and_grows_with_the_pixels(monkeypatch, weights_file):
    measured = []

    def evaluated(method, test_set, level, conditions, on_image):
        measured.append((method.name, test_set.name))
        pixels = sum(image.size for image in test_set.images.values())
        return {"seconds": pixels * 1e-6}, []

    monkeypatch.setattr(jobs, "evaluate", evaluated)
    ranged = methods.network(weights_file, "given")
    same = dataclasses.replace(ranged, name="another", weights="other")
    wanted = [jobs.Job(method, "samples_held_out", level) for method in (ranged, same) for level in (25.0, 50.0)]
    left = jobs.seconds_left(wanted, Conditions())
    assert measured == [("small.plain_n0-75_s0", "crop")] * 2  # the first time does not count
    assert testsets.pixels("samples_held_out") == 2 * 512 * 512
    assert left == pytest.approx(4 * 2 * 512 * 512 * 1e-6)
    assert jobs.seconds_left([jobs.Job(methods.noisy_input(), "Set12", 25.0)], Conditions()) == pytest.approx(
        sum(image * image * 1e-6 for image in [256] * 7 + [512] * 5)
    )
