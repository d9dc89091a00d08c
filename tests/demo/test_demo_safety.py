"""What strangers may send to the served demo, and what it leaves behind."""

import json
import os
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import gradio_client
import pytest
from demo_site import make_image, until
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from demo import workspace as workspace_module
from demo.workspace import Workspace
from mdrn import files

ROOT = Path(__file__).parents[2]
META = {"_type": "gradio.FileData"}
FILES = ("/denoise", "/estimate", "/denoise_files", "/compare")


def send(connection, path, endpoint):
    file = handle_file(path)
    return connection.predict([file] if endpoint == "/denoise_files" else file, api_name=endpoint)


def png(width, height, data):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("endpoint", FILES)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(endpoint, client, tmp_path):
    """60000 x 60000 RGB pixels are 11 GB: the test would not survive them."""
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, zlib.compress(bytes(10**6))))
    with pytest.raises(AppError, match=r"26,000,000.*60000 x 60000|60000 × 60000 pixels, more than the 26,000,000"):
        send(client, tmp_path / "bomb.png", endpoint)


def test_a_bomb_in_a_small_image_is_refused(client, tmp_path):
    """A few pixels by its header, many megabytes by its stream."""
    (tmp_path / "lie.png").write_bytes(png(10, 10, zlib.compress(bytes(300 * 10**6))))
    began = time.monotonic()
    try:
        _, facts = send(client, tmp_path / "lie.png", "/denoise")
        assert facts["pixels"] == 100
    except AppError as error:
        assert "lie.png" in str(error)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "PDF"])
@pytest.mark.parametrize("name", ["picture.png", "own"])
def test_other_formats_are_refused_whatever_they_are_called(kind, name, client, tmp_path):
    path = tmp_path / (name if name != "own" else f"picture.{kind.lower()}")
    Image.fromarray(make_image((32, 32, 3))).save(path, kind)
    with pytest.raises(Exception, match=r"(?i)expected a PNG|invalid file type|file type"):
        send(client, path, "/denoise")


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 64]
)
def test_programs_and_noise_that_call_themselves_images_are_refused(content, client, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(AppError, match="a.png: expected a PNG"):
        send(client, tmp_path / "a.png", "/estimate")


def post(url, body, kind="application/json"):
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    return json.load(urllib.request.urlopen(request, timeout=60))


def call(address, endpoint, *data):
    event = post(f"{address}gradio_api/call{endpoint}", json.dumps({"data": data}).encode())["event_id"]
    return urllib.request.urlopen(f"{address}gradio_api/call{endpoint}/{event}", timeout=60).read().decode()


def test_no_path_or_address_from_a_request_is_opened(address, tmp_path):
    files.write_image(tmp_path / "secret.png", make_image((20, 20)))
    secret = str(tmp_path / "secret.png")
    for payload in (
        {"path": secret, "meta": META},
        {"path": secret},
        {"path": f"{os.environ['GRADIO_TEMP_DIR']}/../{tmp_path.name}/secret.png", "meta": META},
        {"path": "http://127.0.0.1:9/a.png", "meta": META},
        {"path": "http://127.0.0.1:9/a.png", "is_stream": True, "meta": META},
        {"path": "https://example.org/a.png", "url": "https://example.org/a.png", "meta": META},
        {"path": "", "url": "data:image/png;base64,AAAA", "meta": META},
        secret,
    ):
        for endpoint, sent in (("/denoise", payload), ("/denoise_files", [payload]), ("/denoise_files", payload)):
            answer = call(address, endpoint, sent, 25, "automatic", 1, True, False)
            assert "event: error" in answer and "denoised" not in answer, (endpoint, payload)
    for path in ("/etc/passwd", secret, ROOT / "app.py"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")


@pytest.mark.parametrize(
    "name", ["../../../escaped.png", "..\\..\\escaped.png", "/tmp/escaped.png", "a/../../escaped.png"]
)
def test_an_uploads_name_does_not_choose_where_it_is_written(name, address, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    content = (tmp_path / "a.png").read_bytes()
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    [path] = post(
        f"{address}gradio_api/upload", head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )
    root = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    assert Path(path).resolve().is_relative_to(root)
    answer = call(address, "/denoise", {"path": path, "meta": META}, 25, "automatic", 1, True, False)
    assert "event: complete" in answer
    result = Path(json.loads(answer.split("data: ")[1])[0]["path"]).resolve()
    assert result.is_relative_to(root)


def test_another_sessions_results_cannot_be_listed(address):
    results = Path(os.environ["GRADIO_TEMP_DIR"]) / "results"
    results.mkdir(exist_ok=True)
    for path in (results, results.parent):
        with pytest.raises(urllib.error.HTTPError, match="40[0-9]"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")


@pytest.mark.slow  # the server notices after its next heartbeat, 15 s
def test_a_clients_results_go_when_it_hangs_up(address, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    results = Path(os.environ["GRADIO_TEMP_DIR"]) / "results"
    before = set(results.iterdir()) if results.exists() else set()
    connection = gradio_client.Client(address, verbose=False)
    send(connection, tmp_path / "a.png", "/denoise")
    assert set(results.iterdir()) - before
    connection.close()
    until(lambda: not set(results.iterdir()) - before, "an empty folder of results")


def test_forgotten_folders_go_in_the_background_with_those_of_an_earlier_server(tmp_path, monkeypatch):
    old = tmp_path / "of_an_earlier_server"
    old.mkdir()
    monkeypatch.setattr(workspace_module, "KEEP_SECONDS", 0.2)
    workspace = Workspace(tmp_path)
    mine = workspace.new("me")
    workspace.keep_swept(seconds=0.05)
    until(lambda: not mine.exists() and not old.exists(), "an empty folder", seconds=10)


@pytest.mark.slow
def test_only_the_temporary_folder_is_written_to(tmp_path):
    """The page is built, served and used by a process whose home and working folder are watched."""
    for name in ("home", "here", "temporary"):
        (tmp_path / name).mkdir()
    files.write_image(tmp_path / "a.png", make_image((64, 64)))
    code = """
import sys
from gradio_client import Client, handle_file
from demo.ui import build, launch
_, url, _ = launch(build(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
client = Client(url, verbose=False, download_files=False)
client.predict(handle_file(sys.argv[1]), 25, api_name="/denoise")
client.predict(handle_file(sys.argv[1]), 25, 0, ["non_local_means", "wavelet"], api_name="/compare")
"""
    paths = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "temporary", "XDG_CACHE_HOME": tmp_path / "home" / "cache"}
    environment = {**os.environ, **{name: str(path) for name, path in paths.items()}, "PYTHONPATH": str(ROOT)}
    environment.pop("GRADIO_TEMP_DIR", None)
    before = {
        path for part in ("demo", "mdrn", "results") for path in (ROOT / part).rglob("*") if path.suffix != ".pyc"
    }
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = {path for part in ("demo", "mdrn", "results") for path in (ROOT / part).rglob("*") if path.suffix != ".pyc"}
    assert not {path for path in after - before if path.name != "__pycache__"}
    assert list((tmp_path / "home").iterdir()) == [] and list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir())
