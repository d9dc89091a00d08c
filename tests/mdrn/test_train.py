import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import SMALL_STAGE

from mdrn import checkpoint, data, noise, train
from mdrn.distill import EXPECTED_PSNR, Supervised, expected_error
from mdrn.model import ModelConfig, StageConfig

SMALL = ModelConfig(widths=(8, 8, 16), stages=(SMALL_STAGE,) * 2, entry=2)


def config(**changes) -> train.TrainConfig:
    options = {"preset": "small", "model": SMALL, "steps": 12, "batch_size": 4, "patch_size": 16, "data": ("samples",)}
    options |= {"noise_level": (25.0, 25.0), "large_patches": 0.0, "map_share": 0.0}
    return train.TrainConfig(**(options | changes))


def fit(tmp_path, name="run", **changes) -> Path:
    return train.fit(config(**changes), tmp_path / name, validations=0, quiet=True)


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv(data.DATA_ROOT_VARIABLE, raising=False)


def test_same_configuration_same_bytes_and_other_seed_other_bytes(tmp_path):
    first, second, other = (fit(tmp_path, n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_header_names_the_kind_of_network(tmp_path, monkeypatch):
    class Third(ModelConfig):
        """A kind that is neither the student's nor the teacher's."""

    monkeypatch.setitem(checkpoint.ARCHITECTURES, "third", Third)
    header = checkpoint.read_header(fit(tmp_path, model=Third(**vars(SMALL)), steps=2))
    assert header.architecture == "third" and type(header.model) is Third


def test_training_lowers_the_loss_and_validates(tmp_path):
    run = config(steps=150, batch_size=8, patch_size=32)
    weights = train.fit(run, tmp_path, validations=2, quiet=True)
    record = json.loads(weights.with_suffix(".json").read_text())
    assert [point["step"] for point in record["history"]] == [75, 150]
    psnr = [point["psnr"]["25"] for point in record["history"]]
    assert (
        psnr[-1] > 22.5 and checkpoint.read_header(weights).validation == record["history"][-1]["psnr"]
    )  # the noisy validation images are at 20.3 dB
    network = checkpoint.load(weights)
    images = [data.read_uint8(path, 1) for path in data.validation_files(None)]
    assert train.validate(network, images, [25.0])["25"] == pytest.approx(psnr[-1], abs=0.02)


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/.."]
import test_train
from mdrn import train
run = test_train.config(steps=int(sys.argv[3]))
print(train.fit(run, test_train.Path(sys.argv[1]), validations=4, save_seconds=0.0, quiet=True), flush=True)
"""


def child(out: Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(out), str(Path(__file__).parent), str(steps)]
    environment = {k: v for k, v in os.environ.items() if k != data.DATA_ROOT_VARIABLE} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> Path:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return Path(output.strip())


@pytest.mark.slow
def test_killed_and_resumed_ends_in_the_same_bytes(tmp_path):
    """SIGKILL at several moments, wherever they fall: the weights are those of a run left alone."""
    steps = 60
    alone = finish(child(tmp_path / "alone", steps))
    out, kills = tmp_path / "killed", 0
    state = out / f"{config().id}.state.safetensors"
    for delay in (0.05, 0.15, 0.25, 0.4):
        process = child(out, steps)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 2, "the run ended before it could be killed: give it more steps"
    weights = finish(child(out, steps))
    assert weights.read_bytes() == alone.read_bytes()
    histories = [json.loads(path.with_suffix(".json").read_text())["history"] for path in (alone, weights)]
    assert histories[0] == histories[1] and len(histories[0]) == 4
    assert len(list(out.glob(".*.tmp"))) <= kills  # one is left where a kill met a write


def test_interrupted_in_process_and_resumed(tmp_path, monkeypatch):
    whole = fit(tmp_path, "whole")
    step, calls = train.Run.train_step, []

    def stop_at_7(self, *batch):
        if self.step == 7 and not calls:
            calls.append(self.step)
            raise KeyboardInterrupt
        step(self, *batch)

    monkeypatch.setattr(train.Run, "train_step", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        train.fit(config(), tmp_path / "cut", validations=0, save_seconds=0.0, quiet=True)
    weights = train.fit(config(), tmp_path / "cut", validations=0, save_seconds=0.0, quiet=True)
    assert json.loads(weights.with_suffix(".json").read_text())["cpu_seconds"] > 0
    assert calls == [7] and weights.read_bytes() == whole.read_bytes()


def test_the_last_steps_see_fewer_larger_patches(tmp_path, monkeypatch):
    step, shapes = train.Run.train_step, []
    monkeypatch.setattr(train.Run, "train_step", lambda self, *b: shapes.append(b[0].clean.shape) or step(self, *b))
    weights = fit(tmp_path, large_patches=0.25)
    assert shapes == 9 * [(4, 1, 16, 16)] + 3 * [(1, 1, 32, 32)]
    assert checkpoint.read_header(weights).patches == 48  # by their area
    assert config(large_patches=0.25).batch_shape(1.0) == (1, 32) and config().batch_shape(1.0) == (4, 16)
    for wrong in ({"large_patches": 1.5}, {"large_patches": 0.5, "batch_size": 6}):
        with pytest.raises(ValueError, match="expected"):
            config(**wrong)


def test_squared_error_weighs_noise_levels_by_what_is_to_be_expected():
    levels = torch.tensor([1.0, 15.0, 25.0, 50.0]) / 255
    error = expected_error(levels).sqrt().view(-1, 1, 1, 1).expand(4, 1, 8, 8)
    for sigma in (levels, levels.view(-1, 1, 1, 1).expand(4, 1, 8, 8)):
        restored = error.clone().requires_grad_()
        terms = Supervised().terms([restored], torch.zeros_like(error), sigma)
        assert terms["loss"].item() == pytest.approx(1.0, rel=1e-4)
        terms["loss"].backward()
        pull = (restored.grad * error).sum(dim=(1, 2, 3))  # what a change by 1 % gives
        assert torch.allclose(pull, pull[:1].expand(4), rtol=1e-4)
    assert -10 * expected_error(torch.tensor(25 / 255)).log10().item() == pytest.approx(EXPECTED_PSNR[25.0], abs=1e-3)
    assert torch.isfinite(expected_error(torch.tensor([0.0, 1.0]))).all()


def test_another_configuration_does_not_continue_a_run(tmp_path):
    fit(tmp_path)
    with pytest.raises(train.TrainingError, match="another config"):
        train.fit(config(learning_rate=1e-3), tmp_path / "run", validations=0, quiet=True)


def test_damaged_state_is_named(tmp_path):
    fit(tmp_path)
    state = next((tmp_path / "run").glob("*.state.safetensors"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(train.TrainingError, match="delete"):
        fit(tmp_path)


def test_other_images_do_not_continue_a_run(tmp_path):
    files = data.sample_files()
    fit(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "training_files", lambda name, root: files[3:])
        with pytest.raises(train.TrainingError, match="another data"):
            fit(tmp_path)


def test_init_from_starts_from_given_weights(tmp_path):
    first = fit(tmp_path, "first")
    start = train.build_model(config(init_from=str(first), seed=1)).state_dict()
    ended = checkpoint.load(first).state_dict()
    assert all(torch.equal(start[name], ended[name]) for name in ended)
    other = ModelConfig(widths=(8, 16), stages=(StageConfig((1, 1), (1,)),))
    with pytest.raises(ValueError, match="init_from"):
        fit(tmp_path, "third", init_from=str(first), model=other)


@pytest.mark.slow
def test_a_run_ends_by_the_clock_with_its_schedule(tmp_path, monkeypatch):
    ticks, rates, step = itertools.count(), [], train.Run.train_step
    monkeypatch.setattr(train.time, "monotonic", lambda: 0.5 * next(ticks))
    monkeypatch.setattr(
        train.Run, "train_step", lambda self, b, p: rates.append(self.config.rate(p)) or step(self, b, p)
    )
    weights = train.fit(config(steps=10**6, minutes=0.5), tmp_path, validations=2, save_seconds=1e9, quiet=True)
    header, record = checkpoint.read_header(weights), json.loads(weights.with_suffix(".json").read_text())
    assert 30 <= header.steps == record["steps"] == len(rates) <= 60 and len(record["history"]) == 2
    assert 30 <= record["seconds"] < 32 and rates[-1] < 0.1 * max(rates)
    with pytest.raises(ValueError, match="minutes"):
        config(minutes=0)


def test_the_rate_rises_and_falls():
    run = config(warmup=0.1, learning_rate=1.0, final_learning_rate=0.01)
    assert run.rate(0.0) < run.rate(0.05) < run.rate(0.1) > run.rate(0.5) > run.rate(1.0)
    assert run.rate(0.05) == pytest.approx(0.5, abs=0.01) and run.rate(1.0) == pytest.approx(0.01)


def test_nan_loss_stops_with_advice_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    class Broken(Supervised):
        def forward(self, model, noisy, clean, sigma):
            terms = super().forward(model, noisy, clean, sigma)
            return {"loss": terms["loss"] * float("nan")}

    monkeypatch.setattr(train, "build_criterion", lambda config, guide: Broken())
    with pytest.raises(train.TrainingError, match="--learning-rate 0.002"):
        train.fit(config(steps=60), tmp_path, validations=0, quiet=True)
    assert not list(tmp_path.glob("*.safetensors"))


def test_batches_depend_on_seed_and_step_alone():
    images = [np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)]
    source = data.PatchSource.from_images(images)

    def batch(step, seed=0):
        return train.draws(config(noise_level=(0, 75), seed=seed), source, None, Path())(step, 0.0)

    for name in ("clean", "noisy", "sigma"):
        assert torch.equal(getattr(batch(3), name), getattr(batch(3), name))
    assert not torch.equal(batch(3).clean, batch(4).clean) and not torch.equal(batch(3).clean, batch(3, seed=1).clean)
    sigma = torch.cat([batch(step).sigma for step in range(200)])
    assert 0 <= sigma.min() < 0.01 and 0.28 < sigma.max() <= 75 / 255


def test_some_patches_have_levels_that_differ_across_them():
    corners = noise.draw_corners((0, 75), 1000, 0.25, torch.Generator().manual_seed(0))
    varies = (corners != corners[..., :1, :1]).flatten(1).any(1)
    assert 0.2 < varies.float().mean() < 0.3
    maps = noise.spread(corners, 16)
    assert maps.shape == (1000, 1, 16, 16) and torch.allclose(maps[..., ::15, ::15], corners)
    batch = data.fresh_batch(
        data.PatchSource.from_images([np.full((64, 64), 128, np.uint8)]),
        64, 64, (0, 75), 1.0, torch.Generator().manual_seed(0),
    )  # fmt: skip
    found = ((batch.noisy - batch.clean) / batch.sigma).std()
    assert found.item() == pytest.approx(1.0, rel=0.02)
    assert noise.spread(noise.draw_corners((0, 75), 4, 0.0, torch.Generator()), 16).shape == (4,)


def test_plain_runs_read_the_pool_and_resume_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "POOL_SIZE", 32)
    options = {"pool": 40, "map_share": 0.5, "large_patches": 0.5, "noise_level": (0.0, 75.0)}
    whole = fit(tmp_path, "whole", **options)
    step = train.Run.train_step

    def stop_at_7(self, *batch):
        if self.step == 7:
            raise KeyboardInterrupt
        step(self, *batch)

    monkeypatch.setattr(train.Run, "train_step", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        train.fit(config(**options), tmp_path / "cut", save_seconds=0.0, validations=0, quiet=True)
    monkeypatch.setattr(train.Run, "train_step", step)
    resumed = train.fit(config(**options), tmp_path / "cut", validations=0, quiet=True)
    assert resumed.read_bytes() == whole.read_bytes()
    with pytest.raises(data.DataError, match="too few"):
        fit(tmp_path, "long", **options | {"pool": 1})
    assert not list(tmp_path.glob("long/pools/*"))  # it is said before anything is drawn
    with pytest.raises(ValueError, match="pool"):
        config(pool=4, minutes=1)


def test_patches_are_crops_under_the_eight_symmetries():
    image = np.arange(30 * 41, dtype=np.int64).reshape(30, 41)
    grey = (image % 251).astype(np.uint8)
    source = data.PatchSource.from_images([grey, np.full((20, 20), 7, np.uint8)])
    patches = source.draw(400, 8, torch.Generator().manual_seed(0))
    assert patches.shape == (400, 1, 8, 8) and patches.dtype == torch.float32
    windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8)).reshape(-1, 8, 8)
    known = {w.tobytes() for w in windows}
    seen = set()
    for patch in (patches[:, 0] * 255).round().byte().numpy():
        if (patch == 7).all():
            seen.add("flat")
            continue
        kinds = [
            (turn, flip)
            for turn in range(4)
            for flip in (False, True)
            if np.ascontiguousarray(np.rot90(patch[:, ::-1] if flip else patch, turn)).tobytes() in known
        ]
        assert kinds
        seen.update(kinds)
    assert len(seen) == 9
    flat = np.mean([(p == 7).all() for p in (patches[:, 0] * 255).round().byte().numpy()])
    assert flat == pytest.approx(400 / (400 + 30 * 41), abs=0.06)  # images count by their pixels
    with pytest.raises(data.DataError, match="patch_size"):
        source.draw(1, 21, torch.Generator())


def test_rgb_patches():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    patch = data.PatchSource.from_images([image]).draw(1, 16, torch.Generator().manual_seed(1))[0]
    assert patch.shape == (3, 16, 16)
    assert sorted(map(tuple, (patch * 255).round().byte().permute(1, 2, 0).reshape(-1, 3).tolist())) == sorted(
        map(tuple, image.reshape(-1, 3).tolist())
    )


def test_images_of_the_test_sets_are_left_out(tmp_path):
    assert len(data.bsds500_excluded()) == 69
    for name in ("train/12003.jpg", "train/1.jpg", "test/2.jpg", "val/101085.jpg", "val/3.jpg"):
        path = tmp_path / "BSDS500" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (70, 70)).save(path)
    assert [p.name for p in data.training_files("bsds", tmp_path)] == ["1.jpg", "2.jpg"]
    assert [p.name for p in data.validation_files(tmp_path)] == ["3.jpg"]
    assert not set(data.training_files("samples", None)) & set(data.validation_files(None))
    with pytest.raises(data.DataError, match="extra_train"):
        data.training_files("extra", tmp_path)
    with pytest.raises(data.DataError, match="MDRN_DATA"):
        data.training_files("bsds", None)


def test_drawings_can_be_trained_on_beside_photographs():
    photographs = len(data.training_files("samples", None))
    grey, again = (data.training_images(("samples", "drawings"), None, 1, 300)[photographs:] for _ in range(2))
    colour = data.training_images(("drawings",), None, 3)
    assert len(grey) == len(colour) > 10 and all(map(np.array_equal, grey, again))
    assert {page.shape for page in grey} == {(300, 300)} and {page.shape[2] for page in colour} == {3}
    steep = [np.abs(np.diff(page.astype(int), axis=1)).max() for page in grey]
    assert np.mean(steep) > 120 and np.mean([(page == 255).mean() > 0.3 for page in colour]) > 0.2


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"noise_level": (50, 25)}, {"noise_level": (0, 80)}, {"model": None}, {"loss": "x"}]
)
def test_bad_configurations_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change)) if change != {"model": None} else "preset"):
        Supervised(config(**change).loss)


def test_training_imports_neither_benchmark_nor_demo_libraries():
    code = (
        "import sys, mdrn.train, mdrn.cli; banned = {'gradio', 'pandas', 'matplotlib', 'datasets', 'lpips', "
        "'timm', 'torchvision', 'skimage', 'pyvips', 'benchmark', 'demo'}; print(sorted(banned & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_images_of_ones_own_are_read_right_or_named_all_at_once(tmp_path):
    ramp = np.linspace(0, 65535, 80 * 70).reshape(80, 70)
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.fromarray(ramp.astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(ramp.astype(np.uint16)).save(folder / "deep.tif")
    Image.fromarray((ramp / 257).round().astype(np.uint8)).save(folder / "plain.png")
    for name in ("deep.png", "deep.tif"):
        read = data.read_uint8(folder / name, 1).astype(int)
        assert np.abs(read - data.read_uint8(folder / "plain.png", 1)).max() <= 1
        assert data.read_uint8(folder / name, 3).shape == (80, 70, 3)
    weights = fit(tmp_path, "own", data=(str(folder), "samples"))
    assert checkpoint.read_header(weights).data["sets"] == f"{folder}+samples"
    Image.fromarray(ramp.astype(np.float32)).save(folder / "floats.tif")
    Image.fromarray(np.zeros((20, 90), np.uint8)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(data.DataError) as caught:
        fit(tmp_path, "bad", data=(str(folder), "samples"), large_patches=0.5)
    said = str(caught.value)
    assert "3 of 9 training images" in said and "\n" not in said
    assert all(name in said for name in ("floats.tif", "small.png: 90 x 20", "broken.jpg"))
    assert not list((tmp_path / "bad").glob("*"))
    with pytest.raises(data.DataError, match="expected a folder"):
        fit(tmp_path, "none", data=(str(tmp_path / "nowhere"),))
