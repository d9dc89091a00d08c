import dataclasses
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

from mdrn import checkpoint, data, train, trainer
from mdrn.__main__ import main
from mdrn.distill import Supervised
from mdrn.model import ModelConfig

SMALL = ModelConfig(widths=(8, 8, 16))


def config(**changes) -> train.TrainConfig:
    options = {"preset": "small", "model": SMALL, "steps": 12, "batch_size": 4, "patch_size": 16, "data": ("samples",)}
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


def test_training_lowers_the_loss_and_validates(tmp_path):
    run = config(steps=150, batch_size=8, patch_size=32)
    weights = train.fit(run, tmp_path, validations=3, quiet=True)
    record = json.loads(weights.with_suffix(".json").read_text())
    assert [point["step"] for point in record["history"]] == [50, 100, 150]
    psnr = [point["psnr"]["25"] for point in record["history"]]
    assert psnr[-1] > 22.5  # the noisy validation images are at 20.3 dB
    network = checkpoint.load(weights)
    images = [data.read_uint8(path, 1) for path in data.validation_files(None)]
    assert train.validate(network, images, [25.0])["25"] == pytest.approx(psnr[-1], abs=0.02)


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
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
    assert not list(out.glob(".*.tmp")) or all(".state." in p.name for p in out.glob(".*.tmp"))


def test_interrupted_in_process_and_resumed(tmp_path, monkeypatch):
    whole = fit(tmp_path, "whole")
    step, calls = trainer.Trainer.train_step, []

    def stop_at_7(self, *batch):
        if self.step == 7 and not calls:
            calls.append(self.step)
            raise KeyboardInterrupt
        step(self, *batch)

    monkeypatch.setattr(trainer.Trainer, "train_step", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        train.fit(config(), tmp_path / "cut", validations=0, save_seconds=0.0, quiet=True)
    weights = train.fit(config(), tmp_path / "cut", validations=0, save_seconds=0.0, quiet=True)
    assert calls == [7] and weights.read_bytes() == whole.read_bytes()


def test_the_last_steps_see_fewer_larger_patches(tmp_path, monkeypatch):
    step, shapes = trainer.Trainer.train_step, []
    monkeypatch.setattr(trainer.Trainer, "train_step", lambda self, *b: shapes.append(b[0].shape) or step(self, *b))
    weights = fit(tmp_path, large_patches=0.25)
    assert shapes == 9 * [(4, 1, 16, 16)] + 3 * [(1, 1, 32, 32)]
    assert checkpoint.read_header(weights).patches == 48  # by their area
    assert config(large_patches=0.25).batch_shape(20) == (1, 32) and config().batch_shape(20) == (4, 16)
    for wrong in ({"large_patches": 1.5}, {"large_patches": 0.5, "batch_size": 6}):
        with pytest.raises(ValueError, match="expected"):
            config(**wrong)


def test_the_last_steps_minimise_squared_error():
    noisy, clean, sigma = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.1), torch.zeros(2)
    criterion = trainer.build_criterion(config(mse_share=0.25))
    for step, expected in ((0, 0.1), (8, 0.1), (9, 0.01), (11, 0.01)):
        criterion.begin_step(torch.Generator(), step / 12)
        assert criterion(lambda noisy, sigma: noisy, noisy, clean, sigma)["loss"].item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="mse_share"):
        config(mse_share=-0.1)


def test_the_logarithm_of_the_error_weighs_noise_levels_alike():
    clean, error = torch.zeros(2, 1, 8, 8), torch.tensor([0.01, 0.1]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    restored = error.clone().requires_grad_()
    Supervised("log_mse").terms([restored], clean)["loss"].backward()
    pull = (restored.grad * error).sum(dim=(1, 2, 3))  # what a change by 1 % gives
    assert pull[0].item() == pytest.approx(pull[1].item(), rel=0.02)


def test_another_configuration_does_not_continue_a_run(tmp_path):
    fit(tmp_path)
    with pytest.raises(trainer.TrainingError, match="another configuration"):
        train.fit(config(learning_rate=1e-3), tmp_path / "run", validations=0, quiet=True)


def test_damaged_state_is_named(tmp_path):
    fit(tmp_path)
    state = next((tmp_path / "run").glob("*.state.safetensors"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(trainer.TrainingError, match="delete"):
        fit(tmp_path)


def test_init_from_starts_a_new_cycle_and_sums_patches(tmp_path):
    first = fit(tmp_path, "first")
    second = fit(tmp_path, "second", init_from=str(first), seed=1)
    assert checkpoint.read_header(first).patches == 48
    assert checkpoint.read_header(second).patches == 96
    assert json.loads(second.with_suffix(".json").read_text())["earlier_patches"] == 48
    cycle = trainer.Trainer(config(init_from=str(first), seed=1), Supervised(), torch.device("cpu"))
    start, ended = cycle.model.state_dict(), checkpoint.load(first).state_dict()
    assert all(torch.equal(start[name], ended[name]) for name in ended)
    with pytest.raises(ValueError, match="init_from"):
        fit(tmp_path, "third", init_from=str(first), model=ModelConfig(widths=(8, 16)))


def test_the_mean_of_two_runs(tmp_path, capsys):
    first = fit(tmp_path, "first")
    second = fit(tmp_path, "second", init_from=str(first), cycle=1)
    mean = tmp_path / "mean.safetensors"
    assert main(["average", str(first), str(second), "-o", str(mean)]) == 0
    a, b, c = (checkpoint.load(path).state_dict() for path in (first, second, mean))
    assert all(torch.allclose(c[name], (a[name] + b[name]) / 2) for name in c)
    header = checkpoint.read_header(mean)
    assert header.recipe["mean_of"] == [checkpoint.read_header(path).sha256 for path in (first, second)]
    history = json.loads(mean.with_suffix(".json").read_text())["history"]
    assert history[-1]["mean_of"] == 2 and 5 < history[-1]["psnr"]["25"] < 40 and "dB at 25" in capsys.readouterr().out
    assert main(["average", str(first), str(second), "-o", str(mean)]) == 2
    assert "which is there" in capsys.readouterr().err
    for wrong in ([str(first)], [str(first), "mdrn.plain_n25_s0"]):
        assert main(["average", *wrong, "-o", str(mean)]) == 2
        assert "expected at least two files of one network" in capsys.readouterr().err


def test_nan_loss_stops_with_advice_and_keeps_the_last_checkpoint(tmp_path):
    class Broken(Supervised):
        def forward(self, model, noisy, clean, sigma):
            terms = super().forward(model, noisy, clean, sigma)
            return {"loss": terms["loss"] * float("nan")}

    with pytest.raises(trainer.TrainingError, match="learning rate"):
        train.fit(config(steps=60), tmp_path, criterion=Broken(), validations=0, quiet=True)
    assert not list(tmp_path.glob("*.safetensors"))


def test_batches_depend_on_seed_and_step_alone():
    images = [np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)]
    source = data.PatchSource.from_images(images)
    run = config(noise_level=(0, 75))
    for a, b in zip(trainer.draw_batch(run, source, 3), trainer.draw_batch(run, source, 3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(trainer.draw_batch(run, source, 3)[0], trainer.draw_batch(run, source, 4)[0])
    sigma = torch.cat([trainer.draw_batch(run, source, step)[2] for step in range(200)])
    assert 0 <= sigma.min() < 0.01 and 0.28 < sigma.max() <= 75 / 255
    for changed in ({"seed": 1}, {"cycle": 1}):
        other = dataclasses.replace(run, **changed)
        assert not torch.equal(trainer.draw_batch(run, source, 3)[0], trainer.draw_batch(other, source, 3)[0])


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


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"noise_level": (50, 25)}, {"noise_level": (0, 80)}, {"model": None}, {"loss": "x"}]
)
def test_bad_configurations_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change)) if change != {"model": None} else "preset"):
        Supervised(config(**change).loss)


def test_training_imports_neither_benchmark_nor_demo_libraries():
    code = (
        "import sys, mdrn.train, mdrn.__main__; banned = {'gradio', 'pandas', 'matplotlib', 'datasets', 'lpips', "
        "'timm', 'torchvision', 'skimage', 'pyvips', 'benchmark', 'demo'}; print(sorted(banned & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
