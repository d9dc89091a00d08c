"""How restored images are scored, so that no number depends on who computed it. Any module may import it.

All metrics compare 8-bit images: float outputs go through `to_uint8` first, as in the literature's protocol. PSNR is
NumPy alone; SSIM imports scikit-image and LPIPS imports lpips when called.
"""

import functools
import importlib.util
import os
import warnings

import numpy as np
import torch

from mdrn.denoiser import MdrnError


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Clip a float image in [0, 1] units and round it to uint8.

    Example:
        >>> to_uint8(np.array([-0.1, 0.5, 1.2]))
        array([  0, 128, 255], dtype=uint8)
    """
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _check_pair(restored: np.ndarray, clean: np.ndarray) -> None:
    for name, image in (("restored", restored), ("clean", clean)):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise MdrnError(f"{name}: expected uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if restored.shape != clean.shape:
        raise MdrnError(f"expected two images of one shape, got {restored.shape} and {clean.shape}")


def psnr(restored: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), in float64, over all pixels and channels.

    Args:
        restored: (H, W) or (H, W, 3), uint8.
        clean: same shape, uint8.

    Returns:
        dB; infinity for equal images.

    Raises:
        MdrnError: if dtype or shape is not as above.

    Example:
        >>> round(psnr(np.full((8, 8), 10, np.uint8), np.full((8, 8), 20, np.uint8)), 2)
        28.13
    """
    _check_pair(restored, clean)
    mse = np.mean((restored.astype(np.float64) - clean.astype(np.float64)) ** 2)
    return float("inf") if mse == 0 else float(10.0 * np.log10(255.0**2 / mse))


def ssim(restored: np.ndarray, clean: np.ndarray) -> float:
    """Structural similarity with the original 11x11 Gaussian window (sigma 1.5), mean over the valid region.

    Args:
        restored: (H, W) or (H, W, 3), uint8, at least 11 pixels a side.
        clean: same shape, uint8.

    Returns:
        at most 1; the mean over channels for RGB.

    Raises:
        MdrnError: if dtype or shape is not as above.

    Reference:
        Wang et al., IEEE TIP 2004; scikit-image's `structural_similarity`.
    """
    from skimage.metrics import structural_similarity

    _check_pair(restored, clean)
    if min(clean.shape[:2]) < 11:
        raise MdrnError(f"expected at least 11x11 pixels for SSIM, got {clean.shape[0]}x{clean.shape[1]}")
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(restored, clean, channel_axis=-1 if clean.ndim == 3 else None, **options))


@functools.cache
def _lpips_network():
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="alex", verbose=False).eval()


def lpips_available() -> bool:
    """Whether LPIPS can be computed without a download: its package is there, its trunk's weights under TORCH_HOME."""
    trunk = os.path.join(torch.hub.get_dir(), "checkpoints", "alexnet-owt-7be5be79.pth")
    return importlib.util.find_spec("lpips") is not None and os.path.exists(trunk)


def lpips(restored: np.ndarray, clean: np.ndarray) -> float:
    """Learned perceptual distance (LPIPS v0.1, AlexNet); lower is closer. Grey images are repeated to three channels.

    The trunk's weights come from TORCH_HOME, or are downloaded by torchvision on first use.

    Args:
        restored: (H, W) or (H, W, 3), uint8.
        clean: same shape, uint8.

    Reference:
        Zhang et al., CVPR 2018; the `lpips` package.
    """
    _check_pair(restored, clean)

    def as_tensor(image: np.ndarray) -> torch.Tensor:
        rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1.0

    with torch.inference_mode():
        return float(_lpips_network()(as_tensor(restored), as_tensor(clean)))
