"""The command line as a user meets it: in process, through `mdrn.cli.main`, on real files."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from skimage.data import astronaut, camera
from small_networks import header_for, small_network

from mdrn import checkpoint, inference
from mdrn.cli import main
from mdrn.files import read_image, write_image


@pytest.fixture
def weights(tmp_path):
    network = small_network()
    path = tmp_path / "net" / "small.safetensors"
    checkpoint.write_weights(path, network, header_for(network))
    return path


@pytest.fixture
def denoise(weights, capsys):
    """Run `mdrn denoise` and return its exit code, what it printed and what it complained about."""

    def run(*arguments, level="25"):
        options = ["--model", str(weights)] if "--model" not in arguments else []
        try:
            code = main(["denoise", *map(str, arguments), "--noise-level", level, *options])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def one_line(err: str) -> bool:
    return len(err.strip().splitlines()) == 1 and err.startswith("mdrn: error: ") and "Traceback" not in err


PNG_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def as_16_bit(image):
    return image.astype(np.uint16) * 257 ^ 3


def png_16_bit(path, pixels):
    write_image(path, pixels)
    assert read_image(path).pixels.dtype == np.uint16


def make_inputs(folder):
    """Write one file of each kind and return {file name: what its pixels must be as the network sees them}."""
    rgb, grey = astronaut()[:40, 90:137], camera()[:40, 90:137]
    alpha = np.linspace(0, 255, grey.size).reshape(grey.shape).astype(np.uint8)
    rgba = np.dstack([rgb, alpha])
    png_16_bit(folder / "grey16.png", as_16_bit(grey))
    png_16_bit(folder / "rgb16.png", as_16_bit(rgb))
    tifffile.imwrite(folder / "grey16.tif", as_16_bit(grey))
    tifffile.imwrite(folder / "rgb16_lzw.tif", as_16_bit(rgb), compression="lzw", photometric="rgb")
    Image.fromarray(rgba).save(folder / "rgba.png", icc_profile=PNG_SRGB)
    palette = Image.fromarray(rgb).quantize(16)
    palette.save(folder / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    Image.fromarray(rgb).save(folder / "rotated.jpg", exif=exif, icc_profile=PNG_SRGB, quality=95)
    Image.fromarray(grey[:1, :1]).save(folder / "dot.png")
    strip = np.resize(grey, (40, 5000))
    Image.fromarray(strip).save(folder / "strip.png")
    upright = np.asarray(Image.open(folder / "rotated.jpg").rotate(-90, expand=True))
    return {
        "grey16.png": as_16_bit(grey),
        "rgb16.png": as_16_bit(rgb),
        "grey16.tif": as_16_bit(grey),
        "rgb16_lzw.tif": as_16_bit(rgb),
        "rgba.png": rgba,
        "palette.png": np.asarray(Image.open(folder / "palette.png").convert("RGBA")),
        "rotated.jpg": upright,
        "dot.png": grey[:1, :1],
        "strip.png": strip,
    }


def test_round_trips_keep_the_kind(tmp_path, denoise, weights):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    inputs = make_inputs(source)
    code, out, err = denoise(source, "-o", target)
    assert code == 0, err
    assert sorted(p.name for p in target.iterdir()) == sorted(inputs)
    for name, pixels in inputs.items():
        before, after = read_image(source / name), read_image(target / name)
        assert before.pixels.dtype == pixels.dtype and before.pixels.shape == pixels.shape, name
        if not name.endswith(".jpg"):
            assert np.array_equal(before.pixels, pixels), name
        assert (after.pixels.shape, after.pixels.dtype) == (before.pixels.shape, before.pixels.dtype), name
        assert (after.format, after.icc, after.compression) == (before.format, before.icc, before.compression), name
        expected = inference.restore(before.pixels, 25, str(weights)).image
        difference = np.abs(after.pixels.astype(int) - expected)
        assert difference.max() == 0 or name.endswith(".jpg") and difference.mean() < 2, name
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            assert np.array_equal(after.pixels[..., 3], pixels[..., 3]), name
        assert not np.array_equal(after.pixels, before.pixels), name
    with tifffile.TiffFile(target / "rgb16_lzw.tif") as file:  # an independent reader agrees
        assert file.pages[0].dtype == np.uint16 and file.pages[0].compression == 5
    assert read_image(target / "rgba.png").icc == PNG_SRGB
    with Image.open(target / "rotated.jpg") as file:
        assert file.size == (40, 47) and file.getexif().get(0x0112, 1) == 1 and file.getexif()[0x010F] == "Maker"
        assert file.info["icc_profile"] == PNG_SRGB


def test_strip_leaves_the_profile(tmp_path, denoise):
    make_inputs(tmp_path)
    code, _, err = denoise(tmp_path / "rotated.jpg", "-o", tmp_path / "plain.jpg", "--strip")
    assert code == 0, err
    with Image.open(tmp_path / "plain.jpg") as file:
        assert not dict(file.getexif()) and file.info["icc_profile"] == PNG_SRGB


def test_default_name_and_what_is_said(tmp_path, denoise):
    Image.fromarray(camera()[:40, :50]).save(tmp_path / "a.png")
    code, out, _ = denoise(tmp_path / "a.png", level="auto")
    assert code == 0 and (tmp_path / "a_denoised.png").exists()
    assert "50 x 40, 8 bit, noise level" in out and "estimated" in out and "small.plain_n0-75_s0" in out
    Image.fromarray(astronaut()[:40, :50]).save(tmp_path / "c.png")
    code, out, _ = denoise(tmp_path / "c.png", "--strength", "0")
    assert code == 0 and "channel by channel" in out
    assert np.array_equal(read_image(tmp_path / "c_denoised.png").pixels, astronaut()[:40, :50])


def bad_input(folder, kind):
    image = Image.fromarray(camera()[:64, :64])
    path = folder / "bad.png"
    if kind == "missing":
        return folder / "nothing.png"
    if kind == "text":
        path.write_text("this is no image\n" * 20)
    elif kind == "truncated":
        stream = io.BytesIO()
        image.save(stream, "png")
        path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cmyk":
        path = folder / "bad.jpg"
        image.convert("CMYK").save(path)
    elif kind == "nan":
        path = folder / "bad.tif"
        tifffile.imwrite(path, np.full((8, 8), np.nan, np.float32))
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "empty", "cmyk", "nan"])
def test_bad_inputs_get_one_line(tmp_path, denoise, kind):
    path = bad_input(tmp_path, kind)
    code, _, err = denoise(path, "-o", tmp_path / "out.png")
    assert code == 2 and one_line(err) and str(path) in err
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "empty", "cmyk"])
def test_a_folder_goes_on_after_a_bad_file_and_names_it(tmp_path, denoise, kind):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    bad = bad_input(source, kind)
    for name in ("a.png", "z.png"):
        Image.fromarray(camera()[:20, :20]).save(source / name)
    arguments = [source] if bad.exists() else [source / "a.png", bad, source / "z.png"]
    code, _, err = denoise(*arguments, "-o", target)
    assert code == 2 and str(bad) in err and "2 done, 1 failed" in err and "Traceback" not in err
    assert sorted(p.name for p in target.iterdir()) == ["a.png", "z.png"]


def test_folders_within_folders(tmp_path, denoise):
    for name in ("a.png", "deep/b.png", "deep/er/c.png", "deep/notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x") if name.endswith("txt") else Image.fromarray(camera()[:9, :9]).save(path)
    assert denoise(tmp_path / "in", "-o", tmp_path / "flat")[0] == 0
    assert [p.name for p in (tmp_path / "flat").rglob("*")] == ["a.png"]
    assert denoise(tmp_path / "in", "-o", tmp_path / "tree", "--recursive")[0] == 0
    files = sorted(p.relative_to(tmp_path / "tree").as_posix() for p in (tmp_path / "tree").rglob("*.*"))
    assert files == ["a.png", "deep/b.png", "deep/er/c.png"]


def test_nothing_is_overwritten_unless_asked(tmp_path, denoise):
    path = tmp_path / "a.png"
    Image.fromarray(camera()[:20, :20]).save(path)
    before = path.read_bytes()
    code, _, err = denoise(path, "-o", path)
    assert code == 2 and one_line(err) and "--overwrite" in err and path.read_bytes() == before
    code, _, err = denoise(path, "-o", path, "--overwrite")
    assert code == 0 and path.read_bytes() != before
    (tmp_path / "b").mkdir()
    Image.fromarray(camera()[:20, :20]).save(tmp_path / "b" / "a.png")
    code, _, err = denoise(path, tmp_path / "b" / "a.png", "-o", tmp_path / "out")
    assert code == 2 and one_line(err) and "two" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "level", "word"),
    [
        ([], "76", "0 to 75"),
        ([], "loud", "0 to 75"),
        (["--strength", "2.1"], "25", "strength"),
        (["--tile", "0"], "25", "tile"),
        (["--model", "nothing"], "25", "nothing"),
        (["--device", "tpu9"], "25", "device"),
        (["--nonsense"], "25", "nonsense"),
    ],
)
def test_bad_options_exit_with_2(tmp_path, denoise, arguments, level, word):
    path = tmp_path / "a.png"
    Image.fromarray(camera()[:20, :20]).save(path)
    code, _, err = denoise(path, *arguments, level=level)
    assert code == 2 and word in err and "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.png"]


def test_weights_that_are_not_ours_or_tampered_with(tmp_path, denoise, weights):
    path = tmp_path / "a.png"
    Image.fromarray(camera()[:20, :20]).save(path)
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    (tmp_path / "tampered.safetensors").write_bytes(raw)
    (tmp_path / "other.safetensors").write_bytes(b"hello")
    for name in ("tampered.safetensors", "other.safetensors"):
        code, _, err = denoise(path, "--model", tmp_path / name)
        assert code == 2 and one_line(err) and name in err
    assert main(["info", str(tmp_path / "tampered.safetensors")]) == 2


def test_wrong_channel_count(tmp_path, denoise):
    network = small_network(channels=3)
    checkpoint.write_weights(tmp_path / "rgb.safetensors", network, header_for(network))
    path = tmp_path / "a.png"
    Image.fromarray(camera()[:20, :20]).save(path)
    code, _, err = denoise(path, "--model", tmp_path / "rgb.safetensors")
    assert code == 2 and one_line(err) and "grey" in err


@pytest.mark.parametrize("output", ["/proc/nowhere/out.png", "a.png/out.png", "out.xyz"])
def test_unwritable_output(tmp_path, denoise, output):
    path = tmp_path / "a.png"
    Image.fromarray(camera()[:20, :20]).save(path)
    before = path.read_bytes()
    code, _, err = denoise(path, "-o", tmp_path / output)
    assert code == 2 and one_line(err) and path.read_bytes() == before


def test_a_folder_needs_a_folder_for_its_results(tmp_path, denoise):
    (tmp_path / "in").mkdir()
    Image.fromarray(camera()[:20, :20]).save(tmp_path / "in" / "a.png")
    for arguments in ([], ["-o", tmp_path / "out.png"]):
        code, _, err = denoise(tmp_path / "in", *arguments)
        assert code == 2 and one_line(err) and "folder" in err
    (tmp_path / "empty").mkdir()
    code, _, err = denoise(tmp_path / "empty", "-o", tmp_path / "out")
    assert code == 2 and "found none" in err


def test_info(weights, capsys):
    assert main(["info", str(weights)]) == 0
    out = capsys.readouterr().out
    assert "small.plain_n0-75_s0" in out and "0 to 75" in out and "16 training patches" in out
    assert main(["info", "nothing"]) == 2
    assert one_line(capsys.readouterr().err)


def test_train_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    out = tmp_path / "runs"
    common = ["train", "--preset", "mdrn_tiny", "--steps", "2", "--batch-size", "4", "--patch-size", "16"]
    assert main([*common, "--data", "samples", "--noise-level", "0-75", "--out", str(out), "--device", "cpu"]) == 0
    path = capsys.readouterr().out.strip()
    assert path.endswith("mdrn_tiny.plain_n0-75_s0.safetensors")
    header = checkpoint.read_header(path)
    assert header.patches == 8 and header.noise_level == (0.0, 75.0) and header.data["sets"] == "samples"
    assert main([*common, "--out", str(tmp_path / "other"), "--device", "cpu"]) == 2
    assert one_line(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main([*common, "--noise-level", "loud"])


@pytest.mark.slow
def test_as_a_program(tmp_path, weights):
    path = tmp_path / "a.png"
    Image.fromarray(camera()[:40, :50]).save(path)
    command = [sys.executable, "-m", "mdrn", "denoise", str(path), "--model", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0 and (tmp_path / "a_denoised.png").exists(), done.stderr
    done = subprocess.run([*command[:4], str(tmp_path / "none.png")], capture_output=True, text=True)
    assert done.returncode == 2 and one_line(done.stderr)
