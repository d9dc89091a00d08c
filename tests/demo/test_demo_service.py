"""The demo's service and its private folders, without a page."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest
import skimage
from demo_site import COLOUR, GREY, TINY, make_image
from PIL import Image, ImageCms
from scipy.ndimage import gaussian_filter

import mdrn
from demo import catalogue, errors, service, views
from demo.workspace import KEEP_SECONDS, Workspace
from mdrn import files, inference
from mdrn.files.formats import to_depth


def asked(path, noise_level=None, model=None):
    return service.Asked(str(path), noise_level, model)


KINDS = {  # file name -> shape, dtype
    "grey.png": ((37, 31), "uint8"),
    "deep.png": ((37, 31), "uint16"),
    "deep_rgb.png": ((37, 31, 3), "uint16"),
    "deep.tif": ((37, 31, 3), "uint16"),
    "float.tif": ((37, 31), "float32"),
    "rgba.png": ((37, 31, 4), "uint8"),
    "grey_alpha.png": ((37, 31, 2), "uint8"),
    "rgb.bmp": ((37, 31, 3), "uint8"),
    "dot.png": ((1, 1), "uint8"),
}


@pytest.mark.parametrize("name", KINDS)
def test_result_is_the_librarys_in_the_uploads_own_kind(name, tmp_path):
    image = make_image(*KINDS[name])
    files.write_image(tmp_path / name, image)
    folder = Workspace(tmp_path / "results").new("me")
    job = service.denoise(asked(tmp_path / name, 25), folder)
    result = service.write_result(job)
    assert result.name == f"{name.split('.')[0]}_denoised.{name.split('.')[1]}"
    back = files.read_image(result)
    assert back.pixels.dtype == image.dtype
    assert np.array_equal(back.pixels, mdrn.denoise(image, 25))


def test_strength_mixes_without_a_network(tmp_path, monkeypatch):
    image = make_image((40, 40))
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(asked(tmp_path / "a.png"), Workspace(tmp_path / "results").new("me"))
    monkeypatch.setattr(inference, "restore", None)
    result = files.read_image(service.write_result(job, strength=0.5)).pixels
    full = files.read_image(service.write_result(job)).pixels
    assert np.array_equal(result, inference.blend(image, full, 0.5))
    assert np.array_equal(files.read_image(service.write_result(job, strength=0)).pixels, image)


def test_a_small_image_is_shown_with_every_pixel(tmp_path):
    image = make_image((200, 150, 4), "uint16")
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(asked(tmp_path / "a.png", 25), Workspace(tmp_path / "results").new("me"))
    before, after = (files.read_image(path).pixels for path in views.whole(job, 1.0))
    assert before.shape == after.shape == image.shape and before.dtype == np.uint8
    assert np.array_equal(before, to_depth(image, 8))
    assert [
        np.array_equal(files.read_image(p).pixels, w)
        for p, w in zip(views.crop(job, 1.0, None), (before, after), strict=True)
    ] == [True] * 2
    assert files.read_image(views.removed(job, 0, None)).pixels.tolist() == np.full((200, 150, 3), 128).tolist()
    stages = views.stages(job, None)
    assert [caption for _, caption in stages] == ["as uploaded", "after stage 1 of 2", "after stage 2 of 2"]
    assert np.array_equal(files.read_image(stages[-1][0]).pixels, after)


def test_a_crop_of_a_large_image_has_its_own_pixels(tmp_path):
    image = make_image((900, 1400))
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(asked(tmp_path / "a.png", 25), Workspace(tmp_path / "results").new("me"))
    before, after = (files.read_image(path).pixels for path in views.crop(job, 0.5, (1.0, 0.0)))
    rows, columns = slice(0, views.CROP_HEIGHT), slice(-views.CROP_WIDTH, None)
    assert np.array_equal(before, image[rows, columns])
    assert np.array_equal(after, mdrn.denoise(image, 25, strength=0.5)[rows, columns])
    assert max(files.read_image(views.whole(job, 1.0)[0]).pixels.shape) == views.PREVIEW_SIDE


@pytest.mark.parametrize("name", ["photo.jpg", "deep.tif"])
def test_metadata_stay_or_go_and_png_holds_them_too(name, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags, carrier = Image.Exif(), io.BytesIO()
    tags[0x013B] = "Somebody"  # the artist
    Image.new("RGB", (8, 8)).save(carrier, "JPEG", exif=tags, icc_profile=profile, dpi=(300, 300))
    image = make_image((40, 30, 3), "uint8" if name == "photo.jpg" else "uint16")
    files.write_image(tmp_path / name, image, like=files.read_image(carrier.getvalue()))
    sent = files.read_image(tmp_path / name)
    job = service.denoise(asked(tmp_path / name, 25), Workspace(tmp_path / "results").new("me"))
    kept, png = service.write_result(job), service.write_result(job, as_png=True)
    assert kept.suffix == Path(name).suffix and files.read_image(kept).dpi == sent.dpi
    assert np.array_equal(files.read_image(png).pixels, mdrn.denoise(sent.pixels, 25))
    for path in (kept, png):
        back = files.read_image(path)
        assert b"Somebody" in path.read_bytes() and back.icc == profile
        assert back.pixels.dtype == image.dtype and back.format == ("png" if path == png else sent.format)
    left_out = service.write_result(job, keep_metadata=False)
    assert b"Somebody" not in left_out.read_bytes() and files.read_image(left_out).icc == profile


def test_format_follows_the_content_not_the_name(tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    job = service.denoise(asked(tmp_path / "a.jpg"), Workspace(tmp_path / "results").new("me"))
    assert service.write_result(job).suffix == ".png"


@pytest.mark.parametrize("kind", ["equal channels", "level that differs", "12 bits in 16", "transparent"])
def test_the_estimate_of_an_upload_is_what_a_run_takes(kind, tmp_path):
    rng = np.random.default_rng(0)
    levels = np.linspace(5, 50, 256) if kind == "level that differs" else np.full(256, 15.0)
    smooth = (
        gaussian_filter(rng.normal(0, 3, (256, 256)), 1.2) if kind == "equal channels" else rng.normal(size=(256,) * 2)
    )
    image = np.clip(np.round(skimage.data.camera()[100:356, 100:356] + smooth * levels), 0, 255).astype(np.uint8)
    if kind == "12 bits in 16":
        image = image.astype(np.uint16) * 16
    if kind == "equal channels":
        image = np.dstack([image] * 3)
    if kind == "transparent":
        hidden = np.uint8([[0, 255]]).repeat(128, axis=1).repeat(256, axis=0)
        image = np.dstack([np.where(hidden, image, rng.integers(0, 256, image.shape)).astype(np.uint8), hidden])
    files.write_image(tmp_path / "a.png", image)
    _, said = service.inspect(tmp_path / "a.png")
    taken = service.denoise(asked(tmp_path / "a.png"), Workspace(tmp_path / "results").new("me")).noise_level
    assert said == taken > 5


def test_bad_uploads_are_named_and_no_path_is_shown(tmp_path, monkeypatch):
    files.write_image(tmp_path / "whole.png", make_image((64, 64)))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "empty.png").touch()
    for name, words in {"text.png": "expected a PNG", "cut.png": "cut off", "empty.png": "empty file"}.items():
        with pytest.raises(errors.DemoError, match=words) as caught:
            service.inspect(tmp_path / name)
        assert name in str(caught.value) and str(tmp_path) not in str(caught.value)
    monkeypatch.setattr(service, "MAX_PIXELS", 4000)
    with pytest.raises(errors.DemoError, match="at most 4,000 pixels, got 64 x 64"):
        service.inspect(tmp_path / "whole.png")


def test_wrong_settings_are_explained(tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    folder = Workspace(tmp_path / "results").new("me")
    with pytest.raises(errors.DemoError, match="model: expected one of automatic, mdrn"):
        service.denoise(asked(tmp_path / "a.png", 25, "../../etc/passwd"), folder)


def test_progress_can_stop_the_work(tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))

    def stop(done, total):
        raise errors.Stopped

    with pytest.raises(errors.Stopped):
        service.denoise(asked(tmp_path / "a.png"), Workspace(tmp_path / "results").new("me"), progress=stop)


def test_networks_have_names_for_people():
    assert [network.id for network in catalogue.networks()] == [COLOUR, GREY, TINY]
    assert catalogue.choices()[0] == ("Automatic", catalogue.AUTOMATIC)
    assert ("White noise, grey, fast", "mdrn_tiny") in catalogue.choices()
    assert catalogue.model_argument("automatic") is None and catalogue.model_argument("mdrn_tiny") == TINY


def test_a_cleared_result_says_so(tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    workspace = Workspace(tmp_path / "results")
    job = service.denoise(asked(tmp_path / "a.png"), workspace.new("me"))
    workspace.discard("me")
    with pytest.raises(errors.DemoError, match="has been cleared"):
        service.write_result(job)


def test_folders_go_with_their_session_or_their_age(tmp_path):
    workspace = Workspace(tmp_path)
    mine, yours, old = workspace.new("me"), workspace.new("you"), workspace.new("you")
    os.utime(old, (0, old.stat().st_mtime - KEEP_SECONDS - 1))
    workspace.sweep()
    assert mine.exists() and yours.exists() and not old.exists()
    workspace.discard("me", yours)
    assert yours.exists()
    workspace.discard("me")
    assert not mine.exists() and yours.exists()
    assert mine.parent == tmp_path and len(mine.name) == 32


def test_facts_are_plain_data_without_paths(tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20, 3)))
    job = service.denoise(asked(tmp_path / "a.png", model=TINY), Workspace(tmp_path / "results").new("me"))
    facts = job.facts()
    assert facts["per_channel"] and facts["estimated"] and facts["model"] == TINY
    assert set(facts) == {field.name for field in dataclasses.fields(job)} - {"asked", "folder", "source"}
