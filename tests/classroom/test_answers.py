"""The slider along an answer, with a tokenizer of six letters."""

import torch

from lora_edu.classroom import figures
from lora_edu.classroom.experiments import answers


class Letters:
    """Stands for a tokenizer: token 0 is a, 1 is b ..."""

    def decode(self, tokens):
        return "".join("abcdef"[int(token)] for token in torch.as_tensor(tokens).reshape(-1))


TEXT = torch.tensor([5, 4, 0, 1, 2])  # the answer, abc, begins at place 2
PROBABILITIES = (
    torch.tensor([[1, 2, 3, 4, 5, 85], [0, 1, 2, 3, 4, 90], [10, 40, 20, 15, 10, 5], [1, 1, 90, 3, 3, 2]])
    / 100
)


def test_a_place_is_judged_by_the_row_before_it():
    [ax] = figures.new_pictures()
    answers.draw_next(ax, Letters(), TEXT, PROBABILITIES, start=2, token=2)
    assert ax.alt == (
        "Token 2 of the answer. Right is 'b', with a probability of 40.0%. The likeliest, 'b', has 40.0%."
    )
    assert ax.title.get_text() == "after 'a'"


def test_the_right_token_is_shown_though_it_is_the_least_likely():
    [ax] = figures.new_pictures()
    answers.draw_next(ax, Letters(), TEXT, PROBABILITIES, start=2, token=1)
    assert "Right is 'a', with a probability of 0.0%" in ax.alt and "The likeliest, 'f', has 90.0%" in ax.alt
    assert [name.get_text() for name in ax.get_yticklabels()][-1] == "'a' (right)"
    assert ax.title.get_text() == "the start of the answer"
