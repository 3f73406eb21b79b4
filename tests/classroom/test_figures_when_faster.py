"""Speed over tokens, and the roof: lines stand where the numbers say, and cited speeds are named apart."""

import numpy as np
import pytest

from lora_edu.classroom import figures

TOKENS = (1, 8, 64)
SPEEDS = {"fused": [3.0, 2.0, 0.5], "unpacked": [0.1, 0.1, 0.2]}
CHIP = {"tokens": TOKENS, "bandwidth": 4e12, "peak": 4e14}


def work(stored, share):
    """A 1000 x 1000 layer at a share of what the chip allows."""
    triples = []
    for count in TOKENS:
        operations, moved = 2e6 * count, stored + 4e3 * count
        triples.append((operations, moved, operations / min(4e14, 4e12 * operations / moved) / share))
    return triples


def test_lines_stand_where_the_numbers_say_and_1_is_marked():
    picture = figures.speed_by_tokens(SPEEDS, tokens=TOKENS)
    level, *lines = picture.lines
    assert set(level.get_ydata()) == {1} and picture.get_xscale() == picture.get_yscale() == "log"
    for line, values in zip(lines, SPEEDS.values(), strict=True):
        assert list(line.get_xdata()) == list(TOKENS) and list(line.get_ydata()) == values


def test_what_others_report_stands_at_one_token_named_apart():
    cited = {"T4": 2.2, "A100": 3.4, "H100": 4.0, "A100, 0.41": 1.5}
    picture = figures.speed_by_tokens(SPEEDS, tokens=TOKENS, cited=cited, ylim=(0.05, 6))
    figures.to_quick_png(picture)
    marks = [line for line in picture.lines if len(line.get_xdata()) == 1]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(1, x) for x in cited.values()]
    assert figures.collisions(picture) == []


def test_a_slider_moves_lines_and_not_the_axis():
    [used] = figures.new_pictures()
    for factor in (1, 3):
        speeds = {name: np.multiply(values, factor) for name, values in SPEEDS.items()}
        figures.speed_by_tokens(speeds, tokens=TOKENS, ylim=(0.01, 20), ax=used)
        assert used.get_ylim() == (0.01, 20)


def test_a_way_at_the_roof_reaches_all_of_it_and_4_bits_stand_further_right():
    picture = figures.roof_by_tokens({"bf16": work(2e6, 1.0), "NF4": work(5e5, 0.5)}, **CHIP)
    figures.to_quick_png(picture)
    roof, bf16, nf4 = picture.lines
    bend = roof.get_xdata()[1]
    assert bend == pytest.approx(100) and roof.get_ydata()[1] == pytest.approx(4e14)
    for line, share in ((bf16, 1.0), (nf4, 0.5)):
        allowed = np.minimum(4e14, 4e12 * line.get_xdata())
        np.testing.assert_allclose(line.get_ydata() / allowed, share)
    assert nf4.get_xdata()[0] == pytest.approx(4 * bf16.get_xdata()[0], rel=0.02)
    assert "bf16: 100% of what it allows at 1 token" in picture.alt and figures.collisions(picture) == []


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.speed_by_tokens({"a": [1, 2]}, tokens=TOKENS), "a must be 3 speeds above 0"),
        (lambda: figures.speed_by_tokens({"a": [1, 2, 0]}, tokens=TOKENS), "a must be 3 speeds above 0"),
        (
            lambda: figures.speed_by_tokens({"a": [1, 2]}, tokens=[8, 1]),
            r"that ascend, the first 1 or more, got \[8, 1\]",
        ),
        (
            lambda: figures.speed_by_tokens({"a": [1, 2]}, tokens=[8, 64], cited={"T4": 2}),
            r"tokens must begin with 1 where speeds at one token are cited, got \[8, 64\]",
        ),
        (lambda: figures.roof_by_tokens({"a": work(1, 1)}, **CHIP), "ways must be at least two"),
        (lambda: figures.roof_by_tokens({"a": work(1, 1), "b": [(1, 1, 1)]}, **CHIP), "b must be 3 triples"),
        (
            lambda: figures.roof_by_tokens({"a": work(1, 1), "b": [(1, 1, 0)] * 3}, **CHIP),
            "b must be above 0",
        ),
        (
            lambda: figures.roof_by_tokens({"a": work(1, 1), "b": work(1, 1)}, **CHIP | {"peak": 0}),
            "peak must be above 0",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
