"""What happens on the tabs' events, called as Gradio calls them but without a server."""

import collections
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pandas as pd
import pytest
from demo_site import COLOUR, GREY, TINY, make_image

from demo import catalogue, comparison
from demo.tabs import benchmark, compare, denoise
from demo.ui import build
from demo.workspace import Workspace
from mdrn import checkpoint, files, metrics, noise

REQUEST = SimpleNamespace(session_hash="me", query_params={})


def quiet(*_, **__):
    """Stand in for a progress bar."""


@pytest.fixture
def tab(tmp_path):
    return denoise.Denoise(Workspace(tmp_path / "results"))


def controls(path, **changes):
    values = {"image": str(path), "network": "automatic", "automatic": True, "level": 25, "exact": "", "keep": True}
    values |= {"as_png": False, "strength": 1.0, "view": "crop", "spot": None, "seen": None}
    return denoise.Controls(**(values | changes))


def test_a_result_is_shown_only_for_what_it_was_made_from(tab, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20, 3)))
    asked = controls(tmp_path / "a.png")
    line, job = tab.denoise(REQUEST, 1, quiet, None, *asked)
    assert not line["visible"] and job.model == COLOUR
    assert tab.offer(REQUEST, 2, job, *asked).interactive
    for change in ({"network": "mdrn"}, {"automatic": False}, {"exact": TINY}, {"image": "other.png"}):
        other = asked._replace(**change)
        shown = tab.show(REQUEST, 3, job, *other)
        assert shown[0] == denoise.AGAIN and set(shown[2:]) == {None}
        assert not tab.offer(REQUEST, 3, job, *other).interactive
    _, again = tab.denoise(REQUEST, 4, quiet, job, *asked)
    assert again.folder.exists() and not job.folder.exists()


def test_only_the_open_view_is_made(tab, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((200, 180)))
    asked = controls(tmp_path / "a.png")
    _, job = tab.denoise(REQUEST, 1, quiet, None, *asked)
    for index, view in enumerate(denoise.VIEWS):
        shown = tab.show(REQUEST, 2 + index, job, *asked._replace(view=view))[2:]
        assert [isinstance(each, (str, tuple, list)) for each in shown] == [i == index for i in range(4)]


def test_stop_ends_the_work_and_leaves_nothing(tab, tmp_path):
    files.write_image(tmp_path / "a.png", make_image((20, 20, 3)))
    line, *_ = tab.denoise(REQUEST, 1, lambda *_, **__: tab.stop("me"), None, *controls(tmp_path / "a.png"))
    assert line["value"] == "Stopped." and list((tmp_path / "results").iterdir()) == [] and len(tab.runs) == 0


def test_an_answer_that_is_no_longer_asked_for_changes_nothing(tab, tmp_path):
    """The browser's newest values arrive while an older event is at work, and in any order."""
    files.write_image(tmp_path / "a.png", make_image((20, 20)))
    asked = controls(tmp_path / "a.png")
    _, job = tab.denoise(REQUEST, 1, quiet, None, *asked)
    cleared = asked._replace(image=None)
    tab.note(REQUEST, 9, cleared)
    tab.note(REQUEST, 8, asked)  # overtaken
    unchanged = gr.skip()
    assert set(map(str, tab.inspect(REQUEST, 5, *asked))) == {str(unchanged)}
    assert set(map(str, tab.show(REQUEST, 5, job, *asked))) == {str(unchanged)}
    assert tab.offer(REQUEST, 5, job, *asked) == unchanged
    assert tab.denoise(REQUEST, 5, quiet, job, *asked) == (unchanged, unchanged)
    assert tab.show(REQUEST, 10, job, *cleared)[2:] == (None,) * 4
    tab.workspace.discard("me", job.folder)
    assert "has been cleared" in tab.show(REQUEST, 11, job, *asked)[0]
    tab.note(REQUEST, 12, asked._replace(view="whole"))
    assert not tab.offer(REQUEST, 5, job, *asked).interactive  # another view changes nothing of the file


def test_the_page_is_built_without_any_network(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS_DIR", tmp_path)
    assert catalogue.choices() == []
    build()


def test_comparison_is_the_benchmarks_noise_and_scores():
    made = comparison.compare(comparison.photographs()["camera"], 25, 7, [GREY, "total_variation"])
    noisy = metrics.to_uint8(noise.benchmark_noisy(made.clean, 25, seed=7))
    assert [result.method for result in made.results] == ["noisy", GREY, "total_variation"]
    assert made.results[0].psnr == metrics.psnr(noisy, made.clean)
    difference = comparison.difference(made.results[0], made.clean)
    assert difference[3, 3] == min(255, 4 * abs(int(noisy[3, 3]) - int(made.clean[3, 3])))
    table = compare.scores(made.results)
    assert list(table["PSNR, dB"]) == sorted(table["PSNR, dB"], reverse=True)
    table["PSNR, dB"] = 30.1
    assert "30.10" in compare.styled(table).to_html()


def test_colour_gets_colour_networks():
    assert comparison.first_choice(25, 3)[0] == COLOUR and GREY not in comparison.first_choice(25, 3)
    assert comparison.first_choice(25, 1) == [GREY, TINY, "non_local_means"]


def test_a_link_holds_the_whole_comparison():
    link = comparison.link("camera", 25, 3, [GREY, "wavelet"])
    query = dict(pair.split("=") for pair in link.replace("%2C", ",")[1:].split("&"))
    assert comparison.from_link(query) == ("camera", 25, 3, [GREY, "wavelet"])
    for wrong in ({"photograph": "../a"}, {"level": "26"}, {"seed": "-1"}, {"seed": "x"}, {"tab": "about"}):
        assert comparison.from_link(query | wrong) is None


def test_benchmark_tables_are_of_the_summary_with_units():
    frame = benchmark.read()
    table = benchmark.table(frame, "BSD68")
    assert {"measured", "published"} == set(table["Origin"]) and "PSNR, dB at 25" in table
    row = table[table["Method"] == "DnCNN-S"].iloc[0]
    source = frame[(frame.method == "DnCNN-S") & (frame["set"] == "BSD68") & (frame.level == 25)].iloc[0]
    assert np.isclose(row["PSNR, dB at 25"], source.psnr) and np.isclose(
        row["Size, million parameters"], source.parameters / 1e6
    )
    drawing = benchmark.quality_against_time(frame)
    assert "FFDNet" in drawing and "mdrn tiny" in drawing and "currentColor" in drawing
    study = frame[(frame.method == "mdrn_tiny.plain_n0-75_s0")].assign(plan="study", method="a run of a study")
    assert "a run of a study" not in benchmark.quality_against_time(pd.concat([frame, study]))


def test_the_drawing_of_strategies_is_of_the_studys_runs():
    frame = benchmark.read()
    runs = [("plain", 1000, 27.0), ("plain", 2000, 27.1), ("hmds", 1000, 27.2), ("hmds", 2000, 27.3)]
    columns = {"method": "run", "plan": "study", "size": "mdrn_tiny", "set": "Set12", "level": 50.0}
    study = pd.DataFrame(runs, columns=["strategy", "steps", "psnr"]).assign(**columns)
    drawing = benchmark.strategies(pd.concat([frame, study]))
    assert "mdrn tiny, hmds" in drawing and "steps of training" in drawing and "teacher" not in drawing
    assert benchmark.strategies(study.assign(plan=benchmark.PUBLISHED)) is None


def test_a_copy_without_results_says_so(tmp_path):
    (tmp_path / "summary.csv").touch()
    for folder in (tmp_path, tmp_path / "nothing"):
        assert benchmark.read(folder) is None
        with gr.Blocks() as page:
            benchmark.layout(folder)
        assert benchmark.NOTHING in str(page.config)


def test_no_two_handlers_of_one_event_wake_each_other():
    """Gradio repeats the whole event of an `always_last` handler that was called meanwhile: two of them never rest."""
    waiting = [each for each in build().config["dependencies"] if each["trigger_mode"] == "always_last"]
    events = collections.Counter(tuple(target) for each in waiting for target in each["targets"] if target[0])
    assert events and set(events.values()) == {1}
