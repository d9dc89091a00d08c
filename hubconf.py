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


def _released(name: str, what: str):
    def network(device: str = "cpu"):
        return _load(name, device)

    network.__doc__ = f"Return the {what}, see `mdrn`."
    return network


mdrn_tiny = _released("mdrn_tiny", "fast network for grey images")
mdrn_rgb = _released("mdrn_rgb", "network for colour images")
mdrn_tiny_rgb = _released("mdrn_tiny_rgb", "fast network for colour images")
photo = _released("photo", "network for photographs")
photo_tiny = _released("photo_tiny", "fast network for photographs")
