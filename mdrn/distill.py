"""Training criteria: with or without distillation is a choice of object here, never a branch in the training loop.

A criterion is called as `criterion(model, noisy, clean, sigma)` and returns a dict of scalar terms with the total under
'loss'. `train` imports this module; it imports torch alone.
"""

from __future__ import annotations

import torch
from torch import nn


def _l1(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return (restored - clean).abs().mean()


def _charbonnier(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return ((restored - clean).square() + 1e-6).sqrt().mean()


def _mse(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return (restored - clean).square().mean()


LOSSES = {"l1": _l1, "charbonnier": _charbonnier, "mse": _mse}


class Supervised(nn.Module):
    """The plain strategy: the distance to the clean image, of the restored image and of every earlier stage's.

    Args:
        loss: 'l1', 'charbonnier' (epsilon 1e-3) or 'mse', mean over pixels in [0, 1] units.
        stage_weight: weight of the mean term of the earlier stages; 0 supervises the last stage alone.

    Shape:
        noisy and clean (B, C, H, W), sigma (B,) -> scalars 'loss', 'restored' and, with stages, 'stages'.
    """

    def __init__(self, loss: str = "l1", stage_weight: float = 0.1) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        self.distance = LOSSES[loss]
        self.stage_weight = stage_weight

    def forward(
        self, model: nn.Module, noisy: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        images = model.progressive(noisy, sigma) if hasattr(model, "progressive") else [model(noisy, sigma)]
        restored = self.distance(images[-1], clean)
        if len(images) == 1 or self.stage_weight == 0:
            return {"loss": restored, "restored": restored.detach()}
        stages = torch.stack([self.distance(image, clean) for image in images[:-1]]).mean()
        loss = restored + self.stage_weight * stages
        return {"loss": loss, "restored": restored.detach(), "stages": stages.detach()}
