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
import urllib.request
from pathlib import Path

import gradio_client
import numpy as np
import pytest
from demo_site import COLOUR, GREY, TINY, make_image, served
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
import mdrn
from demo import service
from mdrn import files
from mdrn.estimate import estimate_noise_level

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("grey.png", (37, 31), "uint8"),
        ("deep.png", (37, 31, 3), "uint16"),
        ("deep.tif", (37, 31), "uint16"),
        ("alpha.png", (37, 31, 4), "uint8"),
    ],
)
def test_what_comes_back_is_the_librarys_bit_for_bit(name, shape, dtype, client, tmp_path):
    image = make_image(shape, dtype)
    files.write_image(tmp_path / name, image)
    path, facts = client.predict(handle_file(tmp_path / name), api_name="/denoise")
    back = files.read_image(path)
    assert back.pixels.dtype == image.dtype and back.format == files.SUFFIXES[Path(name).suffix]
    assert np.array_equal(back.pixels, mdrn.denoise(image))
    assert facts["model"] == (GREY if len(shape) == 2 else COLOUR) and facts["estimated"]


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_settings_reach_the_library(strength, client, tmp_path):
    image = make_image((37, 31))
    files.write_image(tmp_path / "a.png", image)
    sent = {"image": handle_file(tmp_path / "a.png"), "noise_level": 25, "model": TINY, "strength": strength}
    path, facts = client.predict(**sent, api_name="/denoise")
    expected = mdrn.denoise(image, 25, TINY, strength=strength)
    assert np.array_equal(files.read_image(path).pixels, expected)
    assert not facts["estimated"] and facts["noise_level"] == 25 * max(1, strength)
    assert facts["kind"] == "31 × 37 pixels, 8-bit grey, PNG"


def test_what_libvips_reads_here_is_accepted_and_comes_back_as_png(client, tmp_path):
    assert service.accepted()[: len(files.SUFFIXES)] == list(files.SUFFIXES)
    assert set(service.accepted()) <= {*files.SUFFIXES, *files.ALSO_READ}
    if ".avif" in service.accepted():
        Image.fromarray(make_image((40, 30, 3))).save(tmp_path / "a.avif", "AVIF", quality=90)
        path, _ = client.predict(handle_file(tmp_path / "a.avif"), 25, api_name="/denoise")
        expected = mdrn.denoise(files.read_image(tmp_path / "a.avif").pixels, 25)
        assert path.endswith("a_denoised.png") and np.array_equal(files.read_image(path).pixels, expected)


def test_clients_get_their_own_results(address, tmp_path):
    images = [make_image((37, 31), seed=seed) for seed in range(4)]
    for seed, image in enumerate(images):
        folder = tmp_path / str(seed)
        folder.mkdir()
        files.write_image(folder / "same_name.png", image)
    clients = [gradio_client.Client(address, verbose=False) for _ in images]
    jobs = [
        client.submit(handle_file(tmp_path / str(seed) / "same_name.png"), 25, api_name="/denoise")
        for seed, client in enumerate(clients)
    ]
    for image, job in zip(images, jobs, strict=True):
        assert np.array_equal(files.read_image(job.result()[0]).pixels, mdrn.denoise(image, 25))


def test_only_the_documented_endpoints_are_public(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/denoise", "/denoise_files", "/estimate", "/compare", "/networks"}
    assert all(endpoint["description"] for endpoint in endpoints.values())
    parameters = {each["parameter_name"]: each for each in endpoints["/denoise"]["parameters"]}
    assert list(parameters) == ["image", "noise_level", "model", "strength", "keep_metadata", "as_png"]
    assert all(each["parameter_has_default"] for name, each in parameters.items() if name != "image")
    assert "Denoise one image file" in endpoints["/denoise"]["description"]
    for name, endpoint in endpoints.items():
        assert all(each["python_type"]["type"] not in ("", "Any") for each in endpoint["parameters"]), name


def test_the_file_of_a_camera_fits_and_a_larger_one_is_refused(client, tmp_path):
    limit = int(service.MAX_FILE_SIZE.removesuffix("mb")) * 2**20
    assert 6000 * 4000 * 3 * 2 < limit < 200 * 2**20
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(Exception, match="(?i)413|size|large"):
        client.predict(handle_file(tmp_path / "large.png"), api_name="/denoise")


def test_the_documented_examples_run(address, client, tmp_path, monkeypatch):
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
    assert {network["id"] for network in made["networks"]} == {GREY, TINY, COLOUR}
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert all(name in example for name in endpoints)


def test_settings_are_checked(client, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((70, 80)))
    image = handle_file(tmp_path / "a.png")
    with pytest.raises(AppError, match="(?i)maximum|less than|75"):
        client.predict(image, noise_level=80, api_name="/denoise")
    with pytest.raises(AppError, match="not in the list of choices"):
        client.predict(image, model="../../etc/passwd", api_name="/denoise")
    answer = client.predict(image, 40, 0, [GREY], api_name="/compare")
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
