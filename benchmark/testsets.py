"""The images: one record for each set says where it lies, where it comes from and what noise it has.

All are proved to be the ones everybody else uses: decoded pixels are compared with `facts/pixels.csv`, so PNG, BMP and
lossless WebP of the same image all pass, under any file name; where JPEG files are the original, their bytes are.
`evaluate`, `fetch` and `run` import this module; `datasets` and Pillow are imported when a set is loaded.
"""

import csv
import dataclasses
import functools
import glob
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mdrn import metrics
from mdrn.camera import jpeg
from mdrn.data import DATA_ROOT_VARIABLE, SUFFIXES, DataError, bsds500_excluded, read_uint8, sample_files
from mdrn.noise import benchmark_noisy

FACTS = Path(__file__).parent / "facts"
TRAINING_SET = "BSDS500"
BY_BYTES = {TRAINING_SET: "bsds500.csv", "PolyU": "polyu.csv"}  # folder: facts with the SHA-256 of its files
SAMPLES, SAMPLES_RGB = "samples", "samples_rgb"
JPEG_QUALITY = 90
_NAMED = 5  # images named in an error before "and N more"


@dataclasses.dataclass(frozen=True)
class Remote:
    """Where a folder of images is published."""

    repository: str  # on GitHub
    revision: str  # commit
    folder: str  # in the repository
    file: str = "{}.png"  # name of an image's file there, '{}' standing for the image's name
    local: str = "{}.png"  # name of its file here


def gaussian_jpeg(clean: np.ndarray, level: float, protocol: str, seed: int) -> np.ndarray:
    """Return the noisy image after 8 bits and JPEG, 4:2:0: float32 in [0, 1]."""
    noisy = metrics.to_uint8(benchmark_noisy(clean, level, seed=seed))
    return jpeg(noisy, JPEG_QUALITY, subsampling=2).astype(np.float32) / 255.0


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Everything that the benchmark knows of a test set before its images are read."""

    __test__ = False  # not a pytest class

    title: str  # what tables call it
    channels: int  # 1 reads grey (Pillow's 'L'), 3 reads RGB
    folder: str | None = None  # its folder under the data root; None for photographs that come with scikit-image
    remote: Remote | None = None  # where the folder is published
    picks: Callable[[str], bool] = lambda name: True  # name -> whether the set has that image of the folder
    # makes the noisy image of a clean one; None where each image comes with a noisy one
    noise: Callable[[np.ndarray, float, str, int], np.ndarray] | None = benchmark_noisy
    protocol: str | None = None  # of its noise, if it has but one; None takes the one that is asked for
    # noise levels on the 8-bit scale that are evaluated by default; (None,) where nobody knows the level
    levels: tuple[float | None, ...] = (15.0, 25.0, 50.0)
    by_default: bool = True  # whether it is evaluated without being asked for
    large: bool = False  # whether slow methods leave it out unless it is asked for
    estimator: bool = False  # whether the noise-level estimator is measured on it


_BY_CAMERA = ("Canon5D2", "Canon600D", "NikonD800")
_FFDNET = ("cszn/FFDNet", "e787f46")
_URBAN100 = Remote(
    "jbhuang0604/SelfExSR",
    "8f6dd8c1d20cb7e8792a7177b4f6fd677633f598",
    "data/Urban100/image_SRF_4",
    "{}_SRF_4_HR.png",  # SRF_2 is a set of half the size
)
_BSDS500 = Remote("BIDS/BSDS500", "a04b7c6c3a9f0ace74bf205c72a43d32e1c72722", "BSDS500/data/images", "{}", "{}")
_POLYU = Remote("csjunxu/PolyU-Real-World-Noisy-Images-Dataset", "3af0f26", "CroppedImages", "{}", "{}")
_CAMERA = {"folder": "PolyU", "remote": _POLYU, "noise": None, "protocol": "camera", "levels": (None,)}
_JPEG = {"noise": gaussian_jpeg, "protocol": f"jpeg{JPEG_QUALITY}", "levels": (5.0, 10.0, 20.0)}


def _decides(name: str) -> bool:
    """Whether a PolyU crop is for decisions, not for reports."""
    of_sony = name.startswith("Sony") and any(scene in name for scene in ("classroom", "plant", "door"))
    return name.startswith("Canon80D") or of_sony


SETS: dict[str, TestSet] = {
    "Set12": TestSet("Set12, grey", 1, "Set12", Remote(*_FFDNET, "testsets/Set12")),
    "BSD68": TestSet("BSD68, grey", 1, "BSD68", Remote(*_FFDNET, "testsets/BSD68"), estimator=True),
    "Urban100": TestSet("Urban100, in grey", 1, "Urban100", _URBAN100, large=True),
    "CBSD68": TestSet("CBSD68, RGB", 3, "CBSD68", Remote(*_FFDNET, "testsets/CBSD68")),
    "Urban100_rgb": TestSet("Urban100, RGB", 3, "Urban100", _URBAN100, large=True),
    "PolyU": TestSet("PolyU, real photographs", 3, picks=lambda name: name.startswith(_BY_CAMERA), **_CAMERA),
    "PolyU_decisions": TestSet("PolyU, crops for decisions", 3, picks=_decides, by_default=False, **_CAMERA),
    "validation": TestSet(
        "validation split of BSDS500, in grey",
        1,
        TRAINING_SET,
        _BSDS500,
        picks=lambda name: name.startswith("val/"),
        by_default=False,
    ),
    SAMPLES: TestSet("scikit-image's photographs, in grey", 1, estimator=True),
    SAMPLES_RGB: TestSet("scikit-image's photographs, RGB", 3, picks=lambda name: name != "camera"),
    "samples_jpeg": TestSet("noisy photographs saved as JPEG", 3, picks=lambda name: name != "camera", **_JPEG),
    "samples_held_out": TestSet(
        "the photographs that the smoke plan does not train on, in grey",
        1,
        picks=lambda name: name in ("camera", "astronaut"),
        by_default=False,
    ),
}
OFFLINE = (SAMPLES, SAMPLES_RGB, "samples_jpeg")  # what is evaluated where there is no data root


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a test set, in a fixed order."""

    name: str  # as in `SETS`
    clean: dict[str, np.ndarray]  # name -> (H, W) or (H, W, 3) uint8
    noisy: dict[str, np.ndarray] | None = None  # the same with the noise that they came with; None where it is made

    @functools.cached_property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 over names, shapes and pixels: which images a row was computed on."""
        digest = hashlib.sha256()
        for images in (self.clean, self.noisy or {}):
            for name, image in images.items():
                digest.update(f"{name} {image.shape}".encode() + image.tobytes())
        return digest.hexdigest()[:16]

    def corrupted(self, image: str, level: float | None, protocol: str, seed: int) -> np.ndarray:
        """Return the noisy version of an image, float32 in [0, 1] units, with `awgn` beyond them too."""
        if self.noisy is not None:
            return self.noisy[image].astype(np.float32) / np.float32(255.0)
        return SETS[self.name].noise(self.clean[image], level, protocol, seed)


@functools.cache
def _facts(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader((FACTS / file).read_text().splitlines()))


def expected_pixels(folder: str) -> dict[str, tuple[str, str]]:
    """Return {image name: (mode, SHA-256 of the decoded pixels)} of a set in facts/pixels.csv."""
    return {row["name"]: (row["mode"], row["sha256"]) for row in _facts("pixels.csv") if row["set"] == folder}


def expected_bytes(folder: str = TRAINING_SET) -> dict[str, str]:
    """Return {'train/100075.jpg': SHA-256 of the file} of a folder of JPEG files."""
    return {row["file"]: row["sha256"] for row in _facts(BY_BYTES[folder])}


def check_pixels(path: Path, folder: str, name: str) -> None:
    """See that a file decodes to the pixels of a test image, and raise DataError if it does not."""
    mode, expected = expected_pixels(folder)[name]
    found = hashlib.sha256(read_uint8(path, 3 if mode == "RGB" else 1).tobytes()).hexdigest()
    if found != expected:
        raise DataError(f"{folder}/{name}: expected pixels with SHA-256 {expected[:16]}..., got {found[:16]}...")


def check_training(root: Path | None) -> None:
    """See that BSDS500 is there, byte for byte, and name all images that are wrong, missing or extra in a DataError.

    The images that test sets contain may be there too; nobody reads them.
    """
    _verified_files(TRAINING_SET, _folder(TRAINING_SET, root))


def _folder(folder: str, root: Path | None) -> Path:
    found = locate(folder, root) if root else None
    if found is None:
        raise DataError(f"expected a folder {folder} in {root or 'a data root'}; give --data-root, or --fetch it")
    return found


def _verified_files(folder: str, here: Path) -> dict[str, Path]:
    """Return {name in facts: file} of a folder whose files are compared byte by byte."""
    expected, ignored = expected_bytes(folder), bsds500_excluded() if folder == TRAINING_SET else frozenset()
    subfolders = any("/" in name for name in expected)
    files = (path for path in sorted(here.rglob("*")) if path.suffix.lower() in SUFFIXES)
    found = {f"{path.parent.name}/{path.name}" if subfolders else path.name: path for path in files}
    digests = {name: hashlib.sha256(found[name].read_bytes()).hexdigest() for name in expected if name in found}
    faults = {
        "wrong or corrupt": [name for name, digest in digests.items() if digest != expected[name]],
        "missing": [name for name in expected if name not in found],
        "extra": [name for name in found if name not in expected and name not in ignored],
    }
    if any(faults.values()):
        raise DataError(f"{here}: not the {folder} of the recipe: {_describe(faults)}; get those again")
    return {name: found[name] for name in expected}


def locate(folder: str, root: Path) -> Path | None:
    """Return a folder under the data root whatever the case of its name; None if it is not there."""
    return next((p for p in sorted(root.glob("*")) if p.is_dir() and p.name.lower() == folder.lower()), None)


def is_there(name: str, root: Path | None) -> bool:
    """Whether a set can be read: its folder is under the data root, which must be there, or it needs none."""
    folder = SETS[name].folder
    if folder is None or root is None:
        return folder is None
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of image sets, got none; check --data-root or {DATA_ROOT_VARIABLE}")
    return locate(folder, root) is not None


def choose(root: Path | None, asked: Sequence[str] | None) -> tuple[Sequence[str], str]:
    """Return the test sets to use, all that were asked for, and a sentence on what was found where."""
    for name in asked or []:
        if name not in SETS:
            raise DataError(f"--sets: expected some of {', '.join(SETS)}, got {name!r}")
        if not is_there(name, root):
            raise DataError(f"{name}: not found in {root or 'any data root'}; give --data-root, or --fetch it")
    if asked:
        return asked, f"test sets: {', '.join(asked)}"
    usual = [name for name, known in SETS.items() if known.by_default and known.folder]
    found = [name for name in usual if is_there(name, root)]
    if not found:
        where = f"no test set found in {root}" if root else "no data root given (--data-root or MDRN_DATA, or --fetch)"
        return list(OFFLINE), f"{where}: evaluating on scikit-image's bundled photographs"
    absent = [name for name in usual if name not in found]
    missing = f"; not found: {', '.join(absent)}" if absent else ""
    return [*found, "samples_jpeg"], f"test sets in {root}: {', '.join(found)}{missing}"


def load(name: str, root: Path | None = None) -> Images:
    """Read a set of `SETS` from the folder of image sets, and verify every pixel; the bundled samples need no folder.

    Raises:
        DataError: if the set is unknown or not found, or an image is wrong, missing, extra or corrupt; all are named.
    """
    if name not in SETS:
        raise DataError(f"set: expected one of {', '.join(SETS)}, got {name!r}")
    known = SETS[name]
    if known.folder is None:
        files = [path for path in sample_files() if known.picks(path.stem)]
        return Images(name, {path.stem: read_uint8(path, known.channels) for path in files})
    here = _folder(known.folder, root)
    if known.folder not in BY_BYTES:
        return Images(name, {k: v for k, v in _verified_images(known, here).items() if known.picks(k)})
    files = {file: path for file, path in _verified_files(known.folder, here).items() if known.picks(file)}
    images = {Path(file).stem: read_uint8(path, known.channels) for file, path in files.items()}
    if known.noise is not None:
        return Images(name, images)
    pairs = sorted(stem.removesuffix("_mean") for stem in images if stem.endswith("_mean"))
    return Images(name, {pair: images[f"{pair}_mean"] for pair in pairs}, {p: images[f"{p}_real"] for p in pairs})


def _list_with_datasets(folder: Path) -> list[Path]:
    """List a folder's images through `datasets`' imagefolder, its cache in a temporary folder.

    The split is named here: `datasets` would take BSD68's file names ('test001.png') for the name of a split.
    """
    import datasets

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


def _verified_images(known: TestSet, folder: Path) -> dict[str, np.ndarray]:
    expected = expected_pixels(known.folder)
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
            images[name] = pixels if known.channels == 3 or mode == "L" else read_uint8(path, 1)
    faulty = {Path(file).stem for file in faults["wrong pixels"] + faults["corrupt"]}
    faults["missing"] = [name for name in expected if name not in images and name not in faulty]
    if any(faults.values()):
        raise DataError(f"{folder}: not the {known.folder} of the literature: {_describe(faults)}; get the set again")
    return {name: images[name] for name in expected}


def _describe(faults: dict[str, list[str]]) -> str:
    def named(files: list[str]) -> str:
        return ", ".join(files[:_NAMED]) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")

    return "; ".join(f"{kind}: {named(files)}" for kind, files in faults.items() if files)
