"""The served demo, driven as a program drives it: `gradio_client`, plain HTTP, and `python app.py` as a process."""

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import gradio_client
import numpy as np
import pytest
from demo_site import GREY, TINY, make_image, served
from gradio_client import handle_file
from gradio_client.exceptions import AppError

import app
import mdrn
from demo import service
from mdrn import files
from mdrn.estimate import estimate_noise_level

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*grey network")


def connect(address):
    return gradio_client.Client(address, verbose=False)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("grey.png", (37, 31), "uint8"),
        ("deep.png", (37, 31, 3), "uint16"),
        ("deep.tif", (37, 31), "uint16"),
        ("alpha.png", (37, 31, 4), "uint8"),
    ],
)
def test_what_comes_back_is_the_librarys_bit_for_bit(name, shape, dtype, address, tmp_path):
    image = make_image(shape, dtype)
    files.write_image(tmp_path / name, image)
    path, facts = connect(address).predict(handle_file(tmp_path / name), api_name="/denoise")
    back = files.read_image(path)
    assert back.pixels.dtype == image.dtype and back.format == files.SUFFIXES[Path(name).suffix]
    assert np.array_equal(back.pixels, mdrn.denoise(image))
    assert facts["model"] == GREY and facts["estimated"]


def test_settings_reach_the_library(address, tmp_path):
    image = make_image((37, 31))
    files.write_image(tmp_path / "a.png", image)
    sent = {"image": handle_file(tmp_path / "a.png"), "noise_level": 25, "model": TINY, "strength": 0.5}
    path, facts = connect(address).predict(**sent, api_name="/denoise")
    expected = mdrn.denoise(image, 25, TINY, strength=0.5)
    assert np.array_equal(files.read_image(path).pixels, expected)
    assert not facts["estimated"] and facts["noise_level"] == 25 and facts["kind"] == "31 × 37 pixels, 8-bit grey, PNG"


def test_bad_uploads_get_a_sentence(address, tmp_path, monkeypatch):
    files.write_image(tmp_path / "whole.png", make_image((64, 64)))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    client = connect(address)
    limits = {"text.png": 5000, "cut.png": 5000, "whole.png": 4000}
    for name, words in {
        "text.png": "expected a PNG",
        "cut.png": "cut off",
        "whole.png": "at most 4,000 pixels",
    }.items():
        monkeypatch.setattr(service, "MAX_PIXELS", limits[name])
        with pytest.raises(AppError, match=words) as caught:
            client.predict(handle_file(tmp_path / name), api_name="/denoise")
        assert name in str(caught.value) and str(tmp_path) not in str(caught.value)
    monkeypatch.undo()


def call(address, *data):
    """Call /denoise by plain HTTP, as somebody would who does not play by the client's rules; return the answer."""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(f"{address}gradio_api/call/denoise", body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request))["event_id"]
    return urllib.request.urlopen(f"{address}gradio_api/call/denoise/{event}", timeout=60).read().decode()


def test_no_path_or_address_from_a_request_is_opened(address, tmp_path):
    files.write_image(tmp_path / "secret.png", make_image((20, 20)))
    secret, meta = str(tmp_path / "secret.png"), {"_type": "gradio.FileData"}
    for payload in (
        {"path": secret, "meta": meta},
        {"path": secret},
        {"path": "http://127.0.0.1:9/a.png", "meta": meta},
        {"path": "https://example.org/a.png", "url": "https://example.org/a.png", "meta": meta},
        {"path": "", "url": "data:image/png;base64,AAAA", "meta": meta},
        secret,
    ):
        answer = call(address, payload, 25, "automatic", 1, True, False)
        assert "event: error" in answer and "denoised" not in answer, payload
    for path in ("/etc/passwd", secret, ROOT / "app.py"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")


def test_clients_get_their_own_results(address, tmp_path):
    images = [make_image((37, 31), seed=seed) for seed in range(4)]
    for seed, image in enumerate(images):
        folder = tmp_path / str(seed)
        folder.mkdir()
        files.write_image(folder / "same_name.png", image)
    clients = [connect(address) for _ in images]
    jobs = [
        client.submit(handle_file(tmp_path / str(seed) / "same_name.png"), 25, api_name="/denoise")
        for seed, client in enumerate(clients)
    ]
    for image, job in zip(images, jobs, strict=True):
        assert np.array_equal(files.read_image(job.result()[0]).pixels, mdrn.denoise(image, 25))


def test_only_the_documented_endpoints_are_public(address):
    endpoints = connect(address).view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/denoise", "/denoise_files", "/estimate", "/compare", "/networks"}
    assert all(endpoint["description"] for endpoint in endpoints.values())
    parameters = {each["parameter_name"]: each for each in endpoints["/denoise"]["parameters"]}
    assert list(parameters) == ["image", "noise_level", "model", "strength", "keep_metadata", "as_png"]
    assert all(each["parameter_has_default"] for name, each in parameters.items() if name != "image")
    assert "Denoise one image file" in endpoints["/denoise"]["description"]


def test_a_large_upload_is_refused(address, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(101 * 2**20))
    with pytest.raises(Exception, match="(?i)413|size|large"):
        connect(address).predict(handle_file(tmp_path / "large.png"), api_name="/denoise")


def test_the_documented_examples_run(address, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "demo.md").read_text(encoding="utf-8"), re.DOTALL)
    [example] = [block for block in blocks if "gradio_client" in block]
    assert "http://127.0.0.1:7860" in example
    files.write_image(tmp_path / "photo.png", make_image((70, 80)))
    files.write_image(tmp_path / "scan.tif", make_image((20, 20), "uint16"))
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(example.replace("http://127.0.0.1:7860", address), made)
    expected = mdrn.denoise(make_image((70, 80)), 25, strength=0.7)
    assert np.array_equal(files.read_image(made["path"]).pixels, expected)
    assert [line["result"] for line in made["lines"]] == ["photo_denoised.png", "scan_denoised.tif"]
    assert made["level"] == estimate_noise_level(make_image((70, 80)))
    assert [score["method"] for score in made["scores"]] == ["noisy", "non_local_means"]
    assert made["scores"][1]["psnr"] > 0 and made["scores"][0]["parameters"] is None
    assert {network["id"] for network in made["networks"]} == {GREY, TINY}
    assert all(
        name in example for name in connect(address).view_api(return_format="dict", print_info=False)["named_endpoints"]
    )


def test_endpoints_have_types_and_their_settings_are_checked(address, tmp_path):
    endpoints = connect(address).view_api(return_format="dict", print_info=False)["named_endpoints"]
    for name, endpoint in endpoints.items():
        assert all(each["python_type"]["type"] not in ("", "Any") for each in endpoint["parameters"]), name
    files.write_image(tmp_path / "a.png", make_image((70, 80)))
    image = handle_file(tmp_path / "a.png")
    with pytest.raises(AppError, match="(?i)maximum|less than|75"):
        connect(address).predict(image, noise_level=80, api_name="/denoise")
    with pytest.raises(AppError, match="not in the list of choices"):
        connect(address).predict(image, model="../../etc/passwd", api_name="/denoise")
    answer = connect(address).predict(image, 40, 0, [GREY], api_name="/compare")
    assert answer["left_out"] == [] and [each["method"] for each in answer["scores"]] == ["noisy", GREY]


def test_agents_are_offered_the_same_endpoints(tmp_path):
    pytest.importorskip("mcp", reason='optional: pip install "gradio[mcp]"')
    with served(tmp_path, mcp_server=True) as address:
        schema = json.load(urllib.request.urlopen(f"{address}gradio_api/mcp/schema"))
    assert {tool["name"] for tool in schema} == {"denoise", "denoise_files", "estimate", "compare", "networks"}
    assert all(tool["description"] for tool in schema)


def test_agents_without_their_package_are_explained(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--mcp"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert 'pip install "gradio[mcp]"' in capsys.readouterr().err


@pytest.mark.slow
def test_app_starts_as_a_program_without_network(tmp_path):
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    environment = {**os.environ, **proxy, "no_proxy": "127.0.0.1", "GRADIO_TEMP_DIR": str(tmp_path)}
    command = [sys.executable, ROOT / "app.py", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        text = wait_for(f"http://127.0.0.1:{port}/", process)
        assert "MDRN image denoising" in text
    finally:
        process.terminate()
        output = process.communicate(timeout=30)[0].decode()
    assert "Traceback" not in output


def wait_for(address, process, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=5).read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} did not answer; the process ended with {process.poll()}")
