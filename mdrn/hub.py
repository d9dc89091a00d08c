"""Networks on the Hugging Face Hub: the one-file checkpoint as `model.safetensors`, with a generated model card.

`mdrn.model` imports this module; it imports `mdrn.checkpoint` when called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download

WEIGHTS_NAME = "model.safetensors"
_TASK = "image-to-image"
_TAGS = ("image-denoising", "image-restoration", "pytorch")
_CARD = """---
{data}
---

# {id}

A lightweight progressive denoiser for {colours} images: {parameters:,} parameters, {stages}. Trained for
{levels} (standard deviation on the 8-bit scale) with the strategy `{strategy}`.

An independent implementation of the *abstract* of Li et al., "Multiple Degradation and Reconstruction Network for
Single Image Denoising via Knowledge Distillation" (CVPR Workshops 2022,
[arXiv:2204.13873](https://arxiv.org/abs/2204.13873)). It is not the authors' code, which was never published, and no
number here is the paper's.

## Use

```python
import mdrn
from mdrn.model import MDRN

network = MDRN.from_pretrained("{repo}")
restored = mdrn.denoise(image, noise_level={example}, model=network)  # NumPy, 8 bit, 16 bit or float
restored = network(noisy, sigma={example} / 255)  # torch, (B, {channels}, H, W) in [0, 1] units
```

`mdrn denoise photo.png --model {weights}` does the same from the command line. Everything that rebuilds the
network is in the header of `{weights}`; `config.json` repeats a part of it for the Hub alone.

## Results

{results}

## Training and limits

{patches:,} patches of `{data_sets}`, recipe `{recipe}`, seed {seed}, code {git}; SHA-256 of the tensors `{sha256}`.
Made for white Gaussian noise: real sensor noise after a camera's processing, JPEG artefacts and blur are not.
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


class OnHub(PyTorchModelHubMixin, library_name="mdrn", license="apache-2.0", pipeline_tag=_TASK, tags=list(_TAGS)):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` for a network that carries the `header` of its file.

    `save_pretrained` and `push_to_hub` take `model_card_kwargs={"scores": [Score(...)], "repo": "user/name"}`.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        from mdrn import checkpoint

        checkpoint.write_weights(save_directory / WEIGHTS_NAME, self, self._require_header())

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        config: object = None,
    ):
        """Load from a folder or from the Hub; `config`, what config.json says, is left to the weights' own header."""
        from mdrn import checkpoint

        path = Path(model_id) / WEIGHTS_NAME
        if not Path(model_id).is_dir():
            options = {"cache_dir": cache_dir, "force_download": force_download, "token": token}
            options |= {"revision": revision, "local_files_only": local_files_only}
            path = Path(hf_hub_download(model_id, WEIGHTS_NAME, **options))
        network = checkpoint.load(path, map_location)
        if not isinstance(network, cls):
            raise checkpoint.CheckpointError(f"{path}: expected a {cls.__name__}, got a {type(network).__name__}")
        return network

    def generate_model_card(self, scores: Sequence[Score] = (), repo: str | None = None) -> ModelCard:
        """Return the card of this network.

        Args:
            scores: what the results say of it; they become a table and the card's machine-readable metrics.
            repo: where it will be, for the example; the network's id if there is none yet.
        """
        header = self._require_header()
        low, high = header.noise_level
        shared = self._hub_mixin_info.model_card_data.to_dict()
        metrics = [result for score in scores for result in _eval_results(score)]
        data = ModelCardData(**shared, model_name=header.id, eval_results=metrics or None)
        return ModelCard(
            _CARD.format(
                data=data.to_yaml(),
                id=header.id,
                colours="grey" if self.config.channels == 1 else "RGB",
                channels=self.config.channels,
                parameters=sum(p.numel() for p in self.parameters()),
                stages=f"{self.config.stages} stage{'s' * (self.config.stages > 1)}",
                levels=f"noise level {low:g}" if low == high else f"noise levels {low:g} to {high:g}",
                example=f"{min(max(25.0, low), high):g}",
                strategy=header.strategy,
                repo=repo or header.id,
                weights=WEIGHTS_NAME,
                results=_table(scores) if scores else "None were given.",
                patches=header.patches,
                data_sets=header.data.get("sets", "unknown"),
                recipe=header.recipe.get("version", "unknown"),
                seed=header.seed,
                git=header.git,
                sha256=header.sha256,
            )
        )

    def _require_header(self):
        header = getattr(self, "header", None)
        if header is None:
            raise ValueError("network: expected one with a header, got fresh weights; set network.header to a Header")
        return header


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
