"""Twelve megapixels on two cores stay under 1.5 GiB, everything included."""

import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import numpy as np, torch
from mdrn.inference import restore
from mdrn.model import MDRN, PRESETS
torch.set_num_threads(2)
network = MDRN(PRESETS[sys.argv[1]]).eval().to(memory_format=torch.channels_last)
image = np.random.default_rng(0).integers(0, 256, (3000, 4000), dtype=np.uint8)
restored = restore(image, None if sys.argv[2] == "auto" else 25, network).image
assert restored.shape == image.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory in Linux's unit; run it there")
def test_twelve_megapixels_stay_under_one_and_a_half_gib():
    done = subprocess.run([sys.executable, "-c", CHILD, "mdrn", "auto"], capture_output=True, text=True, check=True)
    kib = int(done.stdout)
    assert kib < 1.5 * 2**20, f"{kib / 2**20:.2f} GiB"
