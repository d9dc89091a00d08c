"""Well-known networks under the denoiser contract, built untrained, as yardsticks of size and speed.

`methods` and `speed` import this module; it imports torch and `mdrn.denoiser`.
"""

import copy
import types

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mdrn.denoiser import enter, pixel_shuffle, sigma_map


class DnCNN(nn.Module):
    """DnCNN-S: 17 layers of 3x3 convolutions that predict the noise at full resolution; made for one noise level.

    As it is used: with the batch normalisation folded into the convolutions, 0.555 M parameters, the published count.

    Shape:
        noisy (B, channels, H, W), sigma (not used) -> restored, the shape of noisy, not clipped.

    Reference:
        Zhang et al., "Beyond a Gaussian Denoiser", IEEE TIP 2017.
    """

    stride = 1
    config = types.SimpleNamespace(channels=1)

    def __init__(self, channels: int = 1, width: int = 64, layers: int = 17) -> None:
        super().__init__()
        self.body = _convolutions(channels, width, layers, channels)
        self.receptive_field_radius = layers

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return noisy - self.body(noisy)


class FFDNet(nn.Module):
    """FFDNet: 15 layers of 3x3 convolutions at half resolution, told the noise level by a map.

    Shape:
        noisy (B, channels, H, W), any H, W >= 1; sigma as in `mdrn.denoiser` -> restored, the shape of noisy.

    Reference:
        Zhang et al., "FFDNet", IEEE TIP 2018; without the batch normalisation that the authors fold away.
    """

    stride = 2
    config = types.SimpleNamespace(channels=1)

    def __init__(self, channels: int = 1, width: int = 64, layers: int = 15) -> None:
        super().__init__()
        self.body = _convolutions(4 * channels + 1, width, layers, 4 * channels)
        self.receptive_field_radius = 2 * layers

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        height, width = noisy.shape[-2:]
        restored = self.body(enter(noisy, sigma_map(sigma, noisy), 2, 2))
        return pixel_shuffle(restored, 2)[..., :height, :width]


def _convolutions(first: int, width: int, layers: int, last: int) -> nn.Sequential:
    body: list[nn.Module] = [nn.Conv2d(first, width, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(layers - 2):
        body += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*body, nn.Conv2d(width, last, 3, padding=1))


def gmacs(model: nn.Module, size: int = 256) -> float:
    """Return the multiply-accumulates of one image of `size` x `size` pixels, in 10^9, counted without computing.

    Example:
        >>> round(gmacs(FFDNet()), 1)
        7.9
    """
    shadow = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, model.config.channels, size, size, device="meta"), 0.1)
    return counter.get_total_flops() / 2 / 1e9
