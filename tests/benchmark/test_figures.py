"""Figures are drawn from the tidy tables alone, say what they claim, and are not drawn without their data."""

import pandas as pd
import pytest
from synthetic import add, add_speed, add_study

from benchmark import drawing, figures, summary


@pytest.fixture
def out(tmp_path):
    """Released networks of two sizes with timings, and a finished study."""
    add(tmp_path, "noisy", [20.0, 21.0])
    for size, psnr in (("mdrn", 29.1), ("mdrn_tiny", 28.8)):
        add(tmp_path, f"{size}.plain_n0-75_s0", [psnr, psnr], stages=f"{psnr - 0.3:.2f}")
    add_speed(tmp_path, DnCNN=1000.0, FFDNet=200.0, mdrn=70.0, mdrn_tiny=15.0)
    add_study(tmp_path)
    return tmp_path


NAMES = {
    "psnr_against_cpu_time",
    "psnr_against_parameters",
    "validation_psnr_against_steps_mdrn_tiny",
    "validation_psnr_against_minutes_mdrn_tiny",
    "gain_against_level",
    "psnr_after_each_stage",
}


def test_what_the_tables_allow_is_drawn(out):
    drawn = figures.all_figures(summary.load(out))
    assert {figure.name for figure in drawn} == NAMES
    assert all(figure.png.startswith(b"\x89PNG") for figure in drawn)


def test_without_networks_nothing_is_drawn(tmp_path):
    add(tmp_path, "noisy", [20.0, 21.0])
    assert figures.all_figures(summary.load(tmp_path)) == []


def test_plain_needs_as_many_steps_as_its_own_line_says():
    """Plain gains 0.1 dB with each factor of 4; distilled is 0.05 dB over it at 5,000: half a factor, so twice."""
    ends = pd.DataFrame({"plain": [25.3, 25.4, 25.5], "hmds": [25.38, 25.45, 25.5]}, index=[1250, 5000, 20_000])
    steps, factor = figures.times_the_steps(ends)
    assert (steps, factor) == (5000, pytest.approx(2.0))
    ahead = ends.assign(hmds=ends.hmds + 1)
    assert figures.times_the_steps(ahead) is None  # no plain run gets there
    assert figures.times_the_steps(ends.assign(hmds=ends.plain - 0.1)) is None  # nothing to catch up with


def labels_of(monkeypatch) -> list[figures.Label]:
    seen: list[figures.Label] = []
    place = drawing.place
    monkeypatch.setattr(drawing, "place", lambda axes, labels: seen.extend(labels) or place(axes, labels))
    return seen


def test_ours_stand_out_among_published_networks(out, monkeypatch):
    seen = labels_of(monkeypatch)
    figures.against(summary.load(out), "ms_512", "name", "title")
    assert {label.text for label in seen if label.bold} == {"mdrn", "mdrn_tiny"}
    assert {label.text for label in seen if not label.bold} == {"DnCNN-S", "FFDNet"}  # of those, the times are known
    seen.clear()
    figures.against(summary.load(out), "parameters", "name", "title")
    ours = next(label for label in seen if label.text == "mdrn")
    assert (ours.x, ours.y) == pytest.approx((0.1, 29.1))
    assert {"IRCNN", "DRUNet"} <= {label.text for label in seen}


def test_the_cost_of_the_teacher_is_shown_apart(out, monkeypatch):
    seen = labels_of(monkeypatch)
    (figure,) = figures.cost(summary.load(out))
    ends = {label.text: label.x for label in seen}
    assert ends == pytest.approx({"plain": 40.0, "hmds": 40.0, "hmds and its teacher": 130.0})


def test_labels_cover_neither_points_nor_each_other():
    from benchmark.drawing import Label, open_axes, place

    points = [(0.50, 0.5), (0.52, 0.5), (0.50, 0.53), (0.9, 0.1)]
    with open_axes() as axes:
        axes.scatter(*zip(*points, strict=True), s=20)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        place(axes, [Label(x, y, f"point {n}") for n, (x, y) in enumerate(points)])
        boxes = [text.get_window_extent(axes.figure.canvas.get_renderer()) for text in axes.texts]
        dots = [axes.transData.transform(point) for point in points]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
