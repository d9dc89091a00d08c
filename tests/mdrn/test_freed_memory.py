"""Reusing freed memory spares the system its work, and changes no result."""

import json
import subprocess
import sys

import pytest

from mdrn.inference import reuse_freed_memory

CHILD = """
import hashlib, json, resource, sys, threading
import torch
from mdrn import load
from mdrn.inference import reuse_freed_memory
torch.set_num_threads(1)
done = sys.argv[1] == "reuse" and reuse_freed_memory()
network = load("mdrn_tiny")
noisy = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
faults, digests = [], set()

def work():
    with torch.inference_mode():
        for _ in range(4):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            restored = network(noisy, 0.1)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
            digests.add(hashlib.sha256(restored.numpy().tobytes()).hexdigest())

work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(json.dumps({"done": done, "faults": [faults[3], faults[7]], "digests": sorted(digests)}))
"""


def run(how: str) -> dict:
    return json.loads(subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux's page faults")
def test_memory_is_mapped_once_in_every_thread():
    reused, fresh = run("reuse"), run("leave")
    if not reused["done"]:
        pytest.skip("run on Linux with glibc to run this test")
    assert max(reused["faults"]) <= 300 and sum(reused["faults"]) < sum(fresh["faults"]) / 10
    assert reused["digests"] == fresh["digests"] and len(fresh["digests"]) == 1


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reuse_freed_memory() is False
