"""The named endpoints, for programs: `gradio_client`, plain HTTP, and MCP where it is switched on.

Gradio shows the docstrings and the types as the documentation of each endpoint.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from demo import catalogue, comparison, service
from demo.catalogue import AUTOMATIC
from demo.errors import DemoError
from demo.events import LIGHT, NETWORK
from demo.workspace import Workspace
from mdrn.classical import CLASSICAL
from mdrn.noise import MAX_NOISE_LEVEL


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Show a `DemoError` to a program as it is, and nothing of any other failure."""
    try:
        yield
    except DemoError as error:
        raise gr.Error(str(error), print_exception=False) from error


class Api:
    """What each endpoint does; results live in folders of the calling session."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @readable()
    def denoise(
        self,
        image: str,
        noise_level: float | None = None,
        model: str = AUTOMATIC,
        strength: float = 1.0,
        keep_metadata: bool = True,
        as_png: bool = False,
        request: gr.Request = None,
    ):
        """Denoise one image file.

        Args:
            image: PNG, JPEG, WebP, TIFF, BMP or AVIF; 8 or 16 bits, or float TIFF in [0, 1]; grey or RGB, with or
                without alpha.
            noise_level: standard deviation of the noise on the 8-bit scale, 0 to 75; leave it out to estimate it.
            model: short name or id of a released network, or 'automatic'.
            strength: 0 returns the input, 1 the restored image, between them a mixture; above 1, to 2, it multiplies
                the noise level.
            keep_metadata: False leaves EXIF, XMP and resolution out.
            as_png: True writes PNG whatever the input was.
            request: filled in by the server.

        Returns:
            The restored image in the input's own format (PNG for AVIF), bit depth and size, and what was done.
        """
        with self.workspace.made(request.session_hash or "") as folder:
            job = service.denoise(service.Asked(str(_given(image)), noise_level, model, strength), folder)
            result = service.write_result(job, strength, keep_metadata, as_png)
            service.keep_only(result)
        return str(result), job.facts()

    @readable()
    def denoise_files(
        self,
        images: list[str],
        noise_level: float | None = None,
        model: str = AUTOMATIC,
        strength: float = 1.0,
        keep_metadata: bool = True,
        as_png: bool = False,
        request: gr.Request = None,
    ):
        """Denoise several image files into one zip; a file that cannot be done is named and the others are done.

        Args:
            images: up to 50 files, as for /denoise.
            noise_level: standard deviation of the noise on the 8-bit scale, 0 to 75, for all; leave it out to estimate
                it for each.
            model: short name or id of a released network, or 'automatic'.
            strength: 0 returns the input, 1 the restored image, between them a mixture; above 1, to 2, it multiplies
                the noise level.
            keep_metadata: False leaves EXIF, XMP and resolution out.
            as_png: True writes PNG whatever the input was.
            request: filled in by the server.

        Returns:
            A zip of the restored images, each in its input's own format and bit depth, and what became of each file.
        """
        options = {"strength": strength, "keep_metadata": keep_metadata, "as_png": as_png}
        with self.workspace.made(request.session_hash or "") as folder:
            paths = [Path(each) for each in images or []]
            *_, lines = service.denoise_files(paths, folder, noise_level, model, **options)
        if not any(line.result for line in lines):
            raise DemoError("None of these files could be done. " + " ".join(line.note for line in lines[:5]))
        return str(folder / service.ARCHIVE), [dataclasses.asdict(line) for line in lines]

    @readable()
    def estimate(self, image: str):
        """Estimate the noise level of one image file; no network runs.

        Args:
            image: as for /denoise.

        Returns:
            The noise level (standard deviation on the 8-bit scale, 0 to 75), and what kind of image it is.
        """
        source, noise_level = service.inspect(_given(image))
        height, width = source.pixels.shape[:2]
        return {"noise_level": noise_level, "kind": service.kind(source), "pixels": height * width}

    @readable()
    def compare(self, image: str, noise_level: float = 25, seed: int = 0, methods: list[str] | None = None):
        """Add Gaussian noise to a clean image, let each method take it out, and score the results against it.

        Args:
            image: a clean image, as for /denoise; of a larger one the middle 512 x 512 pixels.
            noise_level: standard deviation of the noise on the 8-bit scale, 0 to 50.
            seed: of the noise.
            methods: ids of networks and names of classical methods.

        Returns:
            For each method, and for the noisy image itself, PSNR in dB, SSIM, LPIPS where its network is at hand,
            seconds and parameters; and the methods that were left out because they are not made for this level.
        """
        made = comparison.compare(_given(image), noise_level, int(seed or 0), methods or [])
        scores = [{name: value for name, value in vars(each).items() if name != "image"} for each in made.results]
        return {"scores": scores, "left_out": made.left_out}

    def networks(self) -> list[dict]:
        """List the networks that this server offers, with their training levels and numbers of parameters."""
        return [dataclasses.asdict(network) for network in catalogue.networks()]


def wire(api: Api) -> None:
    """Make the endpoints, with fields that are never shown."""
    ids = [network.id for network in catalogue.networks()]
    models = [AUTOMATIC, *catalogue.short_names(), *ids]
    with gr.Column(visible=False):
        one = gr.File(label="image", file_types=service.accepted())
        several = gr.File(label="images", file_types=service.accepted(), file_count="multiple")
        settings = [
            gr.Number(None, label="noise_level", minimum=0, maximum=MAX_NOISE_LEVEL),
            gr.Dropdown(models, value=AUTOMATIC, label="model"),
            gr.Slider(0, service.MAX_STRENGTH, 1, label="strength"),
            gr.Checkbox(True, label="keep_metadata"),
            gr.Checkbox(False, label="as_png"),
        ]
        noise = [
            gr.Number(25, label="noise_level", minimum=0, maximum=comparison.LEVELS[-1]),
            gr.Number(0, label="seed", precision=0, minimum=0),
            gr.Dropdown([*ids, *CLASSICAL], value=[], multiselect=True, label="methods"),
        ]
        result, archive, facts = gr.File(label="restored"), gr.File(label="zip"), gr.JSON(label="facts")
        button = gr.Button()
        button.click(api.denoise, [one, *settings], [result, facts], api_name="denoise", **NETWORK)
        button.click(api.denoise_files, [several, *settings], [archive, facts], api_name="denoise_files", **NETWORK)
        button.click(api.compare, [one, *noise], facts, api_name="compare", **NETWORK)
        button.click(api.estimate, one, facts, api_name="estimate", **LIGHT)
    gr.api(api.networks, api_name="networks", **LIGHT)


def _given(image: str | None) -> Path:
    if image is None:
        raise DemoError("image: expected a file, got none")
    return Path(image)
