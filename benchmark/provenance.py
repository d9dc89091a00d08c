"""Under which circumstances a number was measured. `evaluate` and `speed` import this module."""

from __future__ import annotations

import datetime
import platform
from importlib import metadata
from pathlib import Path

import torch

from mdrn.train import git_revision

_PACKAGES = ("numpy", "torch", "scikit-image", "lpips", "PyWavelets", "bm3d")


def machine_name(device: str = "cpu") -> str:
    """Return the name of the processor or GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found | {"torch": torch.__version__}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def surroundings(device: str) -> dict[str, object]:
    """Return commit (with '+dirty'), versions, device, machine, threads and time: the start of a measurement."""
    return {
        "git": git_revision(),
        "versions": versions(),
        "device": device,
        "machine": machine_name(device),
        "threads": torch.get_num_threads(),
        "start": now(),
    }
