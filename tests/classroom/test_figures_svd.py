"""The pictures of notebook 01: terms, ellipse and spectrum draw what an SVD found by another way says."""

import numpy as np
import pytest
from matplotlib.patches import Polygon

from lora_edu.classroom import figures

GENERATOR = np.random.default_rng(0)
MATRIX = GENERATOR.uniform(size=(6, 9))
SVD = np.linalg.svd(MATRIX, full_matrices=False)
W = np.array([[0.9, 0], [1.2, 1.5]])


def images(picture):
    return [np.asarray(image.get_array()) for image in picture.images]


def test_each_sum_is_the_one_before_and_the_term_above():
    alone, sums = np.array(images(figures.terms(*SVD, count=4))).reshape(4, 2, 6, 9).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(sums[0], alone[0])
    np.testing.assert_allclose(np.diff(sums, axis=0), alone[1:])
    assert [np.linalg.matrix_rank(term) for term in alone] == [1] * 4
    assert [np.linalg.matrix_rank(total) for total in sums] == [1, 2, 3, 4]


def test_no_term_can_make_up_for_another():
    alone = images(figures.terms(*SVD, count=6))[::2]
    products = np.array([[np.sum(one * other) for other in alone] for one in alone])
    np.testing.assert_allclose(products, np.diag(SVD[1] ** 2), atol=1e-12)
    assert np.trace(products) == pytest.approx(np.sum(MATRIX**2))  # the energy


def test_copy_and_rest_make_the_whole_and_a_shade_means_the_same_at_every_rank():
    for rank in range(1, 7):
        picture = figures.copy_and_rest(*SVD, rank, reach=0.7)
        copy, rest, _ = images(picture)
        np.testing.assert_allclose(copy + rest, MATRIX, atol=1e-12)
        assert np.linalg.matrix_rank(copy) == rank
        assert [image.get_clim() for image in picture.images] == [(0, 1), (-0.7, 0.7), (-1, 1)]
        assert f"relative error {np.linalg.norm(rest) / np.linalg.norm(MATRIX):.1%}" in picture.alt


@pytest.mark.parametrize("angle", [0, 45, 60, 135, 165, 250])
@pytest.mark.parametrize("rank", [1, 2])
def test_y_is_what_the_kept_terms_make_of_x(angle, rank):
    x = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    v = np.array([1, 1]) / np.sqrt(2)  # W^T W = [[2.25, 1.8], [1.8, 2.25]]
    y = W @ (x if rank == 2 else v * (v @ x))
    assert f"its y is {np.linalg.norm(y):.2f} long" in figures.circle_to_ellipse(W, angle, rank=rank).alt


@pytest.mark.parametrize(("angle", "rank"), [(30, 1), (45, 2), (135, 2), (150, 1)])
def test_no_name_meets_another_where_arrows_meet(angle, rank):
    picture = figures.circle_to_ellipse(W, angle, rank=rank, title="The circle becomes an ellipse")
    figures.to_quick_png(picture)
    assert figures.collisions(picture) == []


def test_the_half_axes_are_the_singular_values():
    ghost, outline = [
        patch for patch in figures.circle_to_ellipse(W, 30, rank=1).patches if type(patch) is Polygon
    ]
    reach = [
        np.linalg.norm(shape.get_xy() - shape.get_xy().mean(axis=0), axis=1) for shape in (ghost, outline)
    ]
    squares = np.linalg.eigvalsh(W.T @ W)
    assert reach[0].max() / reach[0].min() == pytest.approx(np.sqrt(squares[1] / squares[0]), rel=0.03)
    assert np.linalg.matrix_rank(outline.get_xy() - outline.get_xy()[0], tol=1e-9) == 1  # it fell flat


def test_what_is_at_right_angles_to_the_first_axis_is_not_heard_at_rank_1():
    assert "y = 0" in [text.get_text() for text in figures.circle_to_ellipse(W, 135, rank=1).texts]
    assert "y = 0" not in [text.get_text() for text in figures.circle_to_ellipse(W, 135).texts]


def test_the_error_is_that_of_the_best_copy():
    values = {"a": SVD[1], "short": [2.0, 1.0]}
    picture = figures.error_by_rank(values, rank=3, last=5)
    for rank, error in zip(range(1, 6), picture.lines[0].get_ydata(), strict=True):
        copy = SVD[0][:, :rank] * SVD[1][:rank] @ SVD[2][:rank]
        assert error == pytest.approx(np.linalg.norm(MATRIX - copy) / np.linalg.norm(MATRIX))
    np.testing.assert_allclose(picture.lines[1].get_ydata(), [0.2**0.5, 0, 0, 0, 0])


def test_the_spectrum_marks_what_the_error_sums_up_and_carries_no_markers():
    picture = figures.spectrum({"a": SVD[1]}, rank=2, last=6)
    [line] = picture.lines
    assert np.sum(line.get_ydata() ** 2) == pytest.approx(1) and line.get_marker() == "None"
    [region] = picture.patches
    left, right = region.get_x(), region.get_x() + region.get_width()
    dropped = [y for x, y in zip(*line.get_data(), strict=True) if left <= x <= right]
    error = figures.error_by_rank({"a": SVD[1]}, rank=2, last=6).lines[0].get_ydata()[1]
    assert len(dropped) == 4 and np.sqrt(np.sum(np.square(dropped))) == pytest.approx(error)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.terms(*SVD, count=7), "count must be in 1 … 6, got 7"),
        (lambda: figures.terms(SVD[0], SVD[1][:3], SVD[2]), r"U, S and Vh must have shapes"),
        (lambda: figures.copy_and_rest(*SVD, 0, reach=1), "rank must be in 1 … 6, got 0"),
        (lambda: figures.copy_and_rest(*SVD, 1, reach=0), "reach must be above 0, got 0"),
        (lambda: figures.circle_to_ellipse(np.eye(3), 0), r"W must be finite numbers of shape \(2, 2\)"),
        (lambda: figures.circle_to_ellipse(W, 0, rank=3), "rank must be 1 or 2 .* got rank 3"),
        (lambda: figures.circle_to_ellipse(0 * W, 0), "W not zero"),
        (
            lambda: figures.spectrum({"a": [1, 2]}, rank=1, last=2),
            "a must hold singular values, largest first",
        ),
        (lambda: figures.error_by_rank({"a": [2, 1]}, rank=2, last=2), "rank must be in 1 … 1, got 2"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
