"""Figures that are true to scale: sides, areas and labels."""

from itertools import pairwise

import pytest

from lora_edu.classroom import figures

ALT = "A large and a small shape."


@pytest.mark.parametrize(("out_features", "in_features", "r"), [(192, 576, 8), (50, 20, 20)])
def test_the_factors_stand_where_their_product_does(out_features, in_features, r):
    picture = figures.update_to_scale(out_features, in_features, r, alt=ALT)
    W, B, A = picture.patches
    sizes = [(patch.get_height(), patch.get_width()) for patch in (W, B, A)]
    assert sizes == [(out_features, in_features), (out_features, r), (r, in_features)]
    assert B.get_y() == W.get_y() and A.get_x() == W.get_x()  # the rows of B, the columns of A
    assert B.get_x() + r < W.get_x() and A.get_y() + r < W.get_y()
    assert picture.get_aspect() == 1
    texts = [text.get_text() for text in picture.get_legend().get_texts()]
    assert texts[1] == f"B, left: {out_features} × {r}\n{out_features * r:,} numbers"


def test_the_legend_stands_clear_of_the_largest_layer():
    picture = figures.update_to_scale(12_288, 12_288, 1, alt=ALT)
    figures.to_png(picture)
    assert picture.patches[0].get_window_extent().x1 < picture.get_legend().get_window_extent().x0


def test_areas_are_in_proportion():
    values = {"large": 400.0, "small": 1.0, "middle": 100.0}
    picture = figures.areas(values, number_format="{:.0f} MB", alt=ALT)
    drawn = [patch.get_width() * patch.get_height() for patch in picture.patches]
    assert [area / drawn[0] for area in drawn] == pytest.approx([1, 1 / 400, 1 / 4])
    assert [text.get_text() for text in picture.texts] == ["large\n400 MB", "small\n1 MB", "middle\n100 MB"]


def test_squares_and_labels_do_not_overlap():
    picture = figures.areas({"all linear layers": 1e9, "query and value": 1.0, "none": 1.0}, alt=ALT)
    figures.to_png(picture)
    boxes = [text.get_window_extent() for text in picture.texts]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    left, right = (picture.patches[i].get_window_extent() for i in (0, 1))
    assert left.x1 < right.x0


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.update_to_scale(4, 0, 1, alt=ALT), "in_features must be at least 1, got 0"),
        (lambda: figures.update_to_scale(4, 4, 0, alt=ALT), "r must be at least 1, got 0"),
        (lambda: figures.areas({}, alt=ALT), "values must be at least one"),
        (lambda: figures.areas({"a": 0}, alt=ALT), "each above 0, got {'a': 0}"),
    ],
)
def test_an_impossible_size_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
