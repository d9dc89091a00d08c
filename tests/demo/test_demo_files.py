"""Several files into one zip: the service, the tab's handler and the endpoint."""

import csv
import io
import zipfile
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from demo_site import make_image
from gradio_client import handle_file

import mdrn
from demo import errors, service
from demo.tabs.files import Files
from demo.workspace import Workspace
from mdrn import files

KINDS = {
    "grey.png": ((37, 31), "uint8"),
    "deep.tif": ((37, 31, 3), "uint16"),
    "float.tiff": ((20, 31), "float32"),
    "alpha.png": ((20, 31, 4), "uint16"),
    "colour.bmp": ((20, 31, 3), "uint8"),
}


@pytest.fixture
def uploads(tmp_path):
    """Return good files of many kinds, a bad one among them, and one with another's name."""
    for name, (shape, dtype) in KINDS.items():
        files.write_image(tmp_path / name, make_image(shape, dtype))
    (tmp_path / "bad.png").write_text("not an image")
    (tmp_path / "more").mkdir()
    files.write_image(tmp_path / "more" / "grey.png", make_image((20, 20), seed=7))
    names = list(KINDS)
    return [*(tmp_path / name for name in names[:2]), tmp_path / "bad.png", *(tmp_path / n for n in names[2:])] + [
        tmp_path / "more" / "grey.png"
    ]


def check_zip(path, uploads):
    """Check each result in a zip against the library, and that the bad file is named in the zip's own report."""
    with zipfile.ZipFile(path) as archive:
        lines = list(csv.DictReader(io.StringIO(archive.read(service.REPORT).decode())))
        assert [line["file"] for line in lines] == [upload.name for upload in uploads]
        assert sorted(archive.namelist()) == sorted(
            [service.REPORT, *(line["result"] for line in lines if line["result"])]
        )
        for upload, line in zip(uploads, lines, strict=True):
            if upload.name == "bad.png":
                assert line["result"] == "" and "This is not an image" in line["note"]
                continue
            source, back = files.read_image(upload), files.read_image(archive.read(line["result"]))
            assert back.format == source.format and back.pixels.dtype == source.pixels.dtype
            assert np.array_equal(back.pixels, mdrn.denoise(source.pixels, 25))
    return [line["result"] for line in lines]


def test_each_file_comes_back_in_its_own_kind_and_a_bad_one_is_named(uploads, tmp_path):
    folder = Workspace(tmp_path / "results").new("me")
    steps = []
    *_, lines = service.denoise_files(uploads, folder, 25, progress=lambda *step: steps.append(step))
    made = folder / service.ARCHIVE
    results = check_zip(made, uploads)
    assert "grey_denoised.png" in results and "grey_denoised_2.png" in results
    assert list(folder.iterdir()) == [made] and str(tmp_path) not in " ".join(line.note for line in lines)
    assert len(steps) >= 6


def test_the_endpoint_gives_the_same(client, uploads):
    made, lines = client.predict([handle_file(path) for path in uploads], 25, api_name="/denoise_files")
    check_zip(made, uploads)
    assert [bool(line["result"]) for line in lines] == [path.name != "bad.png" for path in uploads]


def test_limits_are_explained(uploads, tmp_path, monkeypatch):
    folder = Workspace(tmp_path / "results").new("me")
    with pytest.raises(errors.DemoError, match="expected 1 to 50 files, got 51"):
        list(service.denoise_files(uploads[:1] * 51, folder))
    monkeypatch.setattr(service, "MAX_ZIP_PIXELS", 1000)
    *_, lines = service.denoise_files(uploads[:2], folder, 25)
    assert lines[0].result and not lines[1].result and lines[1].note.startswith("Left out")


def test_the_tab_says_what_became_of_each_and_can_be_stopped(uploads, tmp_path):
    tab, request = Files(Workspace(tmp_path / "results")), SimpleNamespace(session_hash="me")
    controls = [[str(path) for path in uploads], "automatic", False, 25, "", True, False, 1.0]
    answers = list(tab.denoise(request, 1, lambda *_, **__: None, *controls))
    assert len(answers) == 9 and list(answers[0][2]["Result"])[:2] == ["working …", "waiting"]
    made = answers[-1][1]
    button, text, _ = tab.show(request, 2, made, *controls)
    assert button.interactive and "**6 of 7 done**, **1 not**" in text
    button, text, table = tab.show(request, 3, made, *controls[:-1], 0.5)
    assert not button.interactive and "makes the results for these" in text and table is None
    assert list(tab.denoise(request, 2, lambda *_, **__: None, *controls)) == [(gr.skip(),) * 3] * 2  # not asked for

    def stop(*_, **__):
        tab.stop("me")

    before = set((tmp_path / "results").iterdir())
    assert list(tab.denoise(request, 4, stop, *controls))[-1][0]["value"] == "Stopped."
    assert set((tmp_path / "results").iterdir()) == before and len(tab.runs) == 0
    assert "Choose some images" in list(tab.denoise(request, 5, stop, None, *controls[1:]))[-1][0]["value"]
