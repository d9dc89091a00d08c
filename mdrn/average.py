"""The mean of the weights of several runs of one network, often a little better than each: `mdrn average`.

Runs must have gone on from each other (`--init-from`): the mean of unrelated weights restores nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from mdrn import checkpoint
from mdrn.data import data_root, read_uint8, validation_files
from mdrn.train import validate, validation_levels


def average(files: Sequence[Path], out: Path, root: Path | None = None) -> dict[str, float]:
    """Write the mean of some networks' weights, and the last one's training record with the mean's validation added.

    Args:
        files: weights files of one id, in the order of their runs, at least two; the last one's header is kept, its
            recipe with the SHA-256 of all under 'mean_of'. Beside it is its record, `{id}.json`.
        out: the new weights file; its record goes beside it.
        root: folder of image sets; None uses MDRN_DATA.

    Returns:
        PSNR in dB on the validation split at each level, under the level's name.

    Raises:
        ValueError: if there are fewer than two files, or they are of different ids or networks, or `out` is there.
        CheckpointError: if a file is not what it should be.
        DataError: if the validation images are missing.
        OSError: if a record cannot be read.

    Reference:
        Wortsman et al., "Model soups", ICML 2022.
    """
    networks = [checkpoint.load(path) for path in files]
    last = networks[-1].header
    if len(networks) < 2 or any((n.header.id, n.header.model) != (last.id, last.model) for n in networks):
        raise ValueError(f"expected at least two files of one network, got {', '.join(n.header.id for n in networks)}")
    if out.exists():
        raise ValueError(f"expected the name of a new file, got {out}, which is there; remove it or name another")
    record = json.loads(Path(files[-1]).with_suffix(".json").read_text())
    states = [network.state_dict() for network in networks]
    mean = networks[-1].to(memory_format=torch.channels_last)
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[-1]})
    root = None if last.data.get("sets") == "samples" else data_root(root)
    images = [read_uint8(path, last.model.channels) for path in validation_files(root)]
    psnr = validate(mean, images, validation_levels(last.noise_level), bf16=True)
    recipe = {**last.recipe, "mean_of": [network.header.sha256 for network in networks]}
    checkpoint.write_weights(out, mean, dataclasses.replace(last, recipe=recipe))
    record["history"].append({"step": last.recipe["steps"], "mean_of": len(files), "psnr": psnr})
    checkpoint.write_atomically(out.with_suffix(".json"), json.dumps(record, indent=1).encode())
    return psnr
