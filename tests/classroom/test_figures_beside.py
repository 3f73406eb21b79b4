"""Panels side by side."""

import pytest

from lora_edu.classroom import figures


def draw(ax, top):
    figures.lines({"a": [1, top], "b": [2, 1]}, title=f"Up to {top}", ax=ax)


def test_each_value_gets_a_panel_and_the_text_tells_all():
    picture = figures.beside(draw, top=[3, 4, 5])
    figures.to_quick_png(picture)
    panels = picture.canvas.figure.axes
    assert [panel.title.get_text() for panel in panels] == ["Up to 3", "Up to 4", "Up to 5"]
    assert figures.collisions(picture) == []
    assert [picture.alt.count(f"a: 1 at 1, {top} at 2") for top in (3, 4, 5)] == [1, 1, 1]


@pytest.mark.parametrize("values", [{}, {"top": []}, {"top": [3], "other": [4]}])
def test_there_is_one_setting_with_values(values):
    with pytest.raises(ValueError, match="values must be one setting"):
        figures.beside(draw, **values)
