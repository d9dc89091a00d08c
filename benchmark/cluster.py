"""Training a plan on several machines: each run is a Ray task, started again where its worker is lost.

All machines need this source tree, the data and the results folder at the same paths. `run` imports this module when
`--ray` is given; ray is an optional dependency.
"""

import dataclasses
import os
from pathlib import Path

from benchmark.plan import Run
from benchmark.training import in_order, train_one
from mdrn.denoiser import MdrnError

_RETRIES = 5  # of a task whose worker or machine is lost; it goes on from its last checkpoint


def train_all(runs: list[Run], root: Path | None, device: str, jobs: int, address: str, quiet: bool = False) -> None:
    """Train what is missing on a Ray cluster: teachers first, then all runs as room is found for them.

    `jobs` runs share one machine: its cores, or its GPU. The address may be 'auto': the cluster that this machine
    belongs to, else one of this machine alone. If a run fails, the others' results are kept.
    """
    ray = _connected(address, quiet)
    try:
        cpus = max(1, (os.cpu_count() or 1) // jobs)
        needs = {"num_cpus": 1, "num_gpus": 1 / jobs} if device.startswith("cuda") else {"num_cpus": cpus}
        task = ray.remote(**needs, max_retries=_RETRIES)(train_one)
        for part in in_order(runs):
            _wait(ray, [task.remote(_absolute(run), root and root.resolve(), device, cpus, quiet) for run in part])
    finally:
        ray.shutdown()


def _connected(address: str, quiet: bool):
    try:
        import ray
    except ImportError as error:
        raise MdrnError("--ray: ray is not installed; `pip install ray`") from error
    here = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    try:
        ray.init(
            address=None if address == "auto" else address,
            runtime_env={"env_vars": here},
            log_to_driver=not quiet,
            include_dashboard=False if address == "auto" and not os.environ.get("RAY_ADDRESS") else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MdrnError(f"--ray {address}: no cluster there ({' '.join(str(error).split())})") from error
    return ray


def _wait(ray, tasks: list) -> None:
    """Wait for all tasks; the first failure is raised when the others are done, as what it was."""
    failure = None
    for task in tasks:
        try:
            ray.get(task)
        except ray.exceptions.RayTaskError as error:
            failure = failure or error.cause
        except ray.exceptions.RayError as error:
            failure = failure or MdrnError(f"--ray: a task was lost more than {_RETRIES} times: {error}")
    if failure:
        raise failure


def _absolute(run: Run) -> Run:
    """Return the run with paths that hold wherever a worker starts."""
    teacher = run.teacher
    if teacher and (os.sep in teacher or Path(teacher).is_file()):
        teacher = str(Path(teacher).resolve())
    return dataclasses.replace(run, out=run.out.resolve(), teacher=teacher)
