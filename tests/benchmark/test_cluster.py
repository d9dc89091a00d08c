"""A plan on a Ray cluster: a lost worker's run is started again elsewhere, and the result is the same."""

import dataclasses
import sys
import threading
import time

import pytest
from test_plan import OPTIONS, TAUGHT, changed

from benchmark import cluster
from benchmark.plan import runs_of
from benchmark.training import train_one
from mdrn import checkpoint
from mdrn.denoiser import MdrnError


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MdrnError, match="--ray: ray is not installed; `pip install ray`"):
        cluster.train_all(runs_of("test", TAUGHT, tmp_path), None, "cpu", 1, "auto")


def test_paths_hold_wherever_a_worker_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.safetensors").write_bytes(b"")
    relative = dataclasses.replace(runs_of("test", TAUGHT, tmp_path)[-1], out=tmp_path.relative_to(tmp_path))
    file = dataclasses.replace(relative, teacher="teacher.safetensors")
    released = dataclasses.replace(relative, teacher="teacher.plain_n0-75_s0")
    absolute = [cluster._absolute(run) for run in (file, released)]
    assert [run.out for run in absolute] == [tmp_path] * 2
    assert [run.teacher for run in absolute] == [str(tmp_path / "teacher.safetensors"), "teacher.plain_n0-75_s0"]


@pytest.mark.slow
def test_a_killed_worker_s_run_goes_on_elsewhere_to_the_same_weights(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="run `pip install ray` to run this test")
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("MDRN_DATA", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers stand back behind everything else: 15
    plan = dataclasses.replace(
        changed(TAUGHT, strategies=("plain", "hmds"), options=OPTIONS | {"steps": 200}), validations=20
    )
    runs = runs_of("test", plan, tmp_path / "ray")
    students = runs[1:]
    here = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    nodes = [here.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    killed = []

    def kill_one() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if all(run.steps_done for run in students):  # one run on each node, and both have a checkpoint
                killed.append([run.steps_done for run in students])
                here.remove_node(nodes[0], allow_graceful=False)
                return
            time.sleep(0.2)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        monkeypatch.setattr(cluster.os, "cpu_count", lambda: 1)
        cluster.train_all(runs, None, "cpu", 1, here.address, quiet=True)
    finally:
        killer.join()
        here.shutdown()
    assert killed and min(killed[0]) < 200
    assert all(run.finished for run in runs)
    alone = runs_of("test", plan, tmp_path / "alone")
    for run in alone:
        train_one(run, None, "cpu", threads=1, quiet=True)
    for there, near in zip(runs, alone, strict=True):
        assert checkpoint.read_header(there.weights).sha256 == checkpoint.read_header(near.weights).sha256
