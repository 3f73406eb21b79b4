"""A point lies under the roof, as far below it as its code is slower than the chip allows."""

import pytest

from lora_edu.classroom import figures

ALT = "Two kernels below a roof."
CHIP = {"bandwidth": 4e12, "peak": 6e13}


def test_the_roof_and_the_points_stand_where_the_numbers_say():
    points = {"copy": (1e9, 4e9, 2e-3), "sums": (6e12, 4e9, 0.2)}  # half of either roof
    picture = figures.roofline(points, **CHIP, alt=ALT)
    roof, *drawn = picture.lines
    x, y = roof.get_xdata(), roof.get_ydata()
    assert x[1] == pytest.approx(15) and y[1] == pytest.approx(6e13)
    assert y[0] / x[0] == pytest.approx(4e12) and y[2] == pytest.approx(6e13)
    for line, (operations, moved, seconds) in zip(drawn, points.values(), strict=True):
        assert line.get_xdata() == pytest.approx([operations / moved])
        assert line.get_ydata() == pytest.approx([operations / seconds])
        allowed = min(6e13, 4e12 * operations / moved)
        assert line.get_ydata()[0] / allowed == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("points", "chip", "message"),
    [
        ({}, CHIP, "points must be at least one"),
        ({"a": (1, 1, 0)}, CHIP, "a must be above 0"),
        ({"a": (1, 1, 1)}, CHIP | {"peak": 0}, "peak must be above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(points, chip, message):
    with pytest.raises(ValueError, match=message):
        figures.roofline(points, **chip, alt=ALT)
