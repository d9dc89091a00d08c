"""What a file carries besides pixels survives the served demo, and leaves when that is asked for."""

import io

import gradio_client
import numpy as np
import pytest
from demo_site import make_image
from gradio_client import handle_file
from PIL import Image, ImageCms

import mdrn
from mdrn import files

pytestmark = pytest.mark.filterwarnings("ignore:.*grey network")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKER, ARTIST = 0x010F, 0x013B
KINDS = {  # name -> shape, dtype
    "photo.jpg": ((40, 30, 3), "uint8"),
    "photo.png": ((40, 30, 3), "uint8"),
    "photo.webp": ((40, 30, 3), "uint8"),
    "photo.tif": ((40, 30, 3), "uint8"),
    "alpha.png": ((40, 30, 4), "uint8"),
    "deep.png": ((40, 30), "uint16"),
    "deep_rgb.png": ((40, 30, 3), "uint16"),
    "deep_alpha.tif": ((40, 30, 4), "uint16"),
}


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False)


def write(path, shape, dtype):
    """Write an image with a camera's name, an author, a profile and a resolution."""
    tags = Image.Exif()
    tags[MAKER], tags[ARTIST] = "Camera & Sons", "Somebody"
    carrier = io.BytesIO()
    Image.new("RGB", (8, 8)).save(carrier, "JPEG", exif=tags, icc_profile=PROFILE, dpi=(300, 300))
    files.write_image(path, make_image(shape, dtype), like=files.read_image(carrier.getvalue()))
    return files.read_image(path)


def tags_of(image):
    tags = Image.Exif()
    tags.load(image.exif or b"")
    return {key: tags.get(key) for key in (MAKER, ARTIST)}


@pytest.mark.parametrize("name", KINDS)
def test_metadata_depth_and_alpha_come_back(name, client, tmp_path):
    sent = write(tmp_path / name, *KINDS[name])
    assert tags_of(sent) == {MAKER: "Camera & Sons", ARTIST: "Somebody"}
    assert sent.icc == (PROFILE if sent.pixels.ndim == 3 else None)  # a colour profile does not fit grey
    path, _ = client.predict(handle_file(tmp_path / name), 25, api_name="/denoise")
    back = files.read_image(path)
    assert path.endswith(f"_denoised.{name.split('.')[1]}") and back.format == sent.format
    assert back.pixels.shape == sent.pixels.shape and back.pixels.dtype == sent.pixels.dtype
    assert tags_of(back) == tags_of(sent) and back.icc == sent.icc
    assert back.dpi == sent.dpi or np.allclose(back.dpi, sent.dpi, atol=0.5)  # None: WebP has none
    expected = mdrn.denoise(sent.pixels, 25)
    if back.format == "jpeg":
        expected = files.read_image(files.encode_image(expected, "jpeg", sent)).pixels
    assert np.array_equal(back.pixels, expected)
    if sent.pixels.shape[-1] == 4:
        assert np.array_equal(back.pixels[..., 3], sent.pixels[..., 3])


@pytest.mark.parametrize("name", ["photo.jpg", "photo.webp", "deep_rgb.png", "deep_alpha.tif"])
def test_metadata_leave_on_request_but_colours_stay(name, client, tmp_path):
    write(tmp_path / name, *KINDS[name])
    path, _ = client.predict(handle_file(tmp_path / name), 25, keep_metadata=False, api_name="/denoise")
    back = files.read_image(path)
    with open(path, "rb") as file:
        content = file.read()
    assert b"Somebody" not in content and b"Camera" not in content
    assert back.xmp is None and back.dpi is None and back.icc == PROFILE


def test_as_png_keeps_what_png_can_hold(client, tmp_path):
    sent = write(tmp_path / "photo.jpg", *KINDS["photo.jpg"])
    path, _ = client.predict(handle_file(tmp_path / "photo.jpg"), 25, as_png=True, api_name="/denoise")
    back = files.read_image(path)
    assert back.format == "png" and tags_of(back) == tags_of(sent) and back.icc == PROFILE
    assert np.array_equal(back.pixels, mdrn.denoise(sent.pixels, 25))
