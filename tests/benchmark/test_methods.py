"""Which methods there are, what each is evaluated on, and what makes a measurement another one."""

import dataclasses
import functools
import importlib.util
import inspect

import pytest
import torch

from benchmark import evaluate, methods, testsets
from mdrn import checkpoint, classical, metrics, noise
from mdrn.denoiser import MdrnError
from mdrn.model import ModelConfig


def test_a_network_for_one_level_is_evaluated_there_alone(weights_file):
    ranged, known = methods.network(weights_file, "given"), testsets.SETS["Set12"]
    single = dataclasses.replace(ranged, levels=(25.0, 25.0))
    assert single.levels_on(known) == [25.0]
    assert single.levels_on(known, (15.0, 25.0)) == [25.0]
    assert single.levels_on(known, (15.0,)) == []
    assert ranged.levels_on(known) == [15.0, 25.0, 50.0]
    assert dataclasses.replace(ranged, levels=(0.0, 30.0)).levels_on(known) == [15.0, 25.0]


def on(name: str, **options) -> dict[str, list]:
    known = testsets.SETS[name]
    return {m.name: m.levels_on(known) for m in methods.without_weights() if m.levels_on(known) and not m.on_request}


def test_sets_have_the_methods_they_are_for(weights_file):
    assert {"noisy", "non_local_means", "wavelet", "total_variation"} <= set(on("Set12"))
    assert not any("+auto" in name or name == "mdrn.denoise" for name in on("Set12"))
    assert on("BSD68")["estimate_noise_level"] == list(methods.ESTIMATOR_LEVELS)
    photographs = on("PolyU")
    assert {"noisy", "wavelet+auto", "non_local_means+auto", "mdrn.denoise"} <= set(photographs)
    assert "wavelet" not in photographs and set(map(tuple, photographs.values())) == {(None,)}
    assert {"noisy", "wavelet", "wavelet+auto", "mdrn.denoise"} <= set(on("samples_jpeg"))
    grey = methods.network(weights_file, "given")
    assert grey.levels_on(testsets.SETS["CBSD68"]) == [] and grey.levels_on(testsets.SETS["PolyU"]) == []
    auto = methods.with_estimated_level(dataclasses.replace(grey, channels=(3,)))
    assert auto.levels_on(testsets.SETS["PolyU"]) == [None]


def test_slow_methods_leave_large_sets_out_unless_they_are_asked_for(weights_file):
    chosen = [methods.network(weights_file, "given"), *methods.without_weights()]
    usual = {job.method.name for job in evaluate.wanted(chosen, ["Urban100"])}
    assert usual == {"noisy", "small.plain_n0-75_s0"}
    asked = {job.method.name for job in evaluate.wanted(chosen, ["Urban100"], asked_sets=True)}
    assert asked > usual | {"wavelet"}


def test_bm3d_denoises_and_is_there_only_if_asked_for():
    if not importlib.util.find_spec("bm3d"):
        pytest.skip("run `pip install bm3d` to run this test; its licence is for non-commercial use")
    available = methods.without_weights()
    assert methods.BM3D not in [method.name for method in evaluate.choose_methods(available, None)]
    (method,) = evaluate.choose_methods(available, ["bm3d"])
    for clean in (testsets.load("samples").clean["camera"], testsets.load("samples_rgb").clean["coffee"]):
        clean = clean[64:128, 64:120]
        noisy = noise.benchmark_noisy(clean, 25)
        tensor = torch.from_numpy(noisy.reshape(*clean.shape[:2], -1)).permute(2, 0, 1)[None]
        (restored,) = method.prepare("cpu")(tensor, 25 / 255)
        image = metrics.to_uint8(restored[0].permute(1, 2, 0).numpy().reshape(clean.shape))
        assert metrics.psnr(image, clean) > metrics.psnr(metrics.to_uint8(noisy), clean) + 4


def test_bm3d_that_is_not_installed_is_said_to_be(monkeypatch):
    monkeypatch.setattr(methods.importlib.util, "find_spec", lambda name: None)
    available = methods.without_weights()
    assert methods.BM3D not in [method.name for method in available]
    with pytest.raises(MdrnError, match="pip install bm3d.*non-commercial"):
        evaluate.choose_methods(available, ["bm3d"])


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(MdrnError, match="--methods: nothing is named 'bm4d'; expected some of noisy, "):
        evaluate.choose_methods(methods.without_weights(), ["noisy", "bm4d"])


def test_a_field_that_came_after_a_file_was_written_changes_nothing(weights_file, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Later(ModelConfig):
        new: int = 0

    def identity() -> tuple:
        job = evaluate.Job(methods.network(weights_file, "given"), "Set12", 25.0)
        return job.identity(evaluate.Conditions())

    before = identity()
    monkeypatch.setitem(checkpoint.ARCHITECTURES, "mdrn", Later)
    assert "new" in dataclasses.asdict(checkpoint.read_header(weights_file).model)
    assert identity() == before


def test_another_estimator_makes_another_measurement(weights_file, monkeypatch):
    monkeypatch.setattr(methods, "estimator_hash", methods.estimator_hash.__wrapped__)  # not what an earlier call found
    told = methods.network(weights_file, "given")
    before = methods.with_estimated_level(told)
    monkeypatch.setattr(methods, "source_hash", lambda function: "changed")
    after = methods.with_estimated_level(told)
    assert before.code != after.code and told.code == ""


def test_another_constant_of_a_classical_method_makes_another_measurement(monkeypatch):
    before = methods._code_of(_scaled)
    assert methods._code_of(classical.wavelet) == methods.short_hash(inspect.getsource(classical.wavelet))
    fixed = {methods._code_of(functools.partial(_scaled, sigma=sigma)) for sigma in (0.1, 0.2)}
    assert len(fixed) == 2 and before not in fixed
    monkeypatch.setitem(globals(), "_SCALE", 5.0)
    assert methods._code_of(_scaled) != before


_SCALE = 2.0


def _scaled(noisy, sigma):
    return noisy * _SCALE
