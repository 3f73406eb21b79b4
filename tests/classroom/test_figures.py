"""Figures: the numbers that they draw, the texts that they carry, the one house style."""

import base64
import inspect

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output

from lora_edu.classroom import figures

ALT = "Two lines fall."
FIGURES = {
    "areas": lambda **options: figures.areas({"a": 9, "b": 1}, **options),
    "share_by_rank": lambda **options: figures.share_by_rank({"a": [0.5, 1]}, ranks=[1, 8], **options),
    "update_to_scale": lambda **options: figures.update_to_scale(30, 40, 2, **options),
    "lines": lambda **options: figures.lines({"a": [3, 1], "b": [2, 1]}, **options),
    "loss_curve": lambda **options: figures.loss_curve({"QLoRA": [3, 1]}, **options),
    "bars": lambda **options: figures.bars({"a": [1, 2], "b": [2, 3]}, groups=["x", "y"], **options),
    "before_after": lambda **options: figures.before_after(
        [0, 0.1], [0.8, 0.9], groups=["x", "y"], **options
    ),
    "bit_fields": lambda **options: figures.bit_fields(
        {"a": ({"sign": "1", "rest": "010"}, "-2")}, **options
    ),
    "crossover": lambda **options: figures.crossover({"a": [1, 9], "b": [4, 4]}, x=[1, 9], at=4, **options),
    "energy_by_rank": lambda **options: figures.energy_by_rank({"a": [0.5, 1]}, rank=1, **options),
    "equal_shares": lambda **options: figures.equal_shares(4, **options),
    "error_budget": lambda **options: figures.error_budget(
        {"a": ([4, 5], [0.2, 0.1]), "b": ([4.5, 6], [0.3, 0.1])}, chosen=(5, 0.1), **options
    ),
    "error_by_bits": lambda **options: figures.error_by_bits(
        {"a": ([4, 5], [0.2, 0.1]), "b": ([4.5, 6], [0.3, 0.1])}, **options
    ),
    "image": lambda **options: figures.image([[0, 0.5], [0.2, 1]], **options),
    "next_token": lambda **options: figures.next_token({"a": 0.7, "b": 0.2}, right="b", **options),
    "number_lines": lambda **options: figures.number_lines({"a": [-1, 0, 1], "b": [0.5]}, **options),
    "product": lambda **options: figures.product([[1], [2]], [[3, 4, -1]], **options),
    "rank_error": lambda **options: figures.rank_error({"a": [1, 0.5, 0]}, rank=1, **options),
    "roofline": lambda **options: figures.roofline(
        {"a": (1e9, 2e9, 0.1)}, bandwidth=1e12, peak=1e13, **options
    ),
    "running_time": lambda **options: figures.running_time({"a": [1, 8]}, sizes=[2, 4], **options),
    "stacked": lambda **options: figures.stacked({"a": {"b": 1}}, limit=("full", 2), largest=3, **options),
    "tensors_alive": lambda **options: figures.tensors_alive(
        {"a": ("fp32", 1)}, formats=("fp32",), largest=3, **options
    ),
}


def test_every_figure_is_tried_here():
    functions = inspect.getmembers(figures, inspect.isfunction)
    verbs = {name for name, f in functions if inspect.signature(f).return_annotation == "Picture"}
    assert verbs == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_alt_text_is_required(name):
    alt = inspect.signature(getattr(figures, name)).parameters["alt"]
    assert alt.kind is alt.KEYWORD_ONLY and alt.default is alt.empty
    for empty in ("", "  ", None):
        with pytest.raises(ValueError, match="alt must say"):
            FIGURES[name](alt=empty)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_a_png_and_its_text(name):
    InteractiveShell.instance()
    with capture_output() as captured:
        display(FIGURES[name](alt="a < b"))
    picture, text = captured.outputs
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert picture.metadata["image/png"]["alt"] == "a < b"
    assert text.data == {"text/html": "<p>a &lt; b</p>", "text/plain": "a < b"}


@pytest.mark.parametrize("name", FIGURES)
def test_redrawing_gives_the_picture_that_drawing_gives(name):
    [used] = figures.new_pictures()
    figures.lines({"old": [5, 4, 3]}, ax=used, alt=ALT, log_y=True)
    figures.to_png(used)
    redrawn = FIGURES[name](ax=used, alt=ALT)
    assert redrawn is used
    assert figures.to_png(redrawn) == figures.to_png(FIGURES[name](alt=ALT))


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_legible_on_a_projector(name):
    picture = FIGURES[name](alt=ALT, title="Title")
    figures.to_png(picture)
    texts = [picture.title, *picture.texts]
    if picture.axison:
        texts += [picture.xaxis.label, *picture.get_xticklabels()]
        texts += [picture.yaxis.label, *picture.get_yticklabels()]
    assert min(text.get_fontsize() for text in texts) >= 13


def test_series_differ_without_colour():
    names = "abcdefg"
    picture = figures.lines({name: [1, 2] for name in names}, alt=ALT)
    assert len({line.get_marker() for line in picture.lines}) == len(names)
    bars = figures.bars({name: [1, 2] for name in names}, groups=["x", "y"], alt=ALT)
    assert len({container.patches[0].get_hatch() for container in bars.containers[: len(names)]}) > 1
    assert len({c.patches[0].get_hatch() for c in bars.containers if hasattr(c, "patches")}) == len(names)


def test_repeats_become_median_and_range():
    repeats = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 10.0]])
    picture = figures.lines({"three seeds": repeats, "one": [0.0, 0.0]}, alt=ALT)
    np.testing.assert_array_equal(picture.lines[0].get_ydata(), [2, 6])
    [band] = picture.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 10)


def test_bars_that_a_slider_moves_can_keep_one_axis():
    axes = [figures.bars({"a": [x, 0]}, groups=["x", "y"], top=1.15, alt=ALT).get_ylim() for x in (0.2, 1)]
    assert axes == [(0, 1.15)] * 2


def test_before_after_states_percentages():
    picture = figures.before_after(
        [[0.0, 0.0]] * 3, [[0.8, 0.5], [0.9, 0.6], [0.7, 0.7]], groups=["x", "y"], alt=ALT
    )
    assert [text.get_text() for text in picture.texts] == ["0%", "0%", "80%", "60%"]
    assert [tick.get_text() for tick in picture.get_xticklabels()] == ["x", "y"]


def test_an_image_cuts_off_beyond_its_limits():
    picture = figures.image([[-9, 0], [2, 9]], limits=(-1, 3), alt=ALT)
    assert picture.images[0].get_clim() == (-1, 3)
    np.testing.assert_array_equal(picture.images[0].get_array(), [[-9, 0], [2, 9]])


def test_a_product_stands_in_the_rows_and_columns_it_is_made_of():
    picture = figures.product([[1, 2], [0, -1], [3, 0]], [[1, 5], [2, 0]], names=("P", "Q"), alt=ALT)
    at = {text.get_position(): text.get_text() for text in picture.texts}
    # P begins at (0, 3.5), Q at (3.5, 0) and the result at (3.5, 3.5); texts are in the middle of a cell.
    assert (at[0.5, 4.0], at[1.5, 4.0], at[0.5, 6.0]) == ("1", "2", "3")
    assert (at[4.0, 0.5], at[5.0, 0.5], at[4.0, 1.5]) == ("1", "5", "2")
    assert [[at[4.0 + j, 4.0 + i] for j in range(2)] for i in range(3)] == [
        ["5", "5"],
        ["-2", "0"],
        ["3", "15"],
    ]
    assert {"P: 3 × 2", "Q: 2 × 2", "PQ: 3 × 2"} < set(at.values())


def test_an_error_curve_begins_at_rank_0_and_marks_a_rank():
    picture = figures.rank_error({"a": [1, 0.5, 0.1], "b": [1, 0.9, 0.8]}, rank=2, alt=ALT)
    first, _, mark = picture.lines
    assert list(first.get_xdata()) == [0, 1, 2] and set(mark.get_xdata()) == {2}
    assert len(figures.rank_error({"a": [1, 0.5]}, alt=ALT).lines) == 1


def test_a_power_law_of_running_time_is_straight():
    sizes = np.array([512, 1024, 2048])
    picture = figures.running_time({"cubic": sizes**3 / 1e9}, sizes=sizes, alt=ALT)
    points = picture.transData.transform(np.column_stack(picture.lines[0].get_data()))
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert slopes[0] == pytest.approx(slopes[1])
    assert [tick.get_text() for tick in picture.get_xticklabels()] == ["512", "1024", "2048"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.lines({"a": [1, 2]}, x=[1, 2, 3], alt=ALT), r"a must have shape \(3,\).*got \(2,\)"),
        (lambda: figures.lines({"a": []}, alt=ALT), r"a must have shape \(n,\)"),
        (lambda: figures.lines({"a": np.zeros((2, 2, 2))}, alt=ALT), r"got \(2, 2, 2\)"),
        (lambda: figures.bars({"a": [1]}, groups=["x", "y"], alt=ALT), r"a must have shape \(2,\)"),
        (lambda: figures.image([1, 2], alt=ALT), r"values must have shape \(rows, columns\), got \(2,\)"),
        (lambda: figures.image(np.zeros((0, 3)), alt=ALT), r"values must have shape .*got \(0, 3\)"),
        (lambda: figures.product([[1, 2]], [[1, 2]], alt=ALT), r"must chain.*got \(1, 2\) and \(1, 2\)"),
        (lambda: figures.product([1], [[1]], alt=ALT), r"left must have shape"),
        (lambda: figures.rank_error({"a": [1, 0]}, rank=2, alt=ALT), r"rank must be in 0 … 1, got 2"),
        (lambda: figures.rank_error({"a": [1, 0], "b": [1]}, alt=ALT), r"b must have shape \(2,\)"),
        (lambda: figures.running_time({"a": [1]}, sizes=[2, 4], alt=ALT), r"a must have shape \(2,\)"),
    ],
)
def test_a_wrong_shape_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
