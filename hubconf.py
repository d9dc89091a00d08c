"""Networks through `torch.hub`: `torch.hub.load(clone_or_repository, "mdrn")`; the weights come with the repository."""

from mdrn.checkpoint import load as _load

dependencies = ["torch", "numpy", "safetensors"]


def mdrn(model: str = "mdrn", device: str = "cpu"):
    """Return a released network in eval mode, to be called as `network(noisy, sigma)`.

    Args:
        model: short name (mdrn, mdrn_tiny, mdrn_rgb, mdrn_tiny_rgb, photo, photo_tiny), released id or weights file.
        device: 'cpu' or 'cuda'.
    """
    return _load(model, device)


def mdrn_tiny(device: str = "cpu"):
    """Return the fast network for grey images, see `mdrn`."""
    return _load("mdrn_tiny", device)


def mdrn_rgb(device: str = "cpu"):
    """Return the network for colour images, see `mdrn`."""
    return _load("mdrn_rgb", device)


def mdrn_tiny_rgb(device: str = "cpu"):
    """Return the fast network for colour images, see `mdrn`."""
    return _load("mdrn_tiny_rgb", device)


def photo(device: str = "cpu"):
    """Return the network for photographs, see `mdrn`."""
    return _load("photo", device)


def photo_tiny(device: str = "cpu"):
    """Return the fast network for photographs, see `mdrn`."""
    return _load("photo_tiny", device)
