"""Figures of bytes: lengths, order, moments and what does not fit."""

import pytest
from matplotlib.colors import to_rgba

from lora_edu.classroom import figures

ALT = "Bars of 3 and 4 MB."
BARS = {"LoRA": {"weights": 14.0, "rest": 1.0}, "QLoRA": {"weights": 4.0, "rest": 1.5}}
LIMIT = ("15 GB GPU", 15.6)


def stack(bars=BARS, largest=20.0):
    return figures.stacked(bars, limit=LIMIT, largest=largest, alt=ALT)


def texts(picture):
    return [text.get_text() for text in picture.texts]


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


def test_bars_of_other_terms_are_named():
    with pytest.raises(ValueError, match="bars must all have the terms of the first"):
        stack(BARS | {"full": {"weights": 1.0}})


# ---------------------------------------------------------------- memory_at_peak

PARTS = {"W": "frozen", "averages": "optimizer", "logits": ""}
PEAKS = {
    "LoRA": {"W": 14.0, "averages": 1.0, "logits": 0.5},
    "QLoRA": {"W": 4.0, "averages": 1.0, "logits": 0.5},
}


def peak(**options):
    return figures.memory_at_peak(PEAKS, roles=PARTS, **options)


def test_a_measured_sum_stands_beside_its_prediction_and_what_did_not_fit_says_so():
    picture = peak(measured={"LoRA": None, "QLoRA": 5.6}, limit=("T4", 14.56))
    assert {"15.50, out of memory", "5.50, measured 5.60", "T4"} <= set(texts(picture))
    diamonds = [line.get_xdata()[0] for line in picture.get_lines() if line.get_marker() == "D"]
    assert diamonds == [5.6]
    assert "together 15.50, which was out of memory" in picture.alt and "measured 5.60" in picture.alt
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == [] and not figures.is_cut_off(picture)


@pytest.mark.parametrize(("room", "beside"), [(15.6, True), (15.8, True), (18.4, False)])
def test_a_sum_stands_beside_the_line_of_the_limit_where_it_has_room(room, beside):
    picture = peak(limit=("GPU", room), largest=16)
    figures.to_quick_png(picture)
    line = picture.transData.transform((room, 0))[0]
    [total] = [text.get_window_extent() for text in picture.texts if text.get_text() == "15.50 GiB"]
    assert (line + 3 < total.x0) == beside
    assert figures.collisions(picture) == [] and not figures.is_cut_off(picture)


def test_an_axis_of_its_own_stands_still():
    assert peak(largest=40.0).get_xlim() == (0, pytest.approx(1.22 * 40))
    with pytest.raises(ValueError, match=r"largest must be at least the longest bar, 15.5, got 10"):
        peak(largest=10.0)


def test_every_bar_is_measured_or_none():
    with pytest.raises(ValueError, match=r"measured must have the bars \['LoRA', 'QLoRA'\]"):
        peak(measured={"LoRA": 3.0})


# ---------------------------------------------------------------- held_over_time

MOMENTS = {"at rest": {"W": 8.0, "averages": 1.0}, "forward": {"W": 40.0, "averages": 1.0}}
HELD = {"W": "frozen", "averages": "optimizer"}


def over_time(**options):
    return figures.held_over_time(MOMENTS, roles=HELD, **{"now": 1} | options)


def test_only_the_moment_that_is_now_has_the_full_colour():
    for now in (0, 1):
        picture = over_time(now=now, top=60)
        full = [
            patch for patch in picture.patches if patch.get_facecolor() == to_rgba(figures.ROLES["frozen"])
        ]
        assert [round(patch.get_x() + patch.get_width() / 2) for patch in full] == [now]
        assert picture.get_ylim() == (0, 60)
        tall = [patch.get_height() for patch in picture.patches]
        assert tall == [8, 1, 40, 1]


def test_its_sentence_tells_now_and_all_the_others():
    assert over_time().alt == (
        "Now, forward: 41 MiB, of W 40 and averages 1. Over time, in MiB: 9 at rest and 41 forward."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"now": 2}, r"now must be in 0 … 1, got 2"),
        ({"roles": {"W": "frozen"}}, "every moment must have the parts"),
        ({"alt": ""}, "alt must say"),
    ],
)
def test_an_impossible_moment_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        figures.held_over_time(MOMENTS, **{"now": 1, "roles": HELD} | options)
