"""A matrix beside its copy: three views on one scale, and an error that leaves a planted outlier out."""

import numpy as np
import pytest

from lora_edu.classroom import figures

ORIGINAL = np.array([[0.6, 0.0, 0.8], [50.0, 0.0, 0.0]])


def test_the_three_views_are_the_two_and_their_difference():
    copy = ORIGINAL + [[0.1, 0, 0], [0, 0, -0.2]]
    picture = figures.original_and_copy(ORIGINAL, copy, limits=(-1, 1))
    figures.to_quick_png(picture)
    before, after, lost = (np.asarray(view.get_array()) for view in picture.images)
    np.testing.assert_array_equal(before, ORIGINAL)
    np.testing.assert_array_equal(after, copy)
    np.testing.assert_allclose(lost, copy - ORIGINAL)
    assert [view.get_clim() for view in picture.images] == [(-1, 1)] * 3
    assert figures.collisions(picture) == []


def test_an_outlier_beyond_the_limits_counts_neither_as_error_nor_as_size():
    whole = figures.original_and_copy(ORIGINAL, np.where(ORIGINAL > 1, 0, ORIGINAL), limits=(-1, 1))
    assert "error of 0.0%" in whole.alt
    lost = figures.original_and_copy(ORIGINAL, np.where(ORIGINAL > 1, ORIGINAL, 0), limits=(-1, 1))
    assert "error of 100.0%" in lost.alt and "5 of 6 numbers are read back as 0" in lost.alt


@pytest.mark.parametrize(
    ("original", "copy", "limits", "message"),
    [
        ([[1, 2]], [[1], [2]], (0, 1), "copy must have the shape of original"),
        ([1, 2], [1, 2], (0, 1), r"original must have shape \(rows, columns\)"),
        ([[0, 9]], [[0, 9]], (0, 1), "limits must hold numbers of original that are not 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(original, copy, limits, message):
    with pytest.raises(ValueError, match=message):
        figures.original_and_copy(original, copy, limits=limits)
