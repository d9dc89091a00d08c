import pytest
import torch
from small_networks import SMALL_STAGE, small_network

from mdrn.classical import CLASSICAL
from mdrn.denoiser import MdrnError, count_parameters, pad_to_multiple
from mdrn.model import MDRN, PRESETS, ModelConfig, StageConfig

UNEVEN = (StageConfig((1, 2, 0), (0, 2)), StageConfig((0, 0, 0), (1, 1)), StageConfig((0, 0, 1), (2, 0)))
VARIANTS = [
    {},
    {"stages": (SMALL_STAGE,)},
    {"stages": UNEVEN},
    {"entry": 4},
    {"entry": 1},
    {"widths": (8, 16), "stages": (StageConfig((1, 1), (1,)),) * 2},
    {"channels": 3},
]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_to_their_size(preset):
    network = MDRN(PRESETS[preset])
    assert count_parameters(network) <= (120_000 if "tiny" in preset else 600_000)
    assert network.config.channels == (1 if preset in ("mdrn", "mdrn_tiny") else 3)
    assert network.receptive_field_radius <= 96


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
        assert len(images) == len(network.stages) and torch.equal(images[-1], restored)
        features_restored, features = network.forward_features(noisy, 0.1)
    assert torch.equal(features_restored, restored)
    assert len(features) == len(network.stages) * (len(network.config.widths) + 1)
    assert torch.equal(features["stage1.restored"], images[0])
    assert features["stage1.scale1"].shape[1] == network.config.widths[0]


def test_gradients_are_finite_at_sigma_0():
    network = small_network()
    network(torch.rand(2, 1, 16, 16), 0.0).square().mean().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_at_sigma_0_the_image_stays_as_it_is(changes):
    network = small_network(**changes)
    noisy = 3 * torch.rand(2, network.config.channels, 37, 31) - 1
    halves = torch.zeros(2, 1, 37, 31)
    halves[..., 16:] = 0.1
    with torch.no_grad():
        assert torch.equal(network(noisy, 0.0), noisy)
        assert all(torch.equal(image, noisy) for image in network.progressive(noisy, torch.zeros(2)))
        restored = network(noisy, halves)
    assert torch.equal(restored[..., :16], noisy[..., :16]) and not torch.equal(restored[..., 16:], noisy[..., 16:])


@pytest.mark.parametrize("entry", [1, 2])
def test_a_sigma_map_acts_where_it_is(entry):
    network = small_network(entry=entry)
    noisy = torch.rand(2, 1, 37, 261)
    with torch.no_grad():
        low, high = network(noisy, 0.05), network(noisy, torch.tensor([0.3, 0.3]))
        constant = network(noisy, torch.full((2, 1, 37, 261), 0.05))
        two = torch.full((2, 1, 37, 261), 0.05)
        two[..., 128:] = 0.3
        mixed = network(noisy, two)
    assert torch.allclose(constant, low, atol=1e-6)
    reach = network.receptive_field_radius
    assert torch.allclose(mixed[..., : 128 - reach], low[..., : 128 - reach], atol=1e-6)
    assert torch.allclose(mixed[..., 128 + reach :], high[..., 128 + reach :], atol=1e-6)


@pytest.mark.parametrize("size", [(37, 31), (1, 1), (64, 48)])
@pytest.mark.filterwarnings("ignore")
def test_it_can_be_traced_and_exported_for_a_size(size):
    network = small_network()
    noisy, sigma = torch.rand(1, 1, *size), torch.tensor([0.2])
    with torch.no_grad():
        expected = network(noisy, sigma)
        traced = torch.jit.trace(network, (noisy, torch.tensor([0.1])), check_trace=False)
        assert torch.allclose(traced(noisy, sigma), expected, atol=1e-6)
        exported = torch.export.export(network, (noisy, torch.tensor([0.1]))).module()
        assert torch.allclose(exported(noisy, sigma), expected, atol=1e-6)


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
    [
        ("channels", 2),
        ("widths", (8,)),
        ("stages", ()),
        ("stages", (StageConfig((1, 1), (1,)),)),
        ("stages", [{"down": [0, 1, 1, 99], "up": [1, 1, 1]}]),
        ("entry", 3),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(MdrnError, match=f"{field}|down"):
        ModelConfig(**{field: value})


def test_wrong_channels_and_sigma_shape_are_refused(network):
    with pytest.raises(ValueError, match="expected"):
        network(torch.rand(1, 3, 8, 8), 0.1)
    with pytest.raises(ValueError, match="sigma"):
        network(torch.rand(3, 1, 8, 8), torch.rand(2))
    with pytest.raises(ValueError, match="map"):
        network(torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 9))
    with pytest.raises(ValueError, match="divide a level by 255"):
        network(torch.rand(1, 1, 8, 8), 25)


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
