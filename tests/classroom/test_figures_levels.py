"""Figures of levels: where the cuts and strokes stand."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from lora_edu.classroom import figures

ALT = "Lines that stand where they should."


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_slices_have_equal_areas(parts):
    picture = figures.equal_shares(parts, alt=ALT)
    cuts = [segment[0, 0] for segment in picture.collections[-1].get_segments()]
    assert len(cuts) == parts - 1
    shares = [NormalDist().cdf(cut) for cut in cuts]
    assert shares == pytest.approx([i / parts for i in range(1, parts)])
    for low, high in pairwise(cuts):  # what is drawn, not what is meant: the trapezoids of each slice
        edges = [path.vertices for c in picture.collections[:-1] for path in c.get_paths()]
        [slice_] = [v for v in edges if np.isclose(v[:, 0].min(), low) and np.isclose(v[:, 0].max(), high)]
        top = slice_[slice_[:, 1] > 0]
        x, order = np.unique(top[:, 0], return_index=True)
        assert np.trapezoid(top[order, 1], x) == pytest.approx(1 / parts, rel=1e-3)


def test_errors_stand_over_their_own_bits():
    picture = figures.error_by_bits({"a": ([4, 5], [0.2, 0.1]), "b": ([4.5], [0.3])}, alt=ALT)
    assert [line.get_xydata().tolist() for line in picture.lines] == [[[4, 0.2], [5, 0.1]], [[4.5, 0.3]]]
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in picture.lines}) == 2


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.equal_shares(1, alt=ALT), "parts must be at least 2, got 1"),
        (lambda: figures.error_by_bits({"a": ([4], [0.1, 0.2])}, alt=ALT), r"got \(1,\) and \(2,\)"),
        (lambda: figures.error_by_bits({"a": (4, 0.1)}, alt=ALT), "a must be two arrays of one shape"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
