"""What happens on the demo's events, called as Gradio calls it but without a server."""

from types import SimpleNamespace

import gradio as gr
import numpy as np
import pandas as pd
import pytest
from demo_site import RANGE, SINGLE, make_image, untrained_networks_released

from demo import benchmark_plots, benchmark_tab, catalogue, compare_handlers, comparison, handlers, service
from demo.ui import build
from demo.workspace import Workspace
from mdrn import checkpoint, files, metrics, noise

REQUEST = SimpleNamespace(session_hash="me", query_params={})
SETTINGS = {"strength": 1.0, "view": "slider", "keep": True, "as_png": False, "across": 0.5, "down": 0.5}


@pytest.fixture(scope="module", autouse=True)
def released(tmp_path_factory):
    with untrained_networks_released(tmp_path_factory.mktemp("weights")):
        yield


@pytest.fixture
def denoise(tmp_path):
    return handlers.Denoise(Workspace(tmp_path / "results"), handlers.Stops())


def run(denoise, path, network=RANGE, job=None, progress=lambda *_, **__: None):
    return denoise.denoise(str(path), True, 25, network, **SETTINGS, job=job, request=REQUEST, progress=progress)


def test_a_new_result_replaces_the_old_one(denoise, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20, 3)))
    first, text, *_ = run(denoise, tmp_path / "a.png")
    assert "restored one by one" in text and "(estimated)" in text
    second, text, *_ = run(denoise, tmp_path / "a.png", SINGLE, job=first)
    assert "**Noise level 25.0** (what the network is made for)" in text
    assert second.folder.exists() and not first.folder.exists()
    denoise.leave(REQUEST)
    assert not second.folder.exists()


def test_stop_ends_the_work_and_leaves_nothing(denoise, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20, 3)))

    def first_tile(*_, **__):
        denoise.stops.stop(REQUEST)

    with pytest.raises(gr.Error, match="Stopped"):
        run(denoise, tmp_path / "a.png", progress=first_tile)
    assert list((tmp_path / "results").iterdir()) == [] and len(denoise.stops) == 0


def test_only_the_open_view_is_made(denoise, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((200, 180)))
    job, *_ = run(denoise, tmp_path / "a.png")
    for index, view in enumerate(handlers.VIEWS):
        shown = denoise.show(job, 0.5, view, 0.5, 0.5)
        assert [isinstance(each, (str, tuple, list)) for each in shown] == [i == index for i in range(4)]


def test_a_tiff_is_shown_as_png_and_denoised_as_tiff(denoise, tmp_path):
    files.write_image(tmp_path / "a.tif", make_image((20, 20), "uint16"))
    text, level, shown = denoise.inspect(str(tmp_path / "a.tif"), RANGE, REQUEST)
    assert text.startswith("20 × 20 pixels, 16-bit grey, TIFF. Estimated noise level") and 0 <= level <= 75
    assert shown.endswith("a.png") and files.read_image(shown).pixels.dtype == np.uint8
    job, *_ = denoise.denoise(
        shown, True, 25, RANGE, **SETTINGS, job=None, request=REQUEST, progress=lambda *_, **__: None
    )
    assert service.write_result(job).suffix == ".tif"


def test_the_page_is_built_without_a_range_network_and_without_any(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    single = (checkpoint.WEIGHTS_DIR / f"{SINGLE}.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "WEIGHTS_DIR", tmp_path / "weights")
    build()
    (tmp_path / "weights" / f"{SINGLE}.safetensors").write_bytes(single)
    assert [model for _, model in handlers.choices()] == [SINGLE]
    build()


def test_comparison_is_the_benchmarks_noise_and_scores(tmp_path):
    made = comparison.compare(comparison.photographs()["camera"], 25, 7, [RANGE, "total_variation"])
    noisy = metrics.to_uint8(noise.benchmark_noisy(made.clean, 25, seed=7))
    assert made.clean.shape == (512, 512) and not made.cropped
    assert [result.method for result in made.results] == ["noisy", RANGE, "total_variation"]
    assert made.results[0].psnr == metrics.psnr(noisy, made.clean)
    assert made.results[2].psnr > made.results[0].psnr + 6
    difference = comparison.difference(made.results[0], made.clean)
    assert difference[3, 3] == min(255, 4 * abs(int(noisy[3, 3]) - int(made.clean[3, 3])))
    table = compare_handlers.scores(made.results)
    assert list(table["PSNR, dB"]) == sorted(table["PSNR, dB"], reverse=True)


def test_a_network_for_another_level_is_left_out(tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 700, 4), "uint16"))
    made = comparison.compare(tmp_path / "a.png", 50, 0, [RANGE, SINGLE])
    assert made.left_out == [SINGLE] and made.cropped and made.clean.shape == (20, 512, 3)
    assert SINGLE not in [method for _, method in compare_handlers.method_choices(50, 1)]


def test_a_comparison_is_of_every_kind_that_is_released(tmp_path):
    tiny, teacher, colour = "mdrn_tiny.hmds_n25_s0", "teacher.plain_n0-75_s0", "mdrn_rgb.plain_n0-75_s0"
    more = {tiny: (25.0, 25.0), teacher: (0.0, 75.0), colour: (0.0, 75.0)}
    assert comparison.first_choice(25, 1) == ["non_local_means", RANGE]
    assert "HMDS" in compare_handlers.describe_missing(25, 1) and "teacher" in compare_handlers.describe_missing(25, 1)
    with untrained_networks_released(tmp_path, **more):
        assert comparison.first_choice(25, 1) == ["non_local_means", SINGLE, tiny, teacher]  # students of one training
        assert comparison.first_choice(50, 1) == ["non_local_means", RANGE, teacher]
        assert comparison.first_choice(50, 3)[1] == colour
        assert compare_handlers.describe_missing(25, 1) == ""
        assert compare_handlers.describe_missing(50, 1).endswith("student trained by distillation (HMDS).")
        methods = comparison.first_choice(25, 1)
        files.write_image(tmp_path / "a.png", make_image((64, 64)))
        made = comparison.compare(tmp_path / "a.png", 25, 0, methods)
        assert [result.method for result in made.results] == ["noisy", *methods] and not made.left_out
        assert made.results[-1].parameters == next(n.parameters for n in catalogue.released() if n.teacher)
        assert comparison.compare(tmp_path / "a.png", 25, 0, [colour]).left_out == [colour]
        assert [n.id for n in catalogue.networks()] == [RANGE, colour, tiny, SINGLE]  # a teacher is nobody's choice
        assert [model for _, model in handlers.choices()][:2] == [catalogue.AUTOMATIC, RANGE]


def test_the_picker_says_size_and_time():
    labels = dict((model, label) for label, model in handlers.choices())
    assert f"{SINGLE}: level 25 only" in labels[SINGLE] and "s per megapixel" in labels[SINGLE]
    assert "levels 0 to 75" in labels[RANGE] and " M parameters" in labels[RANGE]


def test_a_link_holds_the_whole_comparison():
    link = comparison.link("camera", 25, 3, [RANGE, "wavelet"])
    query = dict(pair.split("=") for pair in link.replace("%2C", ",")[1:].split("&"))
    assert comparison.from_link(query) == ("camera", 25, 3, [RANGE, "wavelet"])
    for wrong in ({"photograph": "../a"}, {"level": "26"}, {"seed": "-1"}, {"seed": "x"}, {"tab": "about"}):
        assert comparison.from_link(query | wrong) is None
    assert comparison.from_link({}) is None


def test_benchmark_rows_are_marked_sortable_and_drawn():
    tables = benchmark_tab.read_tables(benchmark_tab.RESULTS)
    quality = next(table for title, table in tables.items() if "BSD68" in title)
    assert set(quality["origin"]) == {"measured", "published"}
    published = quality[quality["origin"] == "published"]
    assert (
        published["method"].str.startswith("DnCNN-S 2017").any() and not quality["method"].str.contains("as pub").any()
    )
    assert quality["parameters, millions"].dtype.kind == "f" and quality["level 25 PSNR"].dtype.kind == "f"
    drawing = benchmark_plots.draw(quality)
    assert drawing.lines is not None and drawing.points is not None and set(drawing.first) <= set(drawing.names)
    colours = benchmark_plots.colours(drawing.names, drawing.first)
    assert len(set(colours.values())) == len(drawing.first)
    stages = next(table for title, table in tables.items() if "tages" in title)
    assert set(benchmark_plots.draw(stages).lines["stage"]) >= {0, 1, 2}
    speed = next(title for title in tables if title.startswith("Speed"))
    assert benchmark_plots.draw(tables[speed]).point_axes[1] == "milliseconds"
    assert "benchmark.speed" in benchmark_tab.command(speed) and "benchmark.run" in benchmark_tab.command(
        "Released: BSD68"
    )


def test_benchmark_tables_are_read_and_a_damaged_one_is_left_out(tmp_path):
    (tmp_path / "tables").mkdir()
    text = (
        "method,parameters,level 15 PSNR,level 15 SSIM,level 25 PSNR,level 25 SSIM\na,1,32.5,0.9,30.1,0.8\nb,,31,,,\n"
    )
    (tmp_path / "tables" / "released_set12_awgn.csv").write_text(text)
    (tmp_path / "tables" / "empty.csv").touch()
    tables = benchmark_tab.read_tables(tmp_path)
    assert list(tables) == ["Released: Set12"]
    lines = benchmark_plots.draw(tables["Released: Set12"]).lines
    assert lines.to_dict("list") == {
        "name": ["a", "b", "a"],
        "noise level": [15, 15, 25],
        "PSNR, dB": [32.5, 31, 30.1],
    }
    assert benchmark_plots.draw(pd.DataFrame({"network": ["a"], "seconds": [1]})).names == []
    for folder in (tmp_path, tmp_path / "nothing"):
        with gr.Blocks():
            benchmark_tab.benchmark_tab(folder)
