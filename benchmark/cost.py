"""`python -m benchmark.cost WEIGHTS`: time and memory of one network on one image, in a process of its own.

A fresh process, so that nothing that ran before is counted. `evaluate` starts it once for each kind of network and puts
what it prints into the record of the evaluation; ratios between networks are `speed`'s business.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIZE = 512  # side of the image in pixels
_REPEATS = 9
_SIGMA = 0.1  # of no consequence
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CostError(RuntimeError):
    """Time and memory could not be measured."""


_measured: dict[tuple[str, str, int], dict[str, float | None]] = {}


def cost(kind: str, weights: str, device: str, threads: int) -> dict[str, float | None]:
    """Return what one image of 512 x 512 costs, from a fresh process.

    Args:
        kind: what stands for the architecture; each is measured once.
        weights: released id or file.
        device: 'cpu' or 'cuda'.
        threads: of torch.

    Returns:
        'milliseconds_512', the fastest of 9 after one that is not timed, and 'peak_memory_mib_512', what is needed at
        most beyond the loaded network (on the GPU: of its memory); None where the system does not tell.

    Raises:
        CostError: if the process fails.
    """
    key = (kind, device, threads)
    if key in _measured:
        return _measured[key]
    command = [sys.executable, "-m", "benchmark.cost", str(Path(weights).resolve()) if os.sep in weights else weights]
    command += ["--device", device, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise CostError(f"measuring time and memory of {weights} failed: {''.join(last)}")
    return _measured.setdefault(key, json.loads(done.stdout))


def measure(weights: str, device: str) -> dict[str, float | None]:
    """Measure in this process; see `cost`."""
    import torch

    from benchmark.evaluate import exact_fp32, to_tensor
    from benchmark.methods import network

    method = network(weights, "")
    channels = method.channels[0]
    with exact_fp32(), torch.inference_mode():
        restore = method.prepare(device)
        shape = (SIZE, SIZE) if channels == 1 else (SIZE, SIZE, channels)
        noisy = to_tensor(torch.rand(shape, generator=torch.Generator().manual_seed(0)).numpy(), device)
        restore(noisy[..., :64, :64], _SIGMA)  # libraries that load on first use are nobody's cost
        memory = peak_mib(lambda: restore(noisy, _SIGMA), device)
        times = [seconds(lambda: restore(noisy, _SIGMA), device) for _ in range(_REPEATS)]
    return {"milliseconds_512": round(1000 * min(times), 2), "peak_memory_mib_512": memory}


def seconds(call: Callable[[], object], device: str) -> float:
    """Return the wall time of a call."""
    import torch

    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mib(call: Callable[[], object], device: str) -> float | None:
    """Return the memory in MiB that a call takes at most beyond what is taken; None where the system does not tell."""
    import torch

    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
    try:
        before = _status_mib("VmRSS")
        _RESET.write_text("5")  # the kernel forgets the process's earlier peak
        call()
        return round(_status_mib("VmHWM") - before, 1)
    except (OSError, StopIteration):
        return None


def _status_mib(field: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.cost", description=__doc__.split("\n\n")[0])
    parser.add_argument("weights", help="released id or weights file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        print(json.dumps(measure(options.weights, options.device)))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
