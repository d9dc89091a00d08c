"""MDRN: a lightweight progressive image denoiser, and HMDS, its distillation strategies.

The names are imported when they are first used, so that `mdrn --version` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdrn.checkpoint import list_models, load
    from mdrn.denoiser import MdrnError
    from mdrn.files import read_image, write_image
    from mdrn.inference import denoise, restore
    from mdrn.model import MDRN

__version__ = "0.2.0"
__all__ = ["MDRN", "MdrnError", "__version__", "denoise", "list_models", "load", "read_image", "restore", "write_image"]

_HOMES = {"MDRN": "model", "MdrnError": "denoiser", "list_models": "checkpoint", "load": "checkpoint"}
_HOMES |= {"read_image": "files", "write_image": "files", "denoise": "inference", "restore": "inference"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mdrn' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mdrn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
