"""The figures of notebook 02: what they compute, where their lines stand, what they refuse."""

import numpy as np
import pytest
import torch

from lora_edu.classroom import figures

E, X = [[1, -1, 2], [0, 2, 1]], [[2, 0, 1, 3], [1, -1, 2, 0]]


def test_the_sum_of_tables_is_autograd_s_gradient():
    W = torch.randn(3, 4, requires_grad=True)
    ((torch.tensor(X, dtype=torch.float) @ W.T) * torch.tensor(E)).sum().backward()
    drawn = [text.get_text().replace("–", "-") for text in figures.column_times_row(E, X).texts]
    start = max(place for place, text in enumerate(drawn) if text == "=") + 1
    assert [float(text) for text in drawn[start : start + 12]] == W.grad.flatten().tolist()


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 2, 3), (2, 5, 2)])
def test_no_number_of_examples_collides(shape):
    batch, out, into = shape
    rng = np.random.default_rng(0)
    picture = figures.column_times_row(rng.integers(-9, 9, (batch, out)), rng.integers(-9, 9, (batch, into)))
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []


def test_a_doubling_of_the_rank_takes_the_same_room_in_every_panel():
    lines = {"a": ([1, 4, 16], [0.1, 0.2, 0.3]), "b": (None, [[0.5], [0.7], [0.6]])}
    picture = figures.rank_panels({"one": lines, "two": lines})
    first, level, second, _ = picture.lines
    for line in (first, second):
        assert np.diff(line.get_xdata()).tolist() == [2, 2]
    assert first.get_xdata()[-1] < second.get_xdata()[0]
    assert level.get_ydata().tolist() == [0.6, 0.6] and "b 60%" in picture.alt


def test_a_change_lands_on_the_nearest_level():
    picture = figures.nearby_levels({"fine": [-1, 0, 1, 2], "coarse": [-4, 0, 4]}, change=1.4)
    assert "fine: at 1 from the start" in picture.alt and "coarse: back at the start" in picture.alt


def test_the_ratio_is_that_of_the_two_sizes():
    picture = figures.update_sizes([[2, 4]], [[1, 1]], groups=["a"], marked=("first", 0))
    middles = [np.asarray(dots.get_offsets())[:, 1].tolist() for dots in picture.collections]
    assert [2, 4] in middles and [0.5, 0.25] in middles and [1, 1] in middles
    assert "belongs to a, first" in picture.alt


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.column_times_row(E, X[:1]), "X must be finite numbers of shape"),
        (lambda: figures.update_sizes([[1, 2]], [[1]], groups=["a"]), "W and dW must be sizes above 0"),
        (lambda: figures.update_sizes([[1]], [[0]], groups=["a"]), "W and dW must be sizes above 0"),
        (lambda: figures.update_sizes([[1]], [[1]], groups=["a", "b"]), "for each of 2 groups"),
        (lambda: figures.nearby_levels({"a": [1, 2]}, change=1), "one of them 0"),
        (lambda: figures.rank_panels({}), "groups must all have the lines"),
        (
            lambda: figures.rank_panels({"x": {"a": ([1], [1])}, "y": {"b": ([1], [1])}}),
            "groups must all have the lines",
        ),
        (lambda: figures.rank_panels({"x": {"a": ([1, 2], [1])}}), r"a must have shape \(2,\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
