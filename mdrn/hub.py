"""Networks on the Hugging Face Hub: the one-file checkpoint as `model.safetensors`, with a generated model card.

On top of the library: nothing in `mdrn` imports this module.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, hf_hub_download

from mdrn import checkpoint
from mdrn.denoiser import MdrnError, count_parameters
from mdrn.files.writing import write_atomically
from mdrn.model import MDRN

WEIGHTS_NAME = "model.safetensors"
_TASK = "image-to-image"
_WHITE = "white Gaussian noise; the noise of photographs is smoother"
_PHOTOGRAPHS = "the noise of photographs and for white Gaussian noise"
_CARD = """---
{data}
---

# {header.id}

A lightweight progressive denoiser for {colours} images: {parameters:,} parameters, {stages}. Trained for
{levels} (standard deviation on the 8-bit scale) with the strategy `{header.strategy}`.

An independent implementation of the *abstract* of Li et al., "Multiple Degradation and Reconstruction Network for
Single Image Denoising via Knowledge Distillation" (CVPR Workshops 2022,
[arXiv:2204.13873](https://arxiv.org/abs/2204.13873)). It is not the authors' code, which was never published, and no
number here is the paper's.

## Use

```python
import mdrn
from mdrn import hub

network = hub.load("{repo}")
restored = mdrn.denoise(image, noise_level={example}, model=network)  # NumPy, 8 bit, 16 bit or float
restored = network(noisy, sigma={example} / 255)  # torch, (B, {config.channels}, H, W) in [0, 1] units
```

`mdrn denoise photo.png --model {weights}` does the same from the command line. Everything that rebuilds the
network is in the header of `{weights}`.

## Results

{results}

## Training and limits

{header.patches:,} patches of `{data_sets}`, recipe `{recipe}`, seed {header.seed}, code {header.git};
SHA-256 of the tensors `{header.sha256}`. Made for {noise},
not for JPEG blocks or blur.
"""


@dataclasses.dataclass(frozen=True)
class Score:
    """Mean quality of a network on one test set at one noise level.

    Args:
        set_name: of the test set.
        noise_level: standard deviation on the 8-bit scale.
        protocol: how noise and numbers were made, such as 'awgn'.
        images: number of them.
        psnr: in dB.
        ssim: structural similarity.
    """

    set_name: str
    noise_level: float
    protocol: str
    images: int
    psnr: float
    ssim: float


def save(network: MDRN, folder: str | Path, scores: Sequence[Score] = (), repo: str | None = None) -> Path:
    """Write a network's file and its model card into a folder, as the Hub holds them.

    Args:
        network: with the `header` of its file.
        folder: made if it is not there.
        scores: what the results say of it; they become a table and the card's machine-readable metrics.
        repo: where it will be, for the card's example; the network's id if there is none yet.

    Returns:
        The folder.

    Raises:
        MdrnError: if the network has no header, as fresh weights have not.
    """
    card = model_card(network, scores, repo)
    checkpoint.write_weights(Path(folder) / WEIGHTS_NAME, network, network.header)
    write_atomically(Path(folder) / "README.md", str(card).encode())
    return Path(folder)


def load(folder_or_repo: str | Path, revision: str | None = None, device: str = "cpu") -> MDRN:
    """Load a network from a folder that `save` wrote, or from a repository on the Hub.

    Args:
        folder_or_repo: a folder, or 'user/name'.
        revision: branch, tag or commit of the repository.
        device: where to put it.

    Raises:
        CheckpointError: if the file is not ours.
    """
    path = Path(folder_or_repo) / WEIGHTS_NAME
    if not Path(folder_or_repo).is_dir():
        path = Path(hf_hub_download(str(folder_or_repo), WEIGHTS_NAME, revision=revision))
    return checkpoint.load(path, device)


def push(
    network: MDRN, repo: str, scores: Sequence[Score] = (), private: bool = False, message: str = "Upload network"
) -> str:
    """Upload what `save` writes to 'user/name' on the Hub, made if it is not there; return the commit's address."""
    api = HfApi()
    target = api.create_repo(repo, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory(prefix="mdrn-hub-") as folder:
        save(network, folder, scores, target)
        return str(api.upload_folder(repo_id=target, folder_path=folder, commit_message=message))


def model_card(network: MDRN, scores: Sequence[Score] = (), repo: str | None = None) -> ModelCard:
    """Return the card of a network; arguments and errors as in `save`."""
    header, config = getattr(network, "header", None), network.config
    if header is None:
        raise MdrnError("network: expected one with a header, got fresh weights; set network.header to a Header")
    low, high = header.noise_level
    data = ModelCardData(
        library_name="mdrn",
        license="apache-2.0",
        pipeline_tag=_TASK,
        tags=["image-denoising", "image-restoration", "pytorch"],
        model_name=header.id,
        eval_results=[result for score in scores for result in _eval_results(score)] or None,
    )
    stages = len(config.stages)
    return ModelCard(
        _CARD.format(
            data=data.to_yaml(),
            header=header,
            config=config,
            colours="grey" if config.channels == 1 else "RGB",
            parameters=count_parameters(network),
            stages=f"{stages} stage{'s' * (stages > 1)}",
            levels=f"noise level {low:g}" if low == high else f"noise levels {low:g} to {high:g}",
            example=f"{min(max(25.0, low), high):g}",
            repo=repo or header.id,
            weights=WEIGHTS_NAME,
            results=_table(scores) if scores else "None were given.",
            data_sets=header.data.get("sets", "unknown"),
            recipe=header.recipe.get("version", "unknown"),
            noise=_PHOTOGRAPHS if header.recipe.get("camera_share") else _WHITE,
        )
    )


def _eval_results(score: Score) -> list[EvalResult]:
    level = f"noise level {score.noise_level:g}"
    place = {
        "task_type": _TASK,
        "task_name": "Image denoising",
        "dataset_type": score.set_name.lower(),
        "dataset_name": f"{score.set_name}, {level}",
        "dataset_config": f"{level}, {score.protocol}",
    }
    return [
        EvalResult(metric_type="psnr", metric_name="PSNR (dB)", metric_value=round(score.psnr, 3), **place),
        EvalResult(metric_type="ssim", metric_name="SSIM", metric_value=round(score.ssim, 4), **place),
    ]


def _table(scores: Sequence[Score]) -> str:
    lines = ["| test set | images | noise level | protocol | PSNR (dB) | SSIM |", "|---|---:|---:|---|---:|---:|"]
    for s in scores:
        lines.append(f"| {s.set_name} | {s.images} | {s.noise_level:g} | {s.protocol} | {s.psnr:.2f} | {s.ssim:.4f} |")
    return "\n".join(lines)
