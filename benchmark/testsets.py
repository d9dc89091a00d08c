"""The images: where they lie, and proof that they are the ones everybody else uses.

Decoded pixels of test images are compared with `facts/pixels.csv`, so PNG, BMP and lossless WebP of the same image all
pass, under any file name; of BSDS500, which is trained on, the bytes of the JPEG files with `facts/bsds500.csv`.
`evaluate`, `fetch` and `run` import this module; `datasets` and Pillow are imported when a set is loaded.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import glob
import hashlib
import tempfile
from pathlib import Path

import numpy as np

from mdrn.data import DATA_ROOT_VARIABLE, SUFFIXES, DataError, bsds500_excluded, read_uint8, sample_files

FACTS = Path(__file__).parent / "facts"
TRAINING_SET = "BSDS500"
HELD_OUT_SAMPLES = 2  # the first samples are never trained on, see mdrn.data.training_files
_NAMED = 5  # images named in an error before "and N more"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a test set comes from and how it is read.

    Args:
        folder: its folder under the data root, also its name in pixels.csv; None for images that come with packages.
        channels: 1 reads grey (Pillow's 'L'), 3 reads RGB.
        title: what a table's caption calls it.
    """

    folder: str | None
    channels: int
    title: str


SETS: dict[str, Source] = {
    "Set12": Source("Set12", 1, "Set12, 12 grey images"),
    "BSD68": Source("BSD68", 1, "BSD68, 68 grey images"),
    "Urban100": Source("Urban100", 1, "Urban100, 100 images in grey"),
    "CBSD68": Source("CBSD68", 3, "CBSD68, 68 RGB images"),
    "Urban100_rgb": Source("Urban100", 3, "Urban100, 100 RGB images"),
    "samples": Source(None, 1, "scikit-image's bundled photographs, 5 images in grey"),
    "samples_rgb": Source(None, 3, "scikit-image's bundled photographs, 4 RGB images"),
    "samples_held_out": Source(None, 1, "the 2 bundled photographs that the smoke preset does not train on, in grey"),
}


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Images to evaluate on, in a fixed order.

    Args:
        name: as in `SETS`.
        channels: 1 or 3.
        images: name -> (H, W) or (H, W, 3) uint8.
    """

    __test__ = False  # not a pytest class

    name: str
    channels: int
    images: dict[str, np.ndarray]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes and pixels: which images a row was computed on."""
        digest = hashlib.sha256()
        for name, image in self.images.items():
            digest.update(f"{name} {image.shape}".encode() + image.tobytes())
        return digest.hexdigest()


@functools.cache
def expected_pixels(folder: str) -> dict[str, tuple[str, str]]:
    """Return {image name: (mode, SHA-256 of the decoded pixels)} of a set in facts/pixels.csv."""
    with (FACTS / "pixels.csv").open(newline="") as file:
        return {row["name"]: (row["mode"], row["sha256"]) for row in csv.DictReader(file) if row["set"] == folder}


@functools.cache
def expected_bytes() -> dict[str, str]:
    """Return {'train/100075.jpg': SHA-256 of the file} of the BSDS500 images that are trained or validated on."""
    with (FACTS / "bsds500.csv").open(newline="") as file:
        return {row["file"]: row["sha256"] for row in csv.DictReader(file)}


def check_pixels(path: Path, folder: str, name: str) -> None:
    """See that a file decodes to the pixels of a test image.

    Raises:
        DataError: if it does not.
    """
    mode, expected = expected_pixels(folder)[name]
    found = hashlib.sha256(read_uint8(path, 3 if mode == "RGB" else 1).tobytes()).hexdigest()
    if found != expected:
        raise DataError(f"{folder}/{name}: expected pixels with SHA-256 {expected[:16]}..., got {found[:16]}...")


def check_training(root: Path | None) -> None:
    """See that BSDS500 is there, byte for byte; the images that test sets contain may be there too, nobody reads them.

    Raises:
        DataError: if an image is wrong, missing or extra; all are named.
    """
    folder = locate(TRAINING_SET, root) if root else None
    if folder is None:
        raise DataError(f"expected {TRAINING_SET} in {root or 'a data root'}; give --data-root, or --fetch to download")
    found = {f"{p.parent.name}/{p.name}": p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES}
    expected = expected_bytes()
    faults = {
        "wrong or corrupt": [
            name
            for name, path in found.items()
            if name in expected and hashlib.sha256(path.read_bytes()).hexdigest() != expected[name]
        ],
        "missing": [name for name in expected if name not in found],
        "extra": [name for name in found if name not in expected and name not in bsds500_excluded()],
    }
    if any(faults.values()):
        raise DataError(f"{folder}: not the {TRAINING_SET} of the recipe: {_describe(faults)}; get those again")


def locate(folder: str, root: Path) -> Path | None:
    """Return a folder under the data root whatever the case of its name; None if it is not there."""
    return next((p for p in sorted(root.glob("*")) if p.is_dir() and p.name.lower() == folder.lower()), None)


def find_folder(name: str, root: Path | None) -> Path | None:
    """Return the folder of a set under the data root, upper or lower case; None if it is not there.

    Raises:
        DataError: if the data root itself is missing.
    """
    folder = SETS[name].folder
    if root is None or folder is None:
        return None
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of image sets, got none; check --data-root or {DATA_ROOT_VARIABLE}")
    return locate(folder, root)


def sets_found(root: Path | None) -> tuple[list[str], list[str]]:
    """Return the names of the sets found under the data root, and of those not found; bundled samples are neither."""
    names = [name for name, source in SETS.items() if source.folder]
    found = [name for name in names if find_folder(name, root)]
    return found, [name for name in names if name not in found]


def count(name: str) -> int:
    """Return how many images a set has, without reading them."""
    source = SETS[name]
    return len(expected_pixels(source.folder)) if source.folder else len(_sample_files(name, source.channels))


def pixels(name: str) -> int:
    """Return how many pixels a set has, without reading them."""
    source = SETS[name]
    if source.folder:
        with (FACTS / "pixels.csv").open(newline="") as file:
            lines = [row for row in csv.DictReader(file) if row["set"] == source.folder]
        return sum(int(row["height"]) * int(row["width"]) for row in lines)
    from PIL import Image

    total = 0
    for path in _sample_files(name, source.channels):
        with Image.open(path) as file:
            total += file.width * file.height
    return total


def load(name: str, root: Path | None = None) -> TestSet:
    """Read a test set and verify every pixel of it.

    Args:
        name: as in `SETS`.
        root: folder of image sets; the bundled samples need none.

    Raises:
        DataError: if the set is unknown or not found, or an image is wrong, missing, extra or corrupt; all are named.
    """
    if name not in SETS:
        raise DataError(f"set: expected one of {', '.join(SETS)}, got {name!r}")
    source = SETS[name]
    if source.folder is None:
        files = _sample_files(name, source.channels)
        return TestSet(name, source.channels, {path.stem: read_uint8(path, source.channels) for path in files})
    folder = find_folder(name, root)
    if folder is None:
        raise DataError(f"{name}: expected a folder {source.folder} in {root or 'a data root'}, found none")
    return TestSet(name, source.channels, _verified_images(source, folder))


def _sample_files(name: str, channels: int) -> list[Path]:
    files = sample_files()[:HELD_OUT_SAMPLES] if name == "samples_held_out" else sample_files()
    return [path for path in files if channels == 1 or path.stem != "camera"]  # the one that is grey


def _list_with_datasets(folder: Path) -> list[Path]:
    """List a folder's images through `datasets`' imagefolder, its cache in a temporary folder.

    The split is named here: `datasets` would take BSD68's file names ('test001.png') for the name of a split.
    """
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix="mdrn-imagefolder-") as cache:
            dataset = datasets.load_dataset(
                "imagefolder",
                data_files={"test": f"{glob.escape(str(folder.resolve()))}/**"},
                split="test",
                drop_labels=True,
                cache_dir=cache,
            )
            undecoded = dataset.cast_column("image", datasets.Image(decode=False))
            return sorted(Path(row["image"]["path"]) for row in undecoded)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{folder}: expected a folder of images, got none that `datasets` reads: {reason}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _verified_images(source: Source, folder: Path) -> dict[str, np.ndarray]:
    expected = expected_pixels(source.folder)
    names = {digest: name for name, (_, digest) in expected.items()}
    (mode,) = {mode for mode, _ in expected.values()}
    images: dict[str, np.ndarray] = {}
    faults: dict[str, list[str]] = {"wrong pixels": [], "missing": [], "extra": [], "corrupt": []}
    for path in _list_with_datasets(folder):
        try:
            pixels = read_uint8(path, 3 if mode == "RGB" else 1)
        except DataError:
            faults["corrupt"].append(path.name)
            continue
        name = names.get(hashlib.sha256(pixels.tobytes()).hexdigest())
        if name is None:
            faults["wrong pixels" if path.stem in expected else "extra"].append(path.name)
        elif name in images:
            faults["extra"].append(f"{path.name} (a second {name})")
        else:
            images[name] = pixels if source.channels == 3 or mode == "L" else _to_grey(pixels)
    faulty = {Path(file).stem for file in faults["wrong pixels"] + faults["corrupt"]}
    faults["missing"] = [name for name in expected if name not in images and name not in faulty]
    if any(faults.values()):
        raise DataError(f"{folder}: not the {source.folder} of the literature: {_describe(faults)}; get the set again")
    return {name: images[name] for name in expected}


def _to_grey(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert("L"))


def _describe(faults: dict[str, list[str]]) -> str:
    parts = []
    for kind, files in faults.items():
        if files:
            more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            parts.append(f"{kind}: {', '.join(files[:_NAMED])}{more}")
    return "; ".join(parts)
