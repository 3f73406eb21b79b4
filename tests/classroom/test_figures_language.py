"""Figures of what a language model says."""

import pytest

from lora_edu.classroom import figures

ALT = "Two tokens and their probabilities."


def test_the_right_token_is_marked():
    picture = figures.next_token({"' a'": 0.6, "'$x$'": 0.25}, right="'$x$'", alt=ALT)
    figures.to_quick_png(picture)
    assert [name.get_text() for name in picture.get_yticklabels()] == ["' a'", "'$x$' (right)"]
    assert [text.get_text() for text in picture.texts] == ["60.0%", "25.0%"]
    other, right = picture.patches
    assert other.get_facecolor() != right.get_facecolor() and other.get_hatch() != right.get_hatch()


def test_the_first_token_is_on_top_and_a_certain_one_fits():
    picture = figures.next_token({"first": 1.0, "second": 0.0}, right="first", alt=ALT)
    figures.to_quick_png(picture)
    boxes = [text.get_window_extent() for text in picture.texts]
    assert boxes[0].y0 > boxes[1].y1
    assert boxes[0].x1 <= picture.canvas.figure.bbox.x1  # not cut off


def test_the_right_token_must_be_shown():
    with pytest.raises(ValueError, match=r"right must be one of the tokens \['a'\], got 'b'"):
        figures.next_token({"a": 1.0}, right="b", alt=ALT)
