"""Large images stay within their memory, everything included, and come out as if they had been done whole."""

import json
import subprocess
import sys

import numpy as np
import pytest
from skimage.data import camera

from mdrn import checkpoint
from mdrn.files import encode_image, read_image
from mdrn.inference import restore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory in Linux's unit; run it there"),
]

RESTORE = """
import re, sys
import numpy as np, torch
from mdrn.inference import restore
from mdrn.model import MDRN, PRESETS
torch.set_num_threads(2)
network = MDRN(PRESETS[sys.argv[1]]).eval().to(memory_format=torch.channels_last)
image = np.random.default_rng(0).integers(0, 256, (3000, 4000), dtype=np.uint8)
restored = restore(image, None if sys.argv[2] == "auto" else 25, network).image
assert restored.shape == image.shape
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss begins with the parent's
"""

COMMAND = """
import json, re, sys, time
from mdrn.cli import main
began = time.perf_counter()
code = main(sys.argv[1:])
seconds = time.perf_counter() - began
kib = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps({"code": code, "kib": kib, "seconds": seconds}))
"""


def in_a_process(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_twelve_megapixels_stay_under_one_and_a_half_gib():
    kib = int(in_a_process(RESTORE, "mdrn", "auto"))
    assert kib < 1.5 * 2**20, f"{kib / 2**20:.2f} GiB"


def test_a_hundred_megapixels_from_file_to_file(tmp_path):
    """2 GiB beyond the decoded image, and the seams of its tiles are not there."""
    side, level, model = 10_000, 25, "mdrn_tiny"
    rng = np.random.default_rng(0)
    noise = np.tile(rng.normal(0, level, (1000, 1000)).astype(np.int16), (10, 10))
    image = np.clip(np.tile(camera(), (20, 20))[:side, :side] + noise, 0, 255).astype(np.uint8)
    (tmp_path / "in.png").write_bytes(encode_image(image, "png"))
    said = json.loads(
        in_a_process(
            COMMAND,
            "denoise",
            str(tmp_path / "in.png"),
            "-o",
            str(tmp_path / "out.png"),
            "--model",
            model,
            "--noise-level",
            str(level),
        )
    )
    beyond = said["kib"] * 1024 - image.nbytes
    assert said["code"] == 0 and beyond < 2 * 2**30, f"{beyond / 2**30:.2f} GiB beyond the image"
    print(f"{beyond / 2**30:.2f} GiB beyond the image, {said['seconds']:.0f} s")

    result = read_image(tmp_path / "out.png").pixels
    assert result.shape == image.shape and result.dtype == np.uint8
    halo = -(-checkpoint.load(model).receptive_field_radius // 8) * 8
    for corner in rng.integers(halo, side - 800 - halo, (4, 2)) // 8 * 8:
        core = tuple(slice(at, at + 800) for at in corner)
        crop = tuple(slice(at - halo, at + 800 + halo) for at in corner)
        whole = restore(image[crop], level, model, tile=10_000).image
        inner = whole[halo : halo + 800, halo : halo + 800].astype(int)
        assert np.abs(result[core] - inner).max() <= 1 and (result[core] != inner).mean() < 1e-3
