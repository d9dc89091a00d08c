"""Folders for results that only their visitor can reach, and that do not outlive the visit. No Gradio."""

import contextlib
import hashlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from demo.errors import Stopped

KEEP_SECONDS = 10 * 60


class Workspace:
    """Private folders of many sessions under one root, where they are made.

    A folder's name is 128 bits that nobody can guess, because whoever knows a served file's path can read it: half of
    them are the session's, the others random. Folders go when their session ends, or `KEEP_SECONDS` after their last
    use.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._secret = secrets.token_bytes(32)

    def _mark(self, session: str) -> str:
        return hashlib.blake2b(session.encode(), key=self._secret, digest_size=8).hexdigest()

    def new(self, session: str) -> Path:
        """Make an empty folder for a session, and remove the folders that are too old."""
        self.sweep()
        folder = self.root / (self._mark(session) + secrets.token_hex(8))
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def discard(self, session: str, folder: Path | None = None) -> None:
        """Remove one folder of a session, or all of them."""
        for each in self.root.glob(f"{self._mark(session)}*"):
            if folder in (None, each):
                shutil.rmtree(each, ignore_errors=True)

    @contextlib.contextmanager
    def made(self, session: str) -> Iterator[Path]:
        """Make a folder for a piece of work, and remove it if the work fails.

        Raises:
            Stopped: if the folder went meanwhile, because the session has ended.
        """
        folder = self.new(session)
        try:
            yield folder
        except BaseException as error:
            gone = isinstance(error, FileNotFoundError) and not folder.exists()
            self.discard(session, folder)
            if gone:
                raise Stopped from error
            raise

    def sweep(self) -> None:
        """Remove every folder that has not been used for `KEEP_SECONDS`, those of an earlier server too."""
        oldest = time.time() - KEEP_SECONDS
        with contextlib.suppress(FileNotFoundError):  # of one that goes meanwhile; the next sweep does the others
            for folder in self.root.glob("*"):
                if folder.stat().st_mtime < oldest:
                    shutil.rmtree(folder, ignore_errors=True)
            for file in self.root.parent.glob("tmp*"):  # `gr.File` leaves an empty one beside each upload
                if file.is_file() and not file.stat().st_size and file.stat().st_mtime < oldest:
                    file.unlink()

    def keep_swept(self, seconds: float = 60) -> None:
        """Sweep from now on, in the background: a visitor who has left is not followed by another one at once."""

        def sweep_again() -> None:
            while True:
                time.sleep(seconds)
                self.sweep()

        threading.Thread(target=sweep_again, name="sweep", daemon=True).start()
