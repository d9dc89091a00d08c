"""The demo's service and its private folders, without a page."""

import dataclasses
import os

import numpy as np
import pytest
from demo_site import GREY, TINY, make_image, untrained_networks_released

import mdrn
from demo import catalogue, errors, service, views
from demo.workspace import KEEP_SECONDS, Workspace
from mdrn import files, inference


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    with untrained_networks_released(tmp_path_factory.mktemp("weights")):
        yield


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
@pytest.mark.filterwarnings("ignore:.*grey network")
def test_result_is_the_librarys_in_the_uploads_own_kind(name, released, tmp_path):
    image = make_image(*KINDS[name])
    files.write_image(tmp_path / name, image)
    folder = Workspace(tmp_path / "results").new("me")
    job = service.denoise(asked(tmp_path / name, 25), folder)
    result = service.write_result(job)
    assert result.name == f"{name.split('.')[0]}_denoised.{name.split('.')[1]}"
    back = files.read_image(result)
    assert back.pixels.dtype == image.dtype
    assert np.array_equal(back.pixels, mdrn.denoise(image, 25))


def test_strength_mixes_without_a_network(released, tmp_path, monkeypatch):
    image = make_image((40, 40))
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(asked(tmp_path / "a.png"), Workspace(tmp_path / "results").new("me"))
    monkeypatch.setattr(inference, "restore", None)
    result = files.read_image(service.write_result(job, strength=0.5)).pixels
    full = files.read_image(service.write_result(job)).pixels
    assert np.array_equal(result, inference.blend(image, full, 0.5))
    assert np.array_equal(files.read_image(service.write_result(job, strength=0)).pixels, image)


def test_a_small_image_is_shown_with_every_pixel(released, tmp_path):
    image = make_image((200, 150, 4), "uint16")
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(asked(tmp_path / "a.png", 25), Workspace(tmp_path / "results").new("me"))
    before, after = (files.read_image(path).pixels for path in views.whole(job, 1.0))
    assert before.shape == after.shape == image.shape and before.dtype == np.uint8
    assert np.array_equal(before, views.as_uint8(image))
    assert [
        np.array_equal(files.read_image(p).pixels, w)
        for p, w in zip(views.crop(job, 1.0, None), (before, after), strict=True)
    ] == [True] * 2
    assert files.read_image(views.removed(job, 0, None)).pixels.tolist() == np.full((200, 150, 3), 128).tolist()
    stages = views.stages(job, None)
    assert [caption for _, caption in stages] == ["as uploaded", "after stage 1 of 2", "after stage 2 of 2"]
    assert np.array_equal(files.read_image(stages[-1][0]).pixels, after)


def test_a_crop_of_a_large_image_has_its_own_pixels(released, tmp_path):
    image = make_image((900, 1400))
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(asked(tmp_path / "a.png", 25), Workspace(tmp_path / "results").new("me"))
    before, after = (files.read_image(path).pixels for path in views.crop(job, 0.5, (1.0, 0.0)))
    rows, columns = slice(0, views.CROP_HEIGHT), slice(-views.CROP_WIDTH, None)
    assert np.array_equal(before, image[rows, columns])
    assert np.array_equal(after, mdrn.denoise(image, 25, strength=0.5)[rows, columns])
    assert max(files.read_image(views.whole(job, 1.0)[0]).pixels.shape) == views.PREVIEW_SIDE


def test_always_png_is_lossless_for_jpeg(released, tmp_path):
    files.write_image(tmp_path / "a.jpg", make_image((40, 40)))
    job = service.denoise(asked(tmp_path / "a.jpg", 25), Workspace(tmp_path / "results").new("me"))
    assert service.write_result(job).suffix == ".jpg"
    result = files.read_image(service.write_result(job, as_png=True))
    source = files.read_image(tmp_path / "a.jpg").pixels
    assert result.format == "png" and np.array_equal(result.pixels, mdrn.denoise(source, 25))


def test_format_follows_the_content_not_the_name(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    job = service.denoise(asked(tmp_path / "a.jpg"), Workspace(tmp_path / "results").new("me"))
    assert service.write_result(job).suffix == ".png"


def test_bad_uploads_are_named_and_no_path_is_shown(released, tmp_path, monkeypatch):
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


def test_pixels_are_counted_before_decoding(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(errors.DemoError, match="at most 26,000,000 pixels, got 60000 x 60000"):
        service.inspect(tmp_path / "bomb.png")


def test_wrong_settings_are_explained(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    folder = Workspace(tmp_path / "results").new("me")
    with pytest.raises(errors.DemoError, match="model: expected one of automatic, mdrn"):
        service.denoise(asked(tmp_path / "a.png", 25, "../../etc/passwd"), folder)


def test_progress_can_stop_the_work(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))

    def stop(done, total):
        raise errors.Stopped

    with pytest.raises(errors.Stopped):
        service.denoise(asked(tmp_path / "a.png"), Workspace(tmp_path / "results").new("me"), progress=stop)


def test_networks_have_names_for_people(released):
    assert [network.id for network in catalogue.networks()] == [GREY, TINY]
    assert catalogue.choices()[0] == ("Automatic", catalogue.AUTOMATIC)
    assert ("White noise, grey, fast", "mdrn_tiny") in catalogue.choices()
    assert catalogue.model_argument("automatic") is None and catalogue.model_argument("mdrn_tiny") == TINY


def test_a_cleared_result_says_so(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    workspace = Workspace(tmp_path / "results")
    job = service.denoise(asked(tmp_path / "a.png"), workspace.new("me"))
    workspace.discard("me")
    with pytest.raises(errors.DemoError, match="Press Denoise again"):
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


def test_facts_are_plain_data_without_paths(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20, 3)))
    job = service.denoise(asked(tmp_path / "a.png"), Workspace(tmp_path / "results").new("me"))
    facts = job.facts()
    assert facts["per_channel"] and facts["estimated"] and facts["model"] == GREY
    assert set(facts) == {field.name for field in dataclasses.fields(job)} - {"asked", "folder", "source"}
