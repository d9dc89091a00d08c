"""Test and training images from the public sources that everybody takes them from, at pinned revisions, verified.

Each file is downloaded beside its place, checked (by its pixels, or by its bytes if it is published as JPEG), tried
again if it is wrong, and then moved there: what is there is right, and an interrupted fetch goes on.
`run` imports this module.
"""

import concurrent.futures
import logging
from collections.abc import Iterable
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from benchmark.testsets import BY_BYTES, SETS, TRAINING_SET, check_pixels, expected_bytes, expected_pixels, locate
from mdrn.data import DataError

HOST = "https://github.com"
_RETRIES = 3
_AT_ONCE = 4
_TIMEOUT_SECONDS = 30
CACHE = pooch.os_cache("mdrn") / "data"  # what images are fetched into when no data root is given


def folders_of(sets: Iterable[str] | None, training: bool) -> list[str]:
    """Return the image folders that test sets, and training, need; None means the grey test sets."""
    if sets is None:
        sets = [name for name, known in SETS.items() if known.channels == 1 and known.by_default]
    folders = [SETS[name].folder for name in sets if name in SETS and SETS[name].folder]
    return list(dict.fromkeys(folders + ([TRAINING_SET] if training else [])))


def missing_images(folder: str, root: Path) -> list[str]:
    """Return the names of the images of a folder that have no file; `load` sees whether the others are right."""
    here = locate(folder, root) or root / folder
    if folder in BY_BYTES:
        return [name for name in expected_bytes(folder) if not (here / name).exists()]
    stems = {path.stem for path in here.glob("*")}
    return [name for name in expected_pixels(folder) if name not in stems]


def fetch(folders: list[str], root: Path, host: str = HOST, quiet: bool = False) -> int:
    """Download what is missing of folders of `SETS` into `root`, and return the number of files; what is there stays.

    The host is GitHub, or something that answers the same paths. If a file cannot be had, or is another than it should
    be, DataError says so, and the rest of what arrived is kept.
    """
    logging.getLogger("pooch").setLevel(logging.WARNING)
    wanted = [(folder, name) for folder in folders for name in missing_images(folder, root)]
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        fetched = pool.map(lambda file: _fetch_one(*file, root, host), wanted)  # an error cancels what has not begun
        bar = tqdm(fetched, total=len(wanted), desc="fetching", unit="image", disable=quiet or not wanted)
        return len(list(bar))


def _fetch_one(folder: str, name: str, root: Path, host: str) -> None:
    remote = next(known.remote for known in SETS.values() if known.folder == folder)
    file = remote.local.format(name)
    digest = expected_bytes(folder)[name] if folder in BY_BYTES else None
    published = f"{remote.repository}/raw/{remote.revision}/{remote.folder}/{remote.file.format(name)}"
    url = f"{host.rstrip('/')}/{published}"
    here = locate(folder, root) or root / folder
    place = pooch.create(here, "", registry={file: digest}, urls={file: url}, retry_if_failed=_RETRIES)

    def download(url: str, output_file: str, place: object) -> None:
        pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)(url, output_file, place)
        if folder not in BY_BYTES:
            check_pixels(Path(output_file), folder, name)  # pooch takes what is refused for wrong, and tries again

    try:
        place.fetch(file, downloader=download)
    except (requests.RequestException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{folder}: expected {name} from {url}, got {type(error).__name__}: {reason}; what has arrived is kept and "
            "the same command goes on. Or put the set under --data-root yourself, or leave --fetch out"
        ) from error
