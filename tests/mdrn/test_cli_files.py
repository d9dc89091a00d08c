"""What `mdrn denoise` does with folders it has been in before, with pipes, and with TIFFs of several pages."""

import io
import os
import pty
import re
import subprocess
import sys
import termios

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import astronaut, camera
from small_networks import header_for, small_network

from mdrn import checkpoint, inference
from mdrn.cli import main
from mdrn.files import encode_image, read_image


@pytest.fixture
def weights(tmp_path):
    network = small_network()
    checkpoint.write_weights(tmp_path / "net" / "small.safetensors", network, header_for(network))
    return str(tmp_path / "net" / "small.safetensors")


@pytest.fixture
def denoise(weights, capsysbinary):
    """Run `mdrn denoise` at level 25 and return its exit code, its standard output as bytes and what it said."""

    def run(*arguments, level="25"):
        code = main(["denoise", *map(str, arguments), "--noise-level", level, "--model", weights])
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return run


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "deep/c.png", ".hidden.png", "._a.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(camera()[:9, :9]).save(path)
    return tmp_path / "in"


def stdin(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# -------------------------------------------------------------------------------------------- folders again


def test_results_of_an_earlier_run_beside_their_images_are_left_out(tmp_path, denoise, folder):
    assert denoise(folder / "a.png")[0] == 0 and (folder / "a_denoised.png").exists()
    code, _, err = denoise(folder, "-o", tmp_path / "out")
    assert code == 0 and "1 left out (1 results of earlier runs)" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_what_is_done_is_skipped_and_said(tmp_path, denoise, folder):
    out = tmp_path / "out"
    code, _, err = denoise(folder, "-o", out, "--recursive")
    assert code == 0 and re.fullmatch(r"mdrn: 3 done, \d+\.\d s\n", err)
    assert sorted(p.name for p in out.rglob("*.*")) == ["a.png", "b.png", "c.png"]  # no hidden files
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    (out / "b.png").unlink()
    code, said, err = denoise(folder, "-o", out, "--recursive")
    skipped = "2 skipped: their results exist, perhaps from other options (--overwrite redoes them)"
    assert code == 0 and f"1 done, {skipped}" in err
    assert said.count(b"->") == 1 and {p for p in stamps if p.stat().st_mtime_ns == stamps[p]} == {
        out / "a.png",
        out / "deep" / "c.png",
    }
    code, said, err = denoise(folder, "-o", out, "--recursive", "--overwrite")
    assert code == 0 and "3 done," in err and "skipped" not in err and said.count(b"->") == 3


def test_skipping_does_not_hide_failures(tmp_path, denoise, folder):
    (folder / "bad.png").write_bytes(b"")
    assert denoise(folder, "-o", tmp_path / "out")[0] == 2
    code, _, err = denoise(folder, "-o", tmp_path / "out")
    assert code == 2 and "0 done, 2 skipped" in err and "1 failed" in err and "bad.png" in err


def test_a_folder_onto_itself(denoise, folder):
    before = (folder / "a.png").read_bytes()
    code, _, err = denoise(folder, "-o", folder)
    assert code == 2 and "2 failed" in err and "skipped" not in err and (folder / "a.png").read_bytes() == before
    code, _, err = denoise(folder, "-o", folder, "--overwrite")
    assert code == 0 and "2 done" in err and (folder / "a.png").read_bytes() != before


def test_results_within_the_folder_are_no_inputs(denoise, folder):
    for _ in range(2):
        assert denoise(folder, "-o", folder / "clean", "--recursive", "--overwrite")[0] == 0
    assert sorted(p.relative_to(folder / "clean").as_posix() for p in (folder / "clean").rglob("*.png")) == [
        "a.png",
        "b.png",
        "deep/c.png",
    ]


def test_many_images_need_a_folder(tmp_path, denoise, folder):
    images = [folder / "a.png", folder / "b.png"]
    for output in ("one.png", "in/deep/c.png"):
        code, _, err = denoise(*images, "-o", tmp_path / output)
        assert code == 2 and "expected a folder for the results of 2 images" in err
    assert denoise(*images, "-o", tmp_path / "new" / "folder")[0] == 0
    assert denoise(images[0], "-o", f"{tmp_path}/single/")[0] == 0 and (tmp_path / "single" / "a.png").exists()
    assert denoise(images[0], "-o", tmp_path / "made" / "x.png")[0] == 0 and (tmp_path / "made" / "x.png").exists()


def test_a_result_never_replaces_another_input(denoise, folder):
    target = folder / "deep" / "a.png"
    target.write_bytes((folder / "a.png").read_bytes())
    code, _, err = denoise(folder / "a.png", target, "-o", folder / "deep", "--overwrite")
    assert code == 2 and ("is an input" in err or "two inputs" in err)
    assert target.read_bytes() == (folder / "a.png").read_bytes()


def test_what_the_output_cannot_hold_is_said_before_the_work(tmp_path, denoise, monkeypatch):
    monkeypatch.setattr(inference, "restore", lambda *_, **__: pytest.fail("the work was done in vain"))
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((9, 9), np.uint16))
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((2, 9, 9), np.uint8), photometric="minisblack")
    for source, target, words in [
        ("clear.png", "a.jpg", "without transparency"),
        ("pages.tif", "a.png", "2 pages; write TIFF"),
        ("deep.tif", "a.gif", "ending in"),
        ("deep.tif", "deep.tif/a.tif", "no folder"),
    ]:
        code, _, err = denoise(tmp_path / source, "-o", tmp_path / target)
        assert code == 2 and words in err and len(err.splitlines()) == 1


def test_dropped_metadata_is_one_line(tmp_path, denoise):
    Image.fromarray(camera()[:9, :9]).save(tmp_path / "a.png", exif=_exif())
    code, _, err = denoise(tmp_path / "a.png", "-o", tmp_path / "a.bmp")
    assert code == 0 and err.startswith("mdrn: warning: ") and "exif" in err and len(err.splitlines()) == 1
    assert denoise(tmp_path / "a.png", "-o", tmp_path / "b.bmp", "--strip")[2] == ""


def _exif() -> Image.Exif:
    tags = Image.Exif()
    tags[271] = "Testcam"
    return tags


@pytest.mark.parametrize("option", ["--keep-metadata", "--strip"])
def test_metadata_options(tmp_path, denoise, option, weights):
    Image.fromarray(camera()[:9, :9]).save(tmp_path / "a.jpg", exif=_exif())
    assert denoise(tmp_path / "a.jpg", "-o", tmp_path / "b.jpg", option)[0] == 0
    assert (271 in Image.open(tmp_path / "b.jpg").getexif()) == (option == "--keep-metadata")
    with pytest.raises(SystemExit):
        main(["denoise", str(tmp_path / "a.jpg"), "--strip", "--keep-metadata"])


# ----------------------------------------------------------------------------------------------------- pipes


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "webp", "bmp"])
def test_through_a_pipe(denoise, monkeypatch, weights, format):
    image = astronaut()[:20, 90:115]
    data = encode_image(image, format)
    for arguments in (["-"], ["-", "-o", "-"]):
        stdin(monkeypatch, data)
        code, out, err = denoise(*arguments)
        assert code == 0 and "standard input -> standard output" in err
        after, before = read_image(out), read_image(data)
        assert after.format == format
        difference = np.abs(after.pixels - inference.restore(before.pixels, 25, weights).image.astype(int))
        assert difference.max() == 0 or format == "jpeg" and difference.mean() < 2


def test_half_a_pipe(tmp_path, denoise, monkeypatch):
    data = encode_image(camera()[:9, :9] * np.uint16(257), "png")
    stdin(monkeypatch, data)
    assert denoise("-", "-o", tmp_path / "a.tif")[0] == 0
    (tmp_path / "b.png").write_bytes(data)
    code, out, _ = denoise(tmp_path / "b.png", "-o", "-")
    assert code == 0 and np.array_equal(read_image(out).pixels, read_image(tmp_path / "a.tif").pixels)
    stdin(monkeypatch, data)
    code, _, err = denoise("-", "-o", tmp_path / "a.tif")
    assert code == 2 and "--overwrite" in err


def test_pipes_that_cannot_be(tmp_path, denoise, monkeypatch):
    for data, words in ((b"", "empty"), (b"text", "none of these"), (encode_image(camera(), "png")[:999], "cut off")):
        stdin(monkeypatch, data)
        code, out, err = denoise("-")
        assert code == 2 and out == b"" and len(err.splitlines()) == 1 and words in err
    for arguments in (["-", "a.png"], ["a.png", "b.png", "-o", "-"]):
        code, _, err = denoise(*arguments)
        assert code == 2 and "expected one image" in err
    for stream, arguments in (("stdin", ["-"]), ("stdout", ["a.png", "-o", "-"])):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
        code, _, err = denoise(*arguments)
        assert code == 2 and "terminal" in err and len(err.splitlines()) == 1
        monkeypatch.undo()


# ----------------------------------------------------------------------------------------------------- pages


def test_every_page_is_denoised(tmp_path, denoise, weights):
    pages = [camera()[:37, :31] * np.uint16(257), astronaut()[:20, 90:130], camera()[:9, :9]]
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        for page in pages:
            file.write(page, compression="lzw", photometric="rgb" if page.ndim == 3 else "minisblack")
    code, out, _ = denoise(tmp_path / "in.tif", "-o", tmp_path / "out.tif")
    assert code == 0 and b"3 pages, the first 31 x 37, 16 bit" in out and b"channel by channel" in out
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert [page.compression.name for page in file.pages] == ["LZW"] * 3
        for page, before in zip(file.pages, pages, strict=True):
            assert np.array_equal(page.asarray(), inference.restore(before, 25, weights).image)
            assert page.dtype == before.dtype


def test_a_bad_page_leaves_nothing(tmp_path, denoise):
    with tifffile.TiffWriter(tmp_path / "in.tif") as file:
        file.write(camera()[:9, :9])
        file.write(camera()[:9, :9].astype(np.int16))
    code, _, err = denoise(tmp_path / "in.tif", "-o", tmp_path / "out.tif")
    assert code == 2 and "page 2 of 2" in err and len(err.splitlines()) == 1 and not (tmp_path / "out.tif").exists()


# -------------------------------------------------------------------------------------------- as a program


def test_help_tells_the_exit_codes(capsys):
    for arguments in (["--help"], ["denoise", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "exit codes: 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_progress_on_a_terminal_alone(tmp_path, weights):
    image = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "mdrn", "denoise", tmp_path / "a.png", "--model", weights, "--tile", "32"]
    quiet = subprocess.run([*command, "-o", tmp_path / "b.png"], capture_output=True, text=True)
    assert quiet.returncode == 0 and quiet.stderr == ""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([*command, "-o", tmp_path / "c.png"], stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096) or b""
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0 and re.search(rb"a\.png +\d+% .*passed, .*left", shown), shown[-500:]


@pytest.mark.slow
def test_a_reader_that_goes_away(tmp_path, weights):
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "mdrn", "denoise", tmp_path / "a.png", "--model", weights, "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 2 and err.count("\n") == 1 and "went away" in err
