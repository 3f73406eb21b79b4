"""The picture of notebook 01: what its text says of it."""

import numpy as np
import pytest

from lora_edu.classroom.experiments.house import evening

PICTURE = evening()
FENCE = PICTURE[146:178, 146:] == 0.95
SUN = PICTURE[20:100, 180:260] == 1.0


def test_it_is_a_matrix_of_grey_levels_and_the_same_each_time():
    assert PICTURE.shape == (192, 288) and PICTURE.dtype == np.float64
    assert 0 <= PICTURE.min() < 0.2 and PICTURE.max() == 1
    np.testing.assert_array_equal(PICTURE, evening())


@pytest.mark.parametrize(("shape", "rank"), [(FENCE, 2), (SUN, 33)], ids=["fence", "sun"])
def test_the_ranks_that_the_notebook_names(shape, rank):
    assert np.linalg.matrix_rank(shape.astype(float)) == rank


def test_the_fence_has_nine_posts():
    assert np.count_nonzero(np.diff(FENCE[0].astype(int), prepend=0) == 1) == 9


def test_at_rank_8_the_fence_is_sharper_than_the_sun():
    U, S, Vh = np.linalg.svd(PICTURE)
    missing = np.abs(PICTURE - U[:, :8] * S[:8] @ Vh[:8])
    assert missing[146:178, 146:].max() < 0.15 < missing[20:100, 180:260].max()


def test_another_size_shows_the_same():
    small = evening(96, 144)
    np.testing.assert_allclose(small.mean(), PICTURE.mean(), atol=0.02)
