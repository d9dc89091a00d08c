"""Fetching, against a server on this machine that can also answer badly: what arrives is right, or nothing is there."""

import csv
import hashlib
import http.server
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import fetch, run, testsets
from mdrn.data import DataError

PATHS = {
    "Set12": "cszn/FFDNet/raw/e787f46/testsets/Set12/{}.png",
    "Urban100": "jbhuang0604/SelfExSR/raw/8f6dd8c1d20cb7e8792a7177b4f6fd677633f598/data/Urban100/image_SRF_4/"
    "{}_SRF_4_HR.png",
    "BSDS500": "BIDS/BSDS500/raw/a04b7c6c3a9f0ace74bf205c72a43d32e1c72722/BSDS500/data/images/{}",
}


def picture(seed: int, kind: str, channels: int) -> tuple[bytes, str]:
    """Return a small image file and the SHA-256 of its pixels."""
    shape = (12, 16) if channels == 1 else (12, 16, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue(), hashlib.sha256(pixels.tobytes()).hexdigest()


class Host:
    """A web server for a dictionary of files; `faults[path]` are answers to give first, one for each request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[str] = []
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.answer(self)

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.lstrip("/")
        self.asked.append(path)
        content, waiting = self.files.get(path), self.faults.get(path)
        fault = waiting.pop(0) if waiting else None
        if content is None or fault == "error":
            request.send_error(404 if content is None else 503)
            return
        promised = len(content)
        if fault == "wrong":
            content = picture(99, "PNG", 1)[0]
            promised = len(content)
        request.send_response(200)
        request.send_header("Content-Length", str(promised))
        request.end_headers()
        request.wfile.write(content[: promised // 2] if fault == "truncated" else content)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with three images of Set12, two of Urban100 and three of BSDS500, and facts that say so."""
    host, facts = Host(), tmp_path / "facts"
    facts.mkdir()
    lines = [("set", "name", "height", "width", "mode", "sha256")]
    for folder, names, channels in (("Set12", ("01", "02", "03"), 1), ("Urban100", ("img_001", "img_002"), 3)):
        for seed, name in enumerate(names):
            content, digest = picture(seed, "PNG", channels)
            host.files[PATHS[folder].format(name)] = content
            lines.append((folder, name, 12, 16, "RGB" if channels == 3 else "L", digest))
    with (facts / "pixels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    lines = [("file", "sha256")]
    for seed, name in enumerate(("train/1.jpg", "test/2.jpg", "val/3.jpg")):
        content, _ = picture(seed, "JPEG", 3)
        host.files[PATHS["BSDS500"].format(name)] = content
        lines.append((name, hashlib.sha256(content).hexdigest()))
    with (facts / "bsds500.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    monkeypatch.setattr(testsets, "FACTS", facts)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between attempts
    testsets._facts.cache_clear()
    yield host
    host.server.shutdown()
    host.server.server_close()
    testsets._facts.cache_clear()


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_sets_are_fetched_and_load(host, tmp_path):
    root = tmp_path / "data"
    assert fetch.fetch(["Set12", "Urban100", "BSDS500"], root, host.url, quiet=True) == 8
    assert files_in(root / "Set12") == ["01.png", "02.png", "03.png"]
    assert len(testsets.load("Set12", root).clean) == 3
    assert testsets.load("Urban100_rgb", root).clean["img_001"].shape == (12, 16, 3)
    testsets.check_training(root)
    asked = len(host.asked)
    assert fetch.fetch(["Set12", "Urban100", "BSDS500"], root, host.url, quiet=True) == 0
    assert len(host.asked) == asked


@pytest.mark.parametrize("fault", ["truncated", "wrong", "error"])
@pytest.mark.parametrize("folder, name", [("Set12", "02"), ("BSDS500", "test/2.jpg")])
def test_a_bad_answer_is_asked_for_again(host, tmp_path, fault, folder, name):
    path = PATHS[folder].format(name)
    host.faults[path] = [fault] * 2
    fetch.fetch([folder], tmp_path / "data", host.url, quiet=True)
    assert host.asked.count(path) == 3
    assert len(files_in(tmp_path / "data")) == 3


@pytest.mark.parametrize("fault", ["truncated", "wrong", "error"])
@pytest.mark.parametrize("folder, name", [("Set12", "02"), ("BSDS500", "test/2.jpg")])
def test_a_host_that_keeps_answering_badly_is_named_and_the_fetch_goes_on_later(host, tmp_path, fault, folder, name):
    path = PATHS[folder].format(name)
    host.faults[path] = [fault] * 4
    root = tmp_path / "data"
    with pytest.raises(DataError, match=f"{folder}: expected {name} from {host.url}/{path}, got") as caught:
        fetch.fetch([folder], root, host.url, quiet=True)
    assert "\n" not in str(caught.value)
    assert host.asked.count(path) == 4
    assert fetch.missing_images(folder, root).count(name) == 1
    there = files_in(root)
    assert not any(Path(file).name.startswith("tmp") for file in there)
    fetch.fetch([folder], root, host.url, quiet=True)
    assert len(files_in(root)) == 3


def test_what_the_user_has_is_left_alone(host, tmp_path):
    here = tmp_path / "data" / "set12"
    here.mkdir(parents=True)
    (here / "02.webp").write_bytes(b"mine")
    assert fetch.fetch(["Set12"], tmp_path / "data", host.url, quiet=True) == 2
    assert files_in(here) == ["01.png", "02.webp", "03.png"]
    assert (here / "02.webp").read_bytes() == b"mine"
    with pytest.raises(DataError, match="corrupt: 02.webp"):
        testsets.load("Set12", tmp_path / "data")


def test_the_command_line_fetches_first_and_a_dry_run_only_counts(host, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--fetch", host.url, "--sets", "Set12", "--methods", "noisy", "--lpips", "none", "--quiet"]
    options += ["--out", str(tmp_path / "out"), "--levels", "25"]
    assert run.main([*options, "--dry-run"]) == 2  # the set is not there yet
    captured = capsys.readouterr()
    assert "Set12 3" in captured.out
    assert captured.err.count("\n") == 1
    assert host.asked == []
    monkeypatch.setattr("benchmark.evaluate.metrics.ssim", lambda restored, clean: 0.5)  # 12 x 16 is too small for it
    assert run.main([*options, "--data-root", str(tmp_path / "data")]) == 0
    assert "3 rows added" in capsys.readouterr().out
    assert files_in(tmp_path / "data" / "Set12") == ["01.png", "02.png", "03.png"]


def test_no_host_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    options = ["--fetch", "http://127.0.0.1:9", "--sets", "Set12", "--quiet", "--data-root", str(tmp_path / "data")]
    assert run.main([*options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Set12: expected" in error and "leave --fetch out" in error
    assert files_in(tmp_path) == []


FAULTS = {
    "missing: train/1.jpg": lambda root: (root / "train/1.jpg").unlink(),
    "wrong or corrupt: test/2.jpg": lambda root: (root / "test/2.jpg").write_bytes(b"\xff\xd8 half"),
    "extra: val/4.jpg": lambda root: (root / "val/4.jpg").write_bytes(b"new"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_training_images_are_named(host, tmp_path, fault):
    root = tmp_path / "data"
    fetch.fetch(["BSDS500"], root, host.url, quiet=True)
    excluded = next(iter(sorted(testsets.bsds500_excluded())))
    (root / "BSDS500" / excluded).write_bytes(b"may be here, is never read")
    testsets.check_training(root)
    FAULTS[fault](root / "BSDS500")
    with pytest.raises(DataError, match=fault):
        testsets.check_training(root)
    with pytest.raises(DataError, match="expected a folder BSDS500 in"):
        testsets.check_training(tmp_path / "empty")


def test_every_set_has_a_source_and_facts():
    for known in testsets.SETS.values():
        assert (known.folder is None) == (known.remote is None)
        if known.folder:
            facts = testsets.expected_bytes if known.folder in testsets.BY_BYTES else testsets.expected_pixels
            assert len(facts(known.folder)) >= 12
    assert len(testsets.expected_bytes()) == 431
    assert not set(testsets.expected_bytes()) & testsets.bsds500_excluded()
    assert fetch.folders_of(None, True) == ["Set12", "BSD68", "Urban100", "BSDS500"]
    assert fetch.folders_of(["Urban100", "Urban100_rgb", "samples"], False) == ["Urban100"]


def test_the_real_training_images_are_the_recipe_s():
    root = os.environ.get("MDRN_DATA")
    if not root or not (Path(root) / "BSDS500").is_dir():
        pytest.skip("set MDRN_DATA to a folder that holds BSDS500 to run this test")
    testsets.check_training(Path(root))
