import numpy as np
import pytest
import torch

from mdrn import data
from mdrn.pool import Pool


def pool(folder, draws=24, size=16, map_share=0.5) -> Pool:
    images = [np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)]
    return Pool(folder, data.PatchSource.from_images(images), draws, size, (0.0, 75.0), map_share)


def double(batch, generator):
    return 2 * batch.noisy + batch.sigma.reshape(len(batch.sigma), 1, *batch.sigma.shape[2:] or (1, 1))


@pytest.mark.parametrize("map_share", [0.0, 1.0])
@pytest.mark.parametrize("size", [8, 16])
def test_no_draw_repeats_and_answers_belong_to_their_patches(tmp_path, size, map_share):
    stored = pool(tmp_path, map_share=map_share)
    stored.fill({"twice": double})
    seen, capacity = set(), 24 * 8 * (16 // size) ** 2
    for first in range(0, capacity, 8):
        batch = stored.batch(3, first, 8, size, ["twice"])
        assert batch.clean.shape == batch.noisy.shape == (8, 1, size, size)
        assert torch.allclose(batch.answers["twice"], double(batch, None), atol=4e-3)
        assert ((batch.noisy - batch.clean) / batch.sigma.reshape(8, 1, *batch.sigma.shape[2:] or (1, 1))).std() < 1.5
        seen.update(patch.numpy().tobytes() for patch in batch.noisy)
    assert len(seen) == capacity
    with pytest.raises(data.DataError, match="too few"):
        stored.batch(3, capacity, 8, size, [])
    assert not torch.equal(stored.batch(4, 0, 8, size, []).noisy, stored.batch(3, 0, 8, size, []).noisy)
    used = {patch.numpy().tobytes() for patch in stored.batch(3, 0, 24, 16, [], used=7).noisy}
    assert len(used) == 24


def test_a_pool_goes_on_where_it_was_interrupted(tmp_path):
    whole, cut, calls = pool(tmp_path / "a", 40), pool(tmp_path / "b", 40), []

    def stop_once(batch, generator):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return torch.rand(batch.clean.shape, generator=generator)

    assert whole.bytes_missing(["x"]) == 40 * 256 * 5
    with pytest.raises(KeyboardInterrupt):
        cut.fill({"x": stop_once})
    for stored in (cut, whole):
        stored.fill({"x": stop_once})
        assert stored.bytes_missing(["x"]) == 0
    for name in ("clean", "noisy", "corners", "x"):
        first, second = (np.load(p.folder / f"{name}.npy") for p in (whole, cut))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["noisy", "twice"])
def test_a_file_that_is_gone_is_made_again(tmp_path, name):
    stored = pool(tmp_path)
    stored.fill({"twice": double})
    path = stored.folder / f"{name}.npy"
    before = np.load(path)
    path.unlink()
    stored.fill({"twice": double})
    assert np.array_equal(np.load(path), before)
