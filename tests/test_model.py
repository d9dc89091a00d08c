import pytest
import torch
from conftest import small_network

from mdrn.classical import CLASSICAL
from mdrn.denoiser import count_parameters, pad_to_multiple
from mdrn.model import MDRN, PRESETS, ModelConfig

VARIANTS = [
    {},
    {"stages": 1},
    {"stages": 3, "shared": True},
    {"stages": 3, "joint_blocks": False},
    {"stages": 1, "finest_down": False},
    {"finest_down": False, "fusion": "coarse", "corrects": "noisy", "stages": 3},
    {"finest_down": False, "later_down": False, "fusion": "coarse", "corrects": "noisy"},
    {"later_down": False, "stages": 3},
    {"later_down": False, "later_coarsest": True, "stages": 3},
    {"fusion": "coarse"},
    {"corrects": "noisy"},
    {"entry": 1},
    {"widths": (8, 16)},
    {"fusion": "input", "blocks": 2},
    {"activation": "gelu", "channels": 3},
]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_to_their_size(preset):
    network = MDRN(PRESETS[preset])
    assert count_parameters(network) <= (120_000 if "tiny" in preset else 600_000)
    assert network.config.channels == (3 if preset.endswith("_rgb") else 1)
    assert network.receptive_field_radius <= 96


@pytest.mark.parametrize("field", ["joint_blocks", "later_down"])
def test_stages_that_share_weights_cannot_differ(field):
    with pytest.raises(ValueError, match=field):
        ModelConfig(shared=True, **{field: False})


def test_stages_with_every_block_have_those_at_the_coarsest_scale_already():
    with pytest.raises(ValueError, match="later_coarsest"):
        ModelConfig(later_coarsest=True)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(37, 31), (1, 1), (2, 9), (16, 16)])
def test_contract(changes, size):
    network = small_network(**changes)
    noisy = torch.rand(2, network.config.channels, *size)
    with torch.no_grad():
        restored = network(noisy, 0.1)
        assert restored.shape == noisy.shape
        per_image = network(noisy, torch.tensor([0.1, 0.1]))
        assert torch.equal(restored, per_image)
        assert not torch.equal(restored, network(noisy, torch.tensor([0.1, 0.3])))
        images = network.progressive(noisy, 0.1)
        assert len(images) == network.config.stages and torch.equal(images[-1], restored)
        features_restored, features = network.forward_features(noisy, 0.1)
    assert torch.equal(features_restored, restored)
    assert len(features) == network.config.stages * (len(network.config.widths) + 1)
    assert torch.equal(features["stage1.restored"], images[0])
    assert features["stage1.scale1"].shape[1] == network.config.widths[0]


def test_gradients_are_finite_at_sigma_0():
    network = small_network()
    network(torch.rand(2, 1, 16, 16), 0.0).square().mean().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_receptive_field_radius_bounds_what_an_aligned_tile_sees(changes):
    network = small_network(**changes).double()
    radius, stride = network.receptive_field_radius, network.stride
    halo = -(-radius // stride) * stride
    size = 2 * halo + 3 * stride
    noisy = torch.rand(1, network.config.channels, size, size, dtype=torch.float64, requires_grad=True)
    inner = slice(halo, halo + stride)
    network(noisy, 0.1)[..., inner, inner].sum().backward()
    reached = noisy.grad.abs().amax(dim=(0, 1)).nonzero()
    assert halo - reached.min() <= radius
    assert reached.max() - (halo + stride - 1) <= radius
    assert halo - reached.min() > radius - stride  # and the bound is not idle


@pytest.mark.parametrize(
    ("field", "value"),
    [("channels", 2), ("widths", (8,)), ("stages", 0), ("entry", 3), ("fusion", "x"), ("activation", "x")],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=field):
        ModelConfig(**{field: value})


def test_wrong_channels_and_sigma_shape_are_refused(network):
    with pytest.raises(ValueError, match="expected"):
        network(torch.rand(1, 3, 8, 8), 0.1)
    with pytest.raises(ValueError, match="sigma"):
        network(torch.rand(3, 1, 8, 8), torch.rand(2))


@pytest.mark.parametrize("size", range(1, 9))
def test_padding_mirrors_any_size(size):
    padded = pad_to_multiple(torch.arange(float(size)).view(1, 1, 1, size), 8)[0, 0, 0]
    assert len(padded) == 8
    expected = [abs(i) for i in range(size)]
    while len(expected) < 8:  # the mirrored sequence 0 1 2 1 0 1 2 ...
        period = max(1, 2 * (size - 1))
        position = len(expected) % period
        expected.append(position if position < size else period - position)
    assert padded.tolist() == expected


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("channels", [1, 3])
def test_classical_denoisers_obey_the_contract_and_gain(name, channels):
    from skimage.data import astronaut

    clean = torch.from_numpy(astronaut()[:64, 100:171, :channels].copy()).permute(2, 0, 1)[None].float() / 255
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    restored = CLASSICAL[name](noisy, 0.1)
    assert restored.shape == clean.shape
    gain = 10 * torch.log10((noisy - clean).square().mean() / (restored - clean).square().mean())
    assert gain > 3
