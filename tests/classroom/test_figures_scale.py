"""Figures that are true to scale: sides and labels."""

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
    figures.to_quick_png(picture)
    assert picture.patches[0].get_window_extent().x1 < picture.get_legend().get_window_extent().x0


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.update_to_scale(4, 0, 1, alt=ALT), "in_features must be at least 1, got 0"),
        (lambda: figures.update_to_scale(4, 4, 0, alt=ALT), "r must be at least 1, got 0"),
    ],
)
def test_an_impossible_size_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
