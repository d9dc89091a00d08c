"""Well-known networks under the denoiser contract, built untrained: to compare speed and, trained alike, quality.

`speed` and `plan` import this module; it imports torch and `mdrn.model`.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mdrn.denoiser import enter, pixel_shuffle, sigma_map


class DnCNN(nn.Module):
    """DnCNN-S: 17 layers of 3x3 convolutions and batch normalisation that predict the noise at full resolution.

    Made for one noise level: sigma is not used.

    Shape:
        noisy (B, channels, H, W), sigma -> restored, the shape of noisy, not clipped.

    Reference:
        Zhang et al., "Beyond a Gaussian Denoiser", IEEE TIP 2017.
    """

    def __init__(self, channels: int = 1, width: int = 64, layers: int = 17) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(layers - 2):
            body += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*body, nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return noisy - self.body(noisy)

    def folded(self) -> DnCNN:
        """Return a copy for inference with the batch normalisation folded into the convolutions: same output, faster.

        It has 0.555 M parameters, the published count.
        """
        copied = copy.deepcopy(self).eval()
        layers: list[nn.Module] = []
        for layer in copied.body:
            if isinstance(layer, nn.BatchNorm2d):
                layers[-1] = torch.nn.utils.fusion.fuse_conv_bn_eval(layers[-1], layer)
            else:
                layers.append(layer)
        copied.body = nn.Sequential(*layers)
        return copied


class FFDNet(nn.Module):
    """FFDNet: 15 layers of 3x3 convolutions at half resolution, told the noise level by a map.

    Shape:
        noisy (B, channels, H, W), any H, W >= 1; sigma a float or (B,) -> restored, the shape of noisy, not clipped.

    Reference:
        Zhang et al., "FFDNet", IEEE TIP 2018; without the batch normalisation that the authors fold away, and without
        their orthogonal regularisation.
    """

    def __init__(self, channels: int = 1, width: int = 64, layers: int = 15) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(4 * channels + 1, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(layers - 2):
            body += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*body, nn.Conv2d(width, 4 * channels, 3, padding=1))

    def forward(self, noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        height, width = noisy.shape[-2:]
        restored = self.body(enter(noisy, sigma_map(sigma, noisy), 2, 2))
        return pixel_shuffle(restored, 2)[..., :height, :width]


def gmacs(model: nn.Module, channels: int = 1, size: int = 256) -> float:
    """Return the multiply-accumulates of one image of `size` x `size` pixels, in 10^9, counted without computing.

    Example:
        >>> round(gmacs(FFDNet()), 1)
        7.9
    """
    shadow = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, channels, size, size, device="meta"), 0.1)
    return counter.get_total_flops() / 2 / 1e9
