"""Numbered levels: the arrow leads to the nearest one, what is shaded goes there, and no label meets another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyArrowPatch, Rectangle

from lora_edu.classroom import figures
from lora_edu.classroom.figures.numbered import AXIS, LENS
from lora_edu.methods.codebook import nf4_code, symmetric_int_code, uniform_code

CODES = [uniform_code(bits) for bits in (2, 3, 4, 5, 6)] + [symmetric_int_code(4), nf4_code()]


def drawn(code, value):
    picture = figures.numbered_levels(code, value)
    figures.to_quick_png(picture)
    return picture


def value_at(x):
    """The number that stands at a place of the upper axis, for codes from -1 to 1."""
    return 2 * (x - AXIS.x) / AXIS.width - 1


@settings(max_examples=10, deadline=None)
@given(code=st.sampled_from(CODES), thousandths=st.integers(-1000, 1000))
def test_the_arrow_leads_from_the_number_to_the_nearest_level(code, thousandths):
    value = thousandths / 1000
    picture = drawn(code, value)
    upper, _ = (patch for patch in picture.patches if isinstance(patch, FancyArrowPatch))
    (start, _), (end, _) = upper._posA_posB
    assert value_at(start) == pytest.approx(value, abs=1e-6)
    distances = np.abs(code.numpy() - value)
    assert abs(value_at(end) - value) == pytest.approx(distances.min(), abs=1e-6)
    assert figures.collisions(picture) == []


@pytest.mark.parametrize("value", [-1.0, -0.96, 0.23456, 1.0])
def test_what_is_shaded_goes_to_the_chosen_level_and_nothing_else(value):
    code = uniform_code(4).numpy()
    picture = drawn(code, value)
    shaded = next(
        patch
        for patch in picture.patches
        if isinstance(patch, Rectangle) and (patch.get_y(), patch.get_height()) == (AXIS.y, AXIS.height)
    )
    ends = value_at(shaded.get_x()), value_at(shaded.get_x() + shaded.get_width())
    inside = np.linspace(*ends, 50)[1:-1]
    nearest = np.abs(inside[:, None] - code).argmin(1)
    assert set(nearest) == {np.abs(value - code).argmin()}
    for beyond in (ends[0] - 0.01, ends[1] + 0.01):
        assert not -1 <= beyond <= 1 or np.abs(beyond - code).argmin() != nearest[0]


def test_sixteen_levels_carry_their_numbers_and_more_carry_some():
    numbers = {text.get_text() for text in drawn(uniform_code(4), 0.23456).texts}
    assert {str(index) for index in range(16)} < numbers and {"8: 0.0667", "9: 0.2", "10: 0.333"} < numbers
    some = {text.get_text() for text in drawn(uniform_code(6), 0.23456).texts}
    assert "39" in some and "38" not in some and LENS.y < AXIS.y


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ([0.0], 0, "code must be ascending numbers"),
        ([0, 1, 1], 0, "code must be ascending numbers"),
        ([-1, 1], 1.5, "value must lie in -1 … 1, got 1.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(code, value, message):
    with pytest.raises(ValueError, match=message):
        figures.numbered_levels(code, value)
