"""Figures of bytes: lengths, order and what does not fit."""

import pytest

from lora_edu.classroom import figures

ALT = "Bars of 3 and 4 MB."
ROWS = {
    "codes": ("4-bit", 3.0),
    "wide": ("bfloat16", 0.0),
    "x": ("bfloat16", 4.0),
    "tiny": ("bfloat16", 0.01),
}
FORMATS = ("4-bit", "bfloat16")
BARS = {"LoRA": {"weights": 14.0, "rest": 1.0}, "QLoRA": {"weights": 4.0, "rest": 1.5}}
LIMIT = ("15 GB GPU", 15.6)


def alive(rows=ROWS, alt=ALT, formats=FORMATS):
    return figures.tensors_alive(rows, formats=formats, largest=5.0, alt=alt)


def stack(bars=BARS, largest=20.0):
    return figures.stacked(bars, limit=LIMIT, largest=largest, alt=ALT)


def texts(picture):
    return [text.get_text() for text in picture.texts]


def test_a_row_without_a_tensor_keeps_its_place():
    picture = alive()
    assert [patch.get_width() for patch in picture.patches] == [3.0, 4.0, 0.01]
    assert [round(patch.get_y() + patch.get_height() / 2) for patch in picture.patches] == [0, 2, 3]
    assert [label.get_text() for label in picture.get_yticklabels()] == list(ROWS)
    assert texts(picture) == ["3.0", "4.0", "< 0.1"]
    emptier = alive({name: (kind, 0.0) for name, (kind, _) in ROWS.items()})
    assert (emptier.get_xlim(), emptier.get_ylim()) == (picture.get_xlim(), picture.get_ylim())


def test_the_colour_of_a_bar_is_that_of_its_format():
    picture = alive()
    legend = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(
            picture.get_legend().get_texts(), picture.get_legend().get_patches(), strict=True
        )
    }
    assert [patch.get_facecolor() for patch in picture.patches] == [
        legend[ROWS[name][0]] for name in ("codes", "x", "tiny")
    ]


def test_terms_stand_one_after_the_other():
    picture = stack()
    drawn = [(patch.get_x(), patch.get_width()) for patch in picture.patches]
    assert drawn == [(0, 14), (0, 4), (14, 1), (4, 1.5)]
    assert texts(picture) == ["15.00 GB", "5.50 GB", "15 GB GPU"]
    [line] = picture.get_lines()
    assert set(line.get_xdata()) == {15.6}


def test_a_bar_that_is_too_long_says_how_long():
    picture = stack(BARS | {"full": {"weights": 50.0, "rest": 8.0}})
    label = next(text for text in picture.texts if "→" in text.get_text())
    assert label.get_text() == "58.0 GB →" and label.get_position()[0] == 20
    assert picture.get_xlim()[1] < 50


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: alive(alt=""), "alt must say"),
        (
            lambda: alive(formats=("4-bit",)),
            r"formats must hold every row's format, .* without \['bfloat16'\]",
        ),
        (lambda: stack(BARS | {"full": {"weights": 1.0}}), "bars must all have the terms of the first"),
    ],
)
def test_an_impossible_picture_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
