"""The well-known networks have their published sizes and costs, and obey the denoiser contract."""

import pytest
import torch

from benchmark.baselines import DnCNN, FFDNet, gmacs
from mdrn.denoiser import count_parameters


def test_published_sizes():
    assert count_parameters(DnCNN()) == 555_137  # 0.555 M, as printed, batch normalisation folded
    assert count_parameters(FFDNet()) == 485_316  # 0.485 M


def test_published_costs_at_256():
    assert gmacs(DnCNN()) == pytest.approx(36.3, abs=0.05)
    assert gmacs(FFDNet()) == pytest.approx(7.9, abs=0.05)


@pytest.mark.parametrize("size", [(37, 31), (1, 1), (2, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_contract(size, channels):
    noisy = torch.rand(2, channels, *size)
    for network in (DnCNN(channels, layers=3).eval(), FFDNet(channels, layers=3)):
        with torch.no_grad():
            assert network(noisy, 0.1).shape == noisy.shape
            assert torch.isfinite(network(noisy, torch.tensor([0.1, 0.2]))).all()


def test_ffdnet_is_told_the_level():
    network, noisy = FFDNet(layers=3), torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        assert not torch.equal(network(noisy, 0.0), network(noisy, 0.3))
