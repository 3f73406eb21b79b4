"""docs/pictures.md shows what the figures draw now."""

import io

import numpy as np
import pytest
from PIL import Image

from lora_edu.classroom import figures
from tools import draw_pictures

CHEAP = ("one_base", "lines")  # the others are drawn, and looked at for collisions, in the figures' own tests


def test_the_page_shows_every_picture_with_its_sentence():
    sentences = {name: draw().alt for name, draw in draw_pictures.DRAWN.items()}
    page = draw_pictures.PAGE.read_text("utf-8")
    assert draw_pictures.page_with(page, sentences) == page, "run .venv/bin/python -m tools.draw_pictures"
    stored = {path.stem for path in (draw_pictures.PAGE.parent / "pictures").glob("*.png")}
    assert stored == set(draw_pictures.DRAWN)


@pytest.mark.parametrize("name", CHEAP)
def test_stored_pictures_are_up_to_date(name):
    stored = np.asarray(
        Image.open(draw_pictures.PAGE.parent / "pictures" / f"{name}.png").convert("RGBA"), int
    )
    drawn = np.asarray(
        Image.open(io.BytesIO(figures.to_png(draw_pictures.DRAWN[name]()))).convert("RGBA"), int
    )
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 0.5, "run .venv/bin/python -m tools.draw_pictures"
