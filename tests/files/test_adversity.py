"""Full disks, read-only folders, signals at any moment, damaged files, many threads: nothing half-written, ever."""

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fuzz_images import TIME_LIMIT, Outcome, Reader, fuzz, make, mutate, whole_files
from small_networks import header_for, small_network

from mdrn import checkpoint, files, inference
from mdrn.cli import main
from mdrn.files import ImageFileError, read_image, write_image

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and signals: run it there")


@pytest.fixture
def weights(tmp_path):
    network = small_network()
    checkpoint.write_weights(tmp_path / "net" / "small.safetensors", network, header_for(network))
    return tmp_path / "net" / "small.safetensors"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---------------------------------------------------------------------------------------------- damaged files


@pytest.mark.slow
def test_three_hundred_damaged_files():
    said = []
    ends, failures = fuzz(300, first_seed=20_000, say=said.append)
    assert not failures, "\n".join(said)
    assert ends["read"] >= 20 and ends["refused"] >= 100, said[-1]  # the damage is neither too little nor too much


def test_damage_is_the_same_each_time():
    whole = whole_files()
    assert make(7, whole) == make(7, whole_files()) and make(7, whole) != make(8, whole)
    assert mutate(whole[0], random.Random(1), whole) != whole[0]


@pytest.mark.slow
def test_the_fuzzer_sees_crashes_hangs_and_leaks(monkeypatch):
    """It can fail: a child that dies, one that hangs and one that raises something else are each named."""
    reader = Reader()
    killer = threading.Timer(0.3, lambda: os.kill(reader._process.pid, signal.SIGKILL))
    os.kill(reader._process.pid, signal.SIGSTOP)  # so that it is still reading when it is killed
    killer.start()
    monkeypatch.setattr("fuzz_images.TIME_LIMIT", 30.0)
    assert reader.read(whole_files()[0]) == Outcome("crash", "SIGKILL")
    monkeypatch.setattr("fuzz_images.TIME_LIMIT", 0.5)
    os.kill(reader._process.pid, signal.SIGSTOP)
    assert reader.read(whole_files()[0]).kind == "hang"
    monkeypatch.setattr("fuzz_images.TIME_LIMIT", TIME_LIMIT)
    assert reader.read(whole_files()[0]).kind == "read"  # a new child took over
    reader.close()
    monkeypatch.setattr("fuzz_images.open_pages", lambda *_, **__: {}["x"])
    import fuzz_images

    assert fuzz_images.read(b"x").kind == "leak"


# ------------------------------------------------------------------------------------- disks that do not write


@linux
@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path, weights):
    """The operating system itself stops the writing after 4 kB, as a full disk does: an OSError in mid-file."""
    write_image(tmp_path / "in.png", noise(200, 200))
    write_image(tmp_path / "old.png", noise(5, 5))
    before = (tmp_path / "old.png").read_bytes()
    code = (
        "import resource, signal, sys; from mdrn.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); sys.exit(main(sys.argv[1:]))"
    )
    for name in ("new.png", "old.png"):
        command = [sys.executable, "-c", code, "denoise", tmp_path / "in.png", "-o", tmp_path / name, "--overwrite"]
        done = subprocess.run([*command, "--model", weights], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "File too large" in done.stderr and "free space" in done.stderr
    assert (tmp_path / "old.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "net", "old.png"]


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small disk in memory, which takes root; skip the test where that may not be."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("run as root, allowed to mount, to run this test")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@linux
def test_a_disk_of_64_kilobytes(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=64k"):
        write_image(disk / "a.png", noise(50, 50))
        before = (disk / "a.png").read_bytes()
        for name in ("a.png", "b.png"):
            with pytest.raises(ImageFileError, match="No space left on device.*free space"):
                write_image(disk / name, noise(400, 400), overwrite=True)
        assert os.listdir(disk) == ["a.png"] and (disk / "a.png").read_bytes() == before


@linux
def test_a_read_only_folder_is_refused_before_the_work(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(inference, "restore", lambda *_, **__: pytest.fail("the work was done in vain"))
    write_image(tmp_path / "in.png", noise(20, 20))
    out = tmp_path / "out"
    with mounted(out, "ro") if os.geteuid() == 0 else contextlib.nullcontext(out.mkdir(mode=0o555)):
        for target in (out / "a.png", out / "new" / "a.png"):
            assert main(["denoise", *map(str, (tmp_path / "in.png", "-o", target, "--model", weights))]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and "read-only" in err and str(target) in err
        assert not list(out.iterdir())


# ------------------------------------------------------------------------------------ stopped at any moment

WRITER = """
import os, sys
from itertools import count
import numpy as np
from mdrn.files import write_image
images = [np.random.default_rng(seed).integers(0, 256, (800, 800), dtype=np.uint8) for seed in range(2)]
for _ in sys.stdin:  # each line asks for a new process
    child = os.fork()
    if not child:
        for i in count():
            write_image(sys.argv[1], images[i % 2], overwrite=True)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@linux
@pytest.mark.slow
def test_sixty_kills_in_mid_write(tmp_path):
    """Each kill meets a process that does nothing but replace one file; it is always one of the two images."""
    path = tmp_path / "a.bmp"  # quick to encode, so that most of the time goes into writing
    images = [noise(800, 800, seed=seed) for seed in range(2)]
    rng, in_mid_write = random.Random(0), 0
    parent = subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(60):
        print(file=parent.stdin, flush=True)
        child = int(parent.stdout.readline())
        before = path.stat().st_mtime_ns if path.exists() else 0
        while not path.exists() or path.stat().st_mtime_ns == before:  # however busy the machine is
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        assert int(parent.stdout.readline()) == signal.SIGKILL
        if path.exists():
            pixels = read_image(path).pixels
            assert any(np.array_equal(pixels, image) for image in images)
        left = [other for other in tmp_path.iterdir() if other != path]
        assert all(other.suffix == ".tmp" and other.name.startswith(".") for other in left)
        in_mid_write += bool(left)
        for other in left:
            other.unlink()
    parent.stdin.close()
    assert parent.wait() == 0
    assert path.exists() and in_mid_write >= 10, f"{in_mid_write} kills met a file in the making"


@pytest.mark.slow
@linux
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_work(tmp_path, weights, signum):
    """Whatever is done is whole, nothing else is there, and running it again does the rest."""
    for i in range(40):
        write_image(tmp_path / "in" / f"{i:02}.png", noise(900, 900)) if i else (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mdrn", "denoise", tmp_path / "in", "-o", out, "--model", weights]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs do not
    with subprocess.Popen(command, preexec_fn=heeding, **pipes) as process:
        process.stdout.readline()  # the first image is done, or at least said to be
        process.send_signal(signum)
        err = process.stderr.read()
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err, err
    done = sorted(out.iterdir())
    assert 0 < len(done) < 39 and all(path.suffix == ".png" for path in done)
    assert all(read_image(path).pixels.shape == (900, 900) for path in done)
    assert main(["denoise", *map(str, (tmp_path / "in", "-o", out, "--model", weights))]) == 0
    assert len(list(out.iterdir())) == 39


def test_what_a_kill_leaves_is_no_input(tmp_path, weights, capsys):
    write_image(tmp_path / "a.png", noise(9, 9))
    (tmp_path / ".0123456789abcdef.tmp").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    assert main(["denoise", str(tmp_path), "-o", str(tmp_path / "out"), "--model", str(weights)]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


# --------------------------------------------------------------------------------------------- many threads


def test_cached_networks_serve_many_threads(weights):
    """Sixteen threads, two networks, several sizes: each gets what one thread alone gets."""
    released = "mdrn_tiny"
    cases = [(noise(40 + 7 * i, 61, seed=i), model) for i in range(4) for model in (str(weights), released)]
    levels = {model: checkpoint.read_header(model).noise_level[1] for _, model in cases}
    expected = [inference.restore(image, levels[model], model).image for image, model in cases]
    inference._load.cache_clear()  # so that the threads also load at once
    start = threading.Barrier(16)

    def work(index: int) -> bool:
        start.wait()
        image, model = cases[index % len(cases)]
        results = [inference.restore(image, levels[model], model).image for _ in range(3)]
        return all(np.array_equal(result, expected[index % len(cases)]) for result in results)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_many_threads_write_one_file(tmp_path):
    """The last one wins, and it is whole."""
    images = [noise(60, 60, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda image: files.write_image(tmp_path / "a.png", image, overwrite=True), images * 4))
    pixels = read_image(tmp_path / "a.png").pixels
    assert any(np.array_equal(pixels, image) for image in images) and os.listdir(tmp_path) == ["a.png"]
