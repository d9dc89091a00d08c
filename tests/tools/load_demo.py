"""Put the demo under load: `python tests/tools/load_demo.py [--clients 32] [--seconds 120]`.

Starts `python app.py` on two cores. Each client sends images that nobody else sends, and compares what comes back with
`mdrn.denoise` of the same image bit for bit. Now and then a client estimates, or sends something that is no image.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from pathlib import Path

import gradio_client
import numpy as np
import psutil
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from demo_site import make_image

import mdrn
import mdrn.files

ROOT = Path(__file__).parents[2]
CORES = 2
_KINDS = {"grey.png": ((96, 128), "uint8"), "colour.png": ((80, 64, 3), "uint8"), "deep.tif": ((64, 96), "uint16")}


@dataclasses.dataclass
class Tally:
    """What happened to one client, or to all.

    Args:
        right: answers that were bit for bit what the library makes of the client's own image.
        wrong: answers that were anything else.
        refused: files that are no image, refused with a sentence.
        busy: requests that were told to come again later.
        failed: valid requests without an answer, and bad ones without a sentence: their messages.
        seconds: of each valid request, upload and download included.
        megabytes: the server's resident memory, about once a second.
        start: seconds until the server's first page.
    """

    right: int = 0
    wrong: int = 0
    refused: int = 0
    busy: int = 0
    failed: list[str] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    megabytes: list[float] = dataclasses.field(default_factory=list)
    start: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every client got its own results and no valid request failed."""
        return self.right > 0 and not self.wrong and not self.failed

    def report(self) -> dict[str, object]:
        """Return the numbers that matter."""
        half = self.megabytes[len(self.megabytes) // 2 :] or [0.0]
        return {
            **{name: getattr(self, name) for name in ("right", "wrong", "refused", "busy")},
            "failed": len(self.failed),
            "seconds to the first page": round(self.start, 1),
            "first failures": self.failed[:3],
            "median seconds": round(statistics.median(self.seconds), 2) if self.seconds else None,
            "slowest seconds": round(max(self.seconds, default=0), 2),
            "MB before": round(self.megabytes[0]) if self.megabytes else None,
            "MB highest in first half": round(max(self.megabytes[: len(self.megabytes) // 2], default=0)),
            "MB highest in second half": round(max(half)),
        }


def run(clients: int, seconds: float) -> Tally:
    """Serve the demo, let clients work on it for a while, and return what happened."""
    total = Tally()
    with tempfile.TemporaryDirectory() as name, serve(Path(name) / "gradio") as (address, server, start):
        total.start = start
        stop = threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(server, total.megabytes, stop))
        watcher.start()
        work = [prepare(Path(name), number) for number in range(clients)]
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            tallies = list(pool.map(lambda files: client(address, files, seconds), work))
        stop.set()
        watcher.join()
    for tally in tallies:
        for name in ("right", "wrong", "refused", "busy", "failed", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    return total


@contextlib.contextmanager
def serve(folder: Path):
    """Run `python app.py` on two cores and yield its address, its process and the seconds until it served a page."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        server = psutil.Process(process.pid)
        if hasattr(server, "cpu_affinity"):
            server.cpu_affinity(server.cpu_affinity()[:CORES])
        address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 600
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).close()
                break
            assert process.poll() is None and time.monotonic() < end, "the demo did not start"
            time.sleep(0.3)
        yield address, server, time.monotonic() - began
    finally:
        process.terminate()
        process.wait(30)


def prepare(folder: Path, number: int) -> list[tuple[Path, np.ndarray | None]]:
    """Write a client's own files, and return them with what the library makes of each; None for what is no image."""
    own = folder / f"client_{number}"
    own.mkdir()
    (own / "text.png").write_text("not an image")
    files: list[tuple[Path, np.ndarray | None]] = [(own / "text.png", None)]
    for index, (name, (shape, dtype)) in enumerate(_KINDS.items()):
        image = make_image(shape, dtype, seed=1000 * number + index)
        mdrn.files.write_image(own / name, image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files.append((own / name, mdrn.denoise(image, 25)))
    return files


def client(address: str, files: list[tuple[Path, np.ndarray | None]], seconds: float) -> Tally:
    """Connect, send one file after the other until the time is over, and return what happened."""
    tally, turn = Tally(), 0
    try:
        connection = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 600})
    except Exception as error:
        tally.failed.append(f"no connection: {error}")
        return tally
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path, expected = files[turn % len(files)]
        began = time.monotonic()
        try:
            if turn % 7 == 3 and expected is not None:
                assert 0 <= connection.predict(handle_file(path), api_name="/estimate")["noise_level"] <= 75
            else:
                result, _ = connection.predict(handle_file(path), 25, api_name="/denoise")
                same = expected is not None and np.array_equal(mdrn.files.read_image(result).pixels, expected)
                tally.right += same
                tally.wrong += not same
            tally.seconds.append(time.monotonic() - began)
        except QueueError:
            tally.busy += 1
            time.sleep(1)
        except Exception as error:  # whatever else a client may meet is a failure of the server's, but for a refusal
            if expected is None and isinstance(error, AppError) and "expected a PNG" in str(error):
                tally.refused += 1
            else:
                tally.failed.append(f"{path.name}: {type(error).__name__}: {error}")
        turn += 1
    return tally


def watch_memory(server: psutil.Process, megabytes: list[float], stop: threading.Event) -> None:
    """Note the server's resident memory, its children's included, until told to stop."""
    while not stop.wait(1.0):
        processes = [server, *server.children(recursive=True)]
        megabytes.append(sum(each.memory_info().rss for each in processes) / 1e6)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/tools/load_demo.py", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server goes with this program
    tally = run(options.clients, options.seconds)
    print(json.dumps(tally.report(), indent=2))
    return 0 if tally.good else 1


if __name__ == "__main__":
    sys.exit(main())
