"""MDRN: a lightweight progressive image denoiser, and HMDS, its distillation strategies."""

from mdrn._version import __version__
from mdrn.checkpoint import list_models, load
from mdrn.inference import denoise

__all__ = ["__version__", "denoise", "list_models", "load"]
