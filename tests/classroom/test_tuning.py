"""Which setting is chosen."""

import pytest
import torch

from lora_edu.classroom.experiments import tuning

VALIDATION = [[0.1, 0.2, 0.9], [0.4, 0.5, 0.6], [0.3, 0.4, 0.8]]
TEST = [[0.7, 0.7, 0.7], [0.4, 0.6, 0.5], [0.9, 0.9, 0.9]]
TRIAL = torch.tensor([VALIDATION, TEST])


def test_the_median_of_the_validation_scores_chooses():
    assert tuning.tuned(*TRIAL).tolist() == TRIAL[1, 1].tolist()


def test_the_test_scores_do_not_choose():
    validation, test = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tuning.tuned(validation, -test), -tuning.tuned(validation, test))


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((4,), (4,))])
def test_scores_of_another_shape_are_refused(shapes):
    with pytest.raises(ValueError, match=r"must both have shape \(settings, seeds\)"):
        tuning.tuned(*map(torch.zeros, shapes))
