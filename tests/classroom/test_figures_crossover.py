"""The figure of two ways whose costs cross."""

import pytest

from lora_edu.classroom import figures

SERIES = {"grows": [1, 10, 100], "stays": [10, 10, 10]}


def test_the_mark_stands_where_the_lines_cross():
    picture = figures.crossover(SERIES, x=[1, 10, 100], at=10, alt="They cross at 10.")
    grows, stays, mark = picture.lines
    assert list(grows.get_ydata()) == [1, 10, 100] and list(stays.get_ydata()) == [10, 10, 10]
    assert set(mark.get_xdata()) == {10}


def test_equal_ratios_are_equal_distances_on_both_axes():
    picture = figures.crossover(SERIES, x=[1, 10, 100], at=10, alt="They cross at 10.")
    x, y = picture.transData.transform([(1, 1), (10, 10), (100, 100)]).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert y[1] - y[0] == pytest.approx(y[2] - y[1])


def test_the_y_axis_stands_still_between_limits():
    picture = figures.crossover(SERIES, x=[1, 10, 100], at=10, limits=(0.1, 1e6), alt="They cross at 10.")
    assert picture.get_ylim() == (0.1, 1e6)


@pytest.mark.parametrize("at", [0, -1, float("nan")])
def test_a_mark_off_the_axis_is_refused(at):
    with pytest.raises(ValueError, match="at must be above 0"):
        figures.crossover(SERIES, x=[1, 10, 100], at=at, alt="They cross.")
