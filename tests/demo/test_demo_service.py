"""The demo's service and its private folders, without a page."""

import dataclasses
import os

import numpy as np
import pytest
from demo_site import RANGE, SINGLE, make_image, untrained_networks_released

import mdrn
from demo import catalogue, errors, service, views
from demo.workspace import KEEP_SECONDS, Workspace
from mdrn import files, inference


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    with untrained_networks_released(tmp_path_factory.mktemp("weights")):
        yield


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
    job = service.denoise(tmp_path / name, folder, noise_level=25)
    result = service.write_result(job)
    assert result.name == f"{name.split('.')[0]}_denoised.{name.split('.')[1]}"
    back = files.read_image(result)
    assert back.pixels.dtype == image.dtype
    assert np.array_equal(back.pixels, mdrn.denoise(image, 25))


def test_strength_mixes_without_a_network(released, tmp_path, monkeypatch):
    image = make_image((40, 40))
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(tmp_path / "a.png", Workspace(tmp_path / "results").new("me"))
    monkeypatch.setattr(inference, "restore", None)
    result = files.read_image(service.write_result(job, strength=0.5)).pixels
    full = files.read_image(service.write_result(job)).pixels
    assert np.array_equal(result, inference.blend(image, full, 0.5))
    assert np.array_equal(files.read_image(service.write_result(job, strength=0)).pixels, image)


def test_what_is_shown_has_every_pixel(released, tmp_path):
    image = make_image((200, 150, 4), "uint16")
    files.write_image(tmp_path / "a.png", image)
    job = service.denoise(tmp_path / "a.png", Workspace(tmp_path / "results").new("me"), 25)
    before, after = (files.read_image(path).pixels for path in views.before_after(job))
    assert before.shape == after.shape == image.shape and before.dtype == np.uint8
    assert np.array_equal(before, service.as_uint8(image))
    close, _ = (files.read_image(path).pixels for path in views.close_up(job, 1.0, across=1.0, down=0.0))
    side = views.CLOSE_UP_PIXELS
    assert np.array_equal(close[::4, ::4], before[:side, -side:])
    assert files.read_image(views.residual(job, strength=0)).pixels.tolist() == np.full((200, 150, 3), 128).tolist()
    stages = views.stages(job)
    assert [caption for _, caption in stages] == ["as uploaded", "after stage 1 of 2", "after stage 2 of 2"]
    assert stages[-1][0].read_bytes() == after_bytes(job)


def after_bytes(job):
    return views.before_after(job)[1].read_bytes()


def test_always_png_is_lossless_for_jpeg(released, tmp_path):
    files.write_image(tmp_path / "a.jpg", make_image((40, 40)))
    job = service.denoise(tmp_path / "a.jpg", Workspace(tmp_path / "results").new("me"), 25)
    assert service.write_result(job).suffix == ".jpg"
    result = files.read_image(service.write_result(job, as_png=True))
    source = files.read_image(tmp_path / "a.jpg").pixels
    assert result.format == "png" and np.array_equal(result.pixels, mdrn.denoise(source, 25))


def test_format_follows_the_content_not_the_name(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    job = service.denoise(tmp_path / "a.jpg", Workspace(tmp_path / "results").new("me"))
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
    with pytest.raises(errors.DemoError, match="at most 24,000,000 pixels, got 60000 x 60000"):
        service.inspect(tmp_path / "bomb.png")


def test_wrong_settings_are_explained(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    folder = Workspace(tmp_path / "results").new("me")
    with pytest.raises(errors.DemoError, match="trained for 25 alone, got 40"):
        service.denoise(tmp_path / "a.png", folder, 40, SINGLE)
    with pytest.raises(errors.DemoError, match=f"expected one of {RANGE}"):
        service.denoise(tmp_path / "a.png", folder, 25, "../../etc/passwd")


def test_progress_can_stop_the_work(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))

    def stop(done, total):
        raise errors.Stopped

    with pytest.raises(errors.Stopped):
        service.denoise(tmp_path / "a.png", Workspace(tmp_path / "results").new("me"), progress=stop)


def test_networks_are_listed_range_first(released):
    assert [network.id for network in catalogue.networks()] == [RANGE, SINGLE]
    assert [network.levels for network in catalogue.networks()] == ["levels 0 to 75", "level 25 only"]
    assert catalogue.expected_seconds(RANGE, 1_000_000, 1) > 0


def test_a_cleared_result_says_so(released, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    workspace = Workspace(tmp_path / "results")
    job = service.denoise(tmp_path / "a.png", workspace.new("me"))
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
    job = service.denoise(tmp_path / "a.png", Workspace(tmp_path / "results").new("me"))
    facts = service.facts(job)
    assert facts["per_channel"] and facts["estimated"] and facts["model"] == RANGE
    assert set(facts) == {field.name for field in dataclasses.fields(job)} - {"folder", "source"}
