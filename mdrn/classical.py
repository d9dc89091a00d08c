"""Classical denoisers under the networks' contract, as yardsticks that need no training.

`CLASSICAL[name](noisy, sigma) -> restored`, BCHW in [0, 1] units. scikit-image is imported when one is called.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def _per_image(noisy: torch.Tensor, sigma: float | torch.Tensor, restore: Callable) -> torch.Tensor:
    """Apply `restore(image (H, W, C) float32, sigma)` to every image of a batch."""
    sigmas = torch.as_tensor(sigma, dtype=torch.float64).expand(noisy.shape[0]).tolist()
    images = noisy.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    restored = [(restore(i, s) if s > 0 else i).reshape(i.shape) for i, s in zip(images, sigmas, strict=True)]
    return torch.from_numpy(np.stack(restored)).permute(0, 3, 1, 2).to(noisy)


def non_local_means(noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Non-local means, scikit-image's fast mode with patch 5, distance 6 and h = 0.8 sigma.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Reference:
        Buades et al., CVPR 2005; parameters from scikit-image's example.
    """
    from skimage.restoration import denoise_nl_means

    def restore(image: np.ndarray, s: float) -> np.ndarray:
        return denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=0.8 * s, sigma=s, fast_mode=True, channel_axis=-1
        )

    return _per_image(noisy, sigma, restore)


def wavelet(noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Soft wavelet thresholding with BayesShrink (db2), averaged over shifts of 0 to 3 pixels.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Reference:
        Chang et al., IEEE TIP 2000; cycle spinning of Coifman and Donoho, 1995.
    """
    from skimage.restoration import cycle_spin, denoise_wavelet

    def restore(image: np.ndarray, s: float) -> np.ndarray:
        options = {"sigma": s, "wavelet": "db2", "method": "BayesShrink", "mode": "soft", "channel_axis": -1}
        return cycle_spin(image, denoise_wavelet, max_shifts=3, func_kw=options, channel_axis=-1, workers=1)

    return _per_image(noisy, sigma, restore)


def total_variation(noisy: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Total-variation denoising by Chambolle's method, weight 0.8 sigma.

    Shape: (B, C, H, W) -> (B, C, H, W).

    Reference:
        Chambolle, JMIV 2004. The weight is this project's choice, from the validation split.
    """
    from skimage.restoration import denoise_tv_chambolle

    def restore(image: np.ndarray, s: float) -> np.ndarray:
        return denoise_tv_chambolle(image, weight=0.8 * s, channel_axis=-1)

    return _per_image(noisy, sigma, restore)


CLASSICAL: dict[str, Callable[[torch.Tensor, float | torch.Tensor], torch.Tensor]] = {
    "non_local_means": non_local_means,
    "wavelet": wavelet,
    "total_variation": total_variation,
}
