"""Compare denoisers on a clean image with noise added: what the Compare tab does, without its page. No Gradio here."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch

from demo import catalogue, service, views
from demo.catalogue import Network
from demo.errors import DemoError
from mdrn import data, inference, metrics, noise
from mdrn.classical import CLASSICAL
from mdrn.files.formats import to_depth

LEVELS = (15, 25, 50)
DIFFERENCE_GAIN = 4
MAX_SIDE = 512
_FIRST_NETWORKS = 4
_LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Result:
    """What one method made of the noisy image, and how close it came."""

    method: str  # 'noisy', the name of a classical method, or the id of a network
    image: np.ndarray  # 8-bit result
    psnr: float  # in dB; infinite for equal images
    ssim: float | None  # at most 1; None for images under 11 pixels a side
    lpips: float | None  # perceptual distance, lower is closer; None where its network is not at hand
    seconds: float | None  # time it took; None for the noisy image itself
    parameters: int | None  # of a network; None for other methods


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A clean image and what each method made of its noisy version."""

    clean: np.ndarray  # 8-bit image, its middle `MAX_SIDE` x `MAX_SIDE` pixels at most
    cropped: bool  # whether it was larger
    results: list[Result]  # the noisy image first
    left_out: list[str]  # networks that are not trained for this level


def photographs() -> dict[str, Path]:
    """Return the clean photographs at hand, which scikit-image brings: name -> file."""
    return {path.stem: path for path in data.sample_files()}


def read_clean(path: Path) -> tuple[np.ndarray, bool]:
    """Read the middle of an image as 8 bits without alpha, and say whether it was cropped.

    Raises:
        DemoError: if it is not an image this page takes.
    """
    image = to_depth(views.without_alpha(service.read(path).pixels), 8)
    middle = tuple(slice(max(0, (size - MAX_SIDE) // 2), (size + MAX_SIDE) // 2) for size in image.shape[:2])
    return np.ascontiguousarray(image[middle]), max(image.shape[:2]) > MAX_SIDE


def colours_of(path: Path) -> int:
    """Return 1 for a grey image, 3 for RGB."""
    return 1 if read_clean(path)[0].ndim == 2 else 3


def able(noise_level: float, colours: int) -> list[Network]:
    """List the networks for a level and an image's colours; grey ones for RGB only while there is no other."""
    covering = [n for n in catalogue.networks() if n.covers(noise_level)]
    return [n for n in covering if n.channels == colours] or [n for n in covering if n.channels == 1]


def choices(noise_level: float, colours: int) -> list[tuple[str, str]]:
    """Return what can be compared: (label, method)."""
    return [(name_of(method), method) for method in (*(n.id for n in able(noise_level, colours)), *CLASSICAL)]


def first_choice(noise_level: float, colours: int) -> list[str]:
    """Return the methods to begin with: the networks, and one classical method."""
    return [*(n.id for n in able(noise_level, colours)[:_FIRST_NETWORKS]), next(iter(CLASSICAL))]


def name_of(method: str) -> str:
    """Return a method's name for people."""
    if method in CLASSICAL:
        return f"{method.replace('non_', 'non-').replace('_', ' ').capitalize()} (classical)"
    return catalogue.find(method).full_title if method != "noisy" else "noisy"


def compare(
    path: Path, noise_level: float, seed: int, methods: list[str], progress: Callable[[int, int], None] | None = None
) -> Comparison:
    """Add the benchmark's noise to a clean image, let each method restore it, and score the results as 8-bit images.

    Every method is told the true noise level and gets the same noisy image, neither clipped nor rounded.

    Args:
        path: the clean image.
        noise_level: on the 8-bit scale, 0 to 50.
        seed: of the noise.
        methods: ids of networks and names of classical methods; what is named twice is done once.
        progress: called with (done, total) before each method; it may raise `errors.Stopped`.

    Raises:
        DemoError: if the image, the level, the seed or a method is not one this page knows.
    """
    if noise_level is None or not 0 <= noise_level <= LEVELS[-1]:
        raise DemoError(f"noise_level: expected 0 to {LEVELS[-1]}, got {noise_level}")
    if not 0 <= seed <= _LARGEST_SEED:
        raise DemoError(f"seed: expected a whole number from 0 to {_LARGEST_SEED}, got {seed}")
    clean, cropped = read_clean(path)
    noisy = noise.benchmark_noisy(clean, noise_level, seed=seed)
    results = [_score("noisy", clean, noisy)]
    left_out = []
    methods = list(dict.fromkeys(methods))
    for done, method in enumerate(methods):
        if progress:
            progress(done, len(methods))
        if method in CLASSICAL:
            began = time.perf_counter()
            batch = torch.from_numpy(np.atleast_3d(noisy)).permute(2, 0, 1)[None]
            planes = CLASSICAL[method](batch, noise.to_sigma(noise_level))[0]
            restored = planes.permute(1, 2, 0).numpy().reshape(noisy.shape)
            seconds, parameters = time.perf_counter() - began, None
        else:
            network = catalogue.find(method)
            if not network.covers(noise_level) or network.channels > np.atleast_3d(clean).shape[2]:
                left_out.append(method)
                continue
            done_by = inference.restore(noisy, noise_level, method)
            restored, seconds, parameters = done_by.image, done_by.seconds, network.parameters
        results.append(_score(method, clean, restored, seconds, parameters))
    return Comparison(clean, cropped, results, left_out)


def difference(result: Result, clean: np.ndarray) -> np.ndarray:
    """Return the absolute error, `DIFFERENCE_GAIN` times: black is none; one scale for all methods and images."""
    error = np.abs(result.image.astype(np.int16) - clean)
    return np.minimum(DIFFERENCE_GAIN * error, 255).astype(np.uint8)


def link(photograph: str, noise_level: float, seed: int, methods: list[str]) -> str:
    """Return the query that opens the page with exactly this comparison."""
    query = {"tab": "compare", "photograph": photograph, "level": f"{noise_level:g}", "seed": seed}
    return "?" + urlencode({**query, "methods": ",".join(methods)})


def from_link(query: dict[str, str]) -> tuple[str, int, int, list[str]] | None:
    """Read what `link` wrote; None if the query asks for no comparison or for one that cannot be made."""
    known = {network.id for network in catalogue.networks()} | set(CLASSICAL)
    try:
        photograph, level, seed = query["photograph"], int(query["level"]), int(query["seed"])
        methods = [method for method in query["methods"].split(",") if method in known]
    except (KeyError, ValueError):
        return None
    valid = query.get("tab") == "compare" and photograph in photographs() and level in LEVELS
    return (photograph, level, seed, methods) if valid and 0 <= seed <= _LARGEST_SEED else None


def _score(method: str, clean: np.ndarray, restored: np.ndarray, seconds=None, parameters=None) -> Result:
    image = metrics.to_uint8(restored)
    ssim = metrics.ssim(image, clean) if min(clean.shape[:2]) >= 11 else None
    perceptual = metrics.lpips(image, clean) if min(clean.shape[:2]) >= 64 and metrics.lpips_available() else None
    return Result(method, image, metrics.psnr(image, clean), ssim, perceptual, seconds, parameters)
