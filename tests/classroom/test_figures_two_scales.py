"""Bars on two scales: parts in order, what is cut says so, and the axes stand still."""

import pytest

from lora_edu.classroom import figures

BARS = {"full": {"weights": 20.0, "rest": 30.0}, "LoRA": {"weights": 10.0, "rest": 2.0}}
OPTIONS = {"tops": (60.0, 16.0), "limits": {"T4": 14.5, "80 GB": 40.0}, "roles": {"weights": "frozen"}}


def drawn(bars=BARS, pictures=None, **options):
    pictures = pictures or figures.new_pictures(2)
    figures.two_scales(
        *pictures, bars, **OPTIONS | {"title": "A finding", "enlarged_title": "Enlarged"} | options
    )
    figures.to_png(pictures[0])
    return pictures


def parts_of(picture):
    return [(patch.get_x(), patch.get_width()) for patch in picture.patches]


def texts(picture):
    return [text.get_text() for text in picture.texts]


def test_a_bar_that_is_too_long_ends_with_the_axis_and_says_how_long():
    whole, enlarged = drawn()
    assert parts_of(whole) == [(0, 20), (20, 30), (0, 10), (10, 2)]
    assert parts_of(enlarged) == [(0, 16), (0, 10), (10, 2)]
    assert texts(whole) == ["80 GB", "50 GiB", "12 GiB"] and texts(enlarged) == ["T4", "50 GiB →", "12 GiB"]


def test_both_axes_stand_still_and_nothing_collides():
    pictures = drawn()
    before = [picture.get_xlim() for picture in pictures]
    smaller = {name: {part: size / 100 for part, size in parts.items()} for name, parts in BARS.items()}
    for bars in (smaller, {name: {part: 1.2 * size for part, size in BARS[name].items()} for name in BARS}):
        assert [picture.get_xlim() for picture in drawn(bars, pictures)] == before
        assert figures.collisions(pictures[0]) == [] and not figures.is_cut_off(pictures[0])


def test_redrawing_gives_the_picture_that_drawing_gives():
    used = drawn({"other": {"a": 1.0, "b": 2.0, "c": 3.0}}, roles=None)
    assert figures.to_png(drawn(pictures=used)[0]) == figures.to_png(drawn()[0])


def test_the_sentence_says_what_each_bar_sums_to_and_where_it_fits():
    told = drawn()[0].alt
    assert told.startswith("A finding. Enlarged. full: 50 GiB, most of it rest and weights; fits none.")
    assert "LoRA: 12 GiB, most of it weights and rest; fits T4 and 80 GB." in told
    assert drawn(alt="Told otherwise.")[0].alt == "Told otherwise."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bars": BARS | {"QLoRA": {"weights": 1.0}}}, "bars must all have the parts of the first"),
        ({"tops": (16.0, 60.0)}, "tops must be a whole and a smaller part"),
        ({"roles": {"weights": "cold"}}, "roles must map"),
        ({"alt": " "}, "alt must say"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(**options)
