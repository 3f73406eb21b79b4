"""The break-even curve and lines over two logarithmic axes."""

import pytest

from lora_edu.classroom import figures


def test_the_curve_meets_what_the_counts_of_a_layer_say():
    layers = {"v": (192, 576), "embedding": (49_152, 576)}
    picture = figures.break_even(layers)
    places = [tuple(points.get_offsets()[0]) for points in picture.collections]
    for (out, into), (ratio, share) in zip(layers.values(), places, strict=True):
        rank = share * min(out, into)
        assert ratio == pytest.approx(max(out, into) / min(out, into))
        assert rank * (out + into) == pytest.approx(out * into)


def test_equal_ratios_are_equal_distances():
    picture = figures.log_log({"a": [1, 10, 100], "b": [5, 5, 5]}, x=[1, 10, 100])
    x, y = picture.transData.transform([(1, 1), (10, 10), (100, 100)]).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1]) and y[1] - y[0] == pytest.approx(y[2] - y[1])
    figures.to_quick_png(picture)
    assert "100" in [tick.get_text() for tick in picture.get_xticklabels()]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.break_even({"none": (0, 5)}), "sides of at least 1"),
        (lambda: figures.break_even({"long": (500, 4)}), "up to 100 times"),
        (lambda: figures.log_log({"a": [0, 1]}, x=[1, 2]), "must be above 0"),
        (lambda: figures.log_log({"a": [1, 2]}, x=[0, 2]), "must be above 0"),
    ],
)
def test_what_has_no_place_on_the_axes_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
