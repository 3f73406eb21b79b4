"""Errors of a rounded head: exact ones on a model small enough to follow."""

from types import SimpleNamespace

import pytest
import torch

from lora_edu.classroom.experiments.head_errors import head_errors, hidden_states
from lora_edu.llm.data.extraction import IGNORE


def test_an_exact_head_errs_nowhere():
    head, states = torch.randn(50, 8), torch.randn(20, 8)
    found = head_errors(head, states, lambda W: W)
    assert (found.mean_absolute, found.root_mean_square, found.logits, found.changed) == (0, 0, 0, 0)


def test_what_softmax_does_not_see_is_no_error_of_the_logits():
    head, states = torch.randn(50, 8), torch.randn(20, 8)
    found = head_errors(head, states, lambda W: W + 0.5)  # adds the same to each logit of a place
    assert found.root_mean_square > 0.1 and found.logits < 1e-5


def test_errors_by_hand():
    head, states = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-1.0]])
    found = head_errors(head, states, lambda W: -2 * W)
    assert (found.mean_absolute, found.root_mean_square) == pytest.approx((3, 3))
    assert found.logits == pytest.approx(3) and found.changed == 1


def test_states_are_those_that_say_the_answer():
    model = SimpleNamespace(
        device="cpu", model=lambda ids: SimpleNamespace(last_hidden_state=ids[..., None].double())
    )
    example = {"input_ids": [5, 6, 7, 8], "labels": [IGNORE, IGNORE, 7, 8]}
    assert hidden_states(model, [example, example]).tolist() == [[6], [7]] * 2
    assert hidden_states(model, [example], answers_only=False).tolist() == [[5], [6], [7]]
