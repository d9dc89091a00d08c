"""The command line for people: what it says of inputs it cannot use, of mistakes, and of what it leaves out."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import astronaut, camera
from small_networks import header_for, small_network

from mdrn import checkpoint, cli_denoise, inference
from mdrn.cli import main
from mdrn.files import open_pages, read_image, write_image


@pytest.fixture
def weights(tmp_path):
    network = small_network()
    checkpoint.write_weights(tmp_path / "net" / "small.safetensors", network, header_for(network))
    return str(tmp_path / "net" / "small.safetensors")


@pytest.fixture
def mdrn(capsys):
    """Run the command line and return its exit code, what it printed and the lines it said beside."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


@pytest.fixture
def denoise(mdrn, weights):
    return lambda *arguments: mdrn("denoise", *arguments, "--noise-level", 25, "--model", weights)


GREY = camera()[:20, :24]


# ---------------------------------------------------------------------------------- reading before judging


def encoded(format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(astronaut()[:20, :24]).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("photo.gif", encoded("GIF"), "got a GIF"),
        ("photo.dng", b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "camera raw (CR2); develop it to TIFF"),
        ("photo.jxl", b"\xff\x0a" + bytes(99), "got JPEG XL"),
        ("photo.psd", b"8BPS" + bytes(99), "got a Photoshop document"),
        ("photo.heic", b"\0\0\0\x18ftypheic" + bytes(99), "convert it to PNG, for example with heif-convert"),
        ("photo", b"text", "got something that is none of these; if this is an image, convert"),
        ("photo.mp4", b"\0\0\0\x18ftypisom" + bytes(99), "got a video"),
        ("nosuchfile", None, "No such file"),
        ("nosuchfile.avif", None, "No such file"),
    ],
)
def test_the_input_is_named_for_what_it_is(tmp_path, denoise, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for output in ([], ["-o", tmp_path / "out.gif"]):
        code, _, said = denoise(tmp_path / name, *output)
        assert code == 2 and len(said) == 1 and said[0].startswith(f"mdrn: error: {tmp_path / name}: ")
        assert words in said[0] and "rename the output" not in said[0]


@pytest.mark.parametrize("suffix", ["avif", "heif"])
def test_avif_becomes_png_and_that_is_said(tmp_path, denoise, weights, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(encoded("AVIF", quality=100, subsampling="4:4:4"))
    code, out, said = denoise(tmp_path / f"a.{suffix}")
    assert code == 0 and len(said) == 1 and "read but not written; the result is" in said[0]
    pixels = np.asarray(Image.open(tmp_path / f"a.{suffix}"))
    expected = inference.restore(pixels, 25, weights).image
    assert np.abs(read_image(tmp_path / "a_denoised.png").pixels.astype(int) - expected).max() <= 2


def test_avif_through_a_pipe_becomes_png_and_that_is_said(tmp_path):
    (tmp_path / "a.avif").write_bytes(encoded("AVIF"))
    job = cli_denoise._Job(None, None, one_of_many=False)
    with pytest.warns(UserWarning, match="AVIF and HEIC are read but not written; the result is a PNG file"):
        cli_denoise._say_what_changed(job, open_pages(tmp_path / "a.avif"))


def test_deep_avif_is_white_where_it_is_white(tmp_path):
    import pyvips

    white = pyvips.Image.new_from_array(np.full((16, 16, 3), 65535, np.uint16)).copy(interpretation="rgb16")
    for bits in (10, 12):
        pixels = read_image(white.heifsave_buffer(compression="av1", bitdepth=bits, lossless=True)).pixels
        assert pixels.dtype == np.uint16 and pixels.min() == 65535


def test_colours_of_an_avif_by_code_points_are_kept(tmp_path, denoise):
    data = encoded("AVIF")
    at = data.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(data[:at] + bytes((0, 12, 0, 16)) + data[at + 4 :])  # P3 primaries, PQ
    assert denoise(tmp_path / "a.avif")[0] == 0
    assert b"cICP" + bytes((12, 16, 0, 1)) in (tmp_path / "a_denoised.png").read_bytes()


def test_names_that_do_not_say_what_is_in_them(tmp_path, denoise):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("photo.jpg", "plain", "other.JPG"):
        Image.fromarray(GREY).save(source / name, "JPEG" if name == "other.JPG" else "PNG")
    code, _, said = denoise(source / "plain")
    assert code == 0 and np.array_equal(read_image(source / "plain_denoised.png").pixels.shape, GREY.shape)
    (source / "plain_denoised.png").unlink()
    code, _, said = denoise(source, "-o", tmp_path / "out")
    assert code == 0 and "photo.jpg: is a PNG file, whatever its name says; the result is" in said[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other.JPG", "photo.png"]
    assert read_image(tmp_path / "out" / "photo.png").format == "png"
    code, _, said = denoise(source, "-o", tmp_path / "out")
    assert code == 0 and "2 skipped" in said[-1]


def test_two_files_that_become_png_keep_apart(tmp_path, denoise):
    (tmp_path / "in").mkdir()
    Image.fromarray(GREY).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.avif").write_bytes(encoded("AVIF"))
    assert denoise(tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.avif.png", "a.png"]


def test_the_summary_counts_what_was_left_out_by_kind(tmp_path, denoise):
    for name in ("a.jfif", "b.jpe"):
        Image.fromarray(GREY).save(tmp_path / name, "JPEG")
    for name in ("c.gif", "d.GIF", "e.dng", "notes", ".hidden.gif"):
        (tmp_path / name).write_bytes(b"x")
    code, _, said = denoise(tmp_path, "-o", tmp_path / "out")
    assert code == 0 and "2 done, 4 left out (1 .dng, 2 .gif, 1 without a suffix)" in said[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jfif", "b.jpe"]
    for name in ("a.jfif", "b.jpe"):
        (tmp_path / name).unlink()
        (tmp_path / "out" / name).unlink()
    code, _, said = denoise(tmp_path, "-o", tmp_path / "out")
    assert code == 2 and "found none" in said[0] and "it holds 1 .dng, 2 .gif" in said[0]


@pytest.mark.parametrize("name", ["-a.png", "写真 ü [1] %s.png", "A.PNG", "a.b.c.png", "'quoted'.png", "con\u202e.png"])
def test_names_of_every_kind(tmp_path, denoise, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_image(name, GREY)
    options = ["--"] if name.startswith("-") else []
    code = denoise("-o", "out.png", *options, name)[0] if not options else None
    if options:
        code = denoise(f"./{name}", "-o", "out.png")[0]
    assert code == 0 and read_image("out.png").pixels.shape == GREY.shape
    assert denoise(f"./{name}")[0] == 0


# ---------------------------------------------------------------------------------------------- depth and channels


@pytest.mark.parametrize(
    ("source", "target", "depth", "dtype", "notice"),
    [
        ("deep.tif", "a.jpg", None, "uint8", True),
        ("deep.tif", "a.webp", None, "uint8", True),
        ("float.tif", "a.png", None, "uint16", True),
        ("deep.tif", "a.png", 8, "uint8", False),
        ("float.tif", "a.tif", 16, "uint16", False),
        ("float.tif", "a.jpg", 8, "uint8", False),
    ],
)
def test_depths(tmp_path, denoise, source, target, depth, dtype, notice):
    tifffile.imwrite(tmp_path / "deep.tif", GREY * np.uint16(257))
    tifffile.imwrite(tmp_path / "float.tif", GREY / np.float32(255))
    options = ["--depth", depth] if depth else []
    code, _, said = denoise(tmp_path / source, "-o", tmp_path / target, *options)
    assert code == 0 and read_image(tmp_path / target).pixels.dtype == dtype
    assert [("not kept: the depth of" in line) for line in said] == [True] * notice


def test_sixteen_bits_from_eight_are_real(tmp_path, denoise):
    write_image(tmp_path / "a.png", GREY)
    assert denoise(tmp_path / "a.png", "-o", tmp_path / "b.png", "--depth", 16)[0] == 0
    assert (read_image(tmp_path / "b.png").pixels % 257).any()


@pytest.mark.parametrize("channels", [2, 4])
def test_infrared_is_neither_denoised_nor_transparency(tmp_path, denoise, weights, channels):
    pixels = np.dstack([astronaut()[:20, :24], GREY])[..., -channels:]
    pixels[:5, :, -1] = 0
    kind = {"photometric": "rgb" if channels == 4 else "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=["unspecified"], **kind)
    assert denoise(tmp_path / "a.tif", "-o", tmp_path / "b.tif")[0] == 0
    result = tifffile.imread(tmp_path / "b.tif")
    colours = np.ascontiguousarray(pixels[..., 0] if channels == 2 else pixels[..., :3])
    assert np.array_equal(result[..., -1], pixels[..., -1])
    assert np.array_equal(result[..., :-1].squeeze(), inference.restore(colours, 25, weights).image)


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise-level", "76"], "--noise-level: expected auto or a number from 0 to 75, got 76"),
        (["--noise-level", "loud"], "got loud"),
        (["--strength", "2.5"], "--strength: expected 0 to 2, got 2.5"),
        (["--strength", "-1"], "--strength"),
        (["--depth", "12"], "--depth"),
        (["--nonsense"], "--nonsense"),
        (["--tile", "0"], "--tile"),
        (["--strip", "--keep-metadata"], "not allowed with"),
    ],
)
def test_mistakes_are_one_line_and_point_to_the_help(tmp_path, mdrn, arguments, words):
    code, out, said = mdrn("denoise", tmp_path / "nothing.png", *arguments)
    assert code == 2 and not out and len(said) == 1, said
    assert said[0].startswith("mdrn: error: ") and words in said[0] and "see mdrn" in said[0] and "--help" in said[0]
    assert "Python" not in said[0] and "None" not in said[0]


@pytest.mark.parametrize("command", [[], ["denoise"], ["nonsense"], ["export"], ["train", "--nonsense"]])
def test_mistakes_in_the_command(mdrn, command):
    code, out, said = mdrn(*command)
    assert code == 2 and not out and len(said) == 1 and "--help" in said[0]


@pytest.mark.parametrize(
    ("device", "words"),
    [("banana", "expected cpu, cuda or cuda:1, got banana"), ("cuda", "PyTorch finds 0"), ("cuda:9", "cuda:9")],
)
def test_a_device_that_is_not_there_is_said_once_before_any_image(tmp_path, mdrn, monkeypatch, device, words):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"never read")
    for command in (["denoise", tmp_path, "-o", tmp_path / "out"], ["train", "--data", "samples"]):
        code, _, said = mdrn(*command, "--device", device)
        assert code == 2 and len(said) == 1 and words in said[0]


def test_short_names_and_typos(tmp_path, mdrn):
    write_image(tmp_path / "a.png", GREY)
    code, out, _ = mdrn("denoise", tmp_path / "a.png", "--model", "mdrn_tiny")
    assert code == 0 and "mdrn_tiny." in out
    code, _, said = mdrn("denoise", tmp_path / "a.png", "--model", "mdrn_tyni")
    assert code == 2 and len(said) == 1 and "did you mean mdrn_tiny" in said[0] and len(said[0]) < 250


# ------------------------------------------------------------------------------------------------- help


def test_the_version_comes_without_torch():
    code = (
        "import sys, mdrn.cli\ntry: mdrn.cli.main(['--version'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'pyvips'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mdrn ") and done.stdout.splitlines()[1] == "[]"


def test_the_help_has_examples_and_units(mdrn):
    code, out, _ = mdrn("denoise", "--help")
    assert code == 0 and "examples:" in out and "mdrn denoise photo.jpg" in out and "0-255 scale" in out


def test_every_option_of_training_is_explained(mdrn):
    from mdrn import cli

    parser = cli._Parser(prog="mdrn train", later=cli._add_training_options)
    with pytest.raises(SystemExit):
        parser.parse_known_args(["--help"])
    explained = {action.dest: action.help for action in parser._actions}
    assert all(explained.values()) and {"preset", "minutes", "noise_level", "seed"} <= explained.keys()
    code, out, _ = mdrn("train", "--help")
    assert code == 0 and "--learning-rate" in out and "default: " in out


@pytest.mark.parametrize("module", ["timm", "skimage"])
def test_training_without_the_extra_says_what_to_install(tmp_path, monkeypatch, mdrn, module):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    options = ["--data", "samples", "--preset", "mdrn_tiny", "--steps", 1, "--batch-size", 4, "--patch-size", 16]
    code, _, said = mdrn("train", *options, "--out", tmp_path, "--device", "cpu")
    assert code == 2 and said[-1].endswith(f"needs {module}, which is not installed; pip install 'mdrn[train]'"), said
