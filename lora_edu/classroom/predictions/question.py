"""What a prediction holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question, the choices it offers, the right one of them, and why it is right.

    Attributes
    ----------
    text : str
        Ends in "?". Words between backticks are shown as code.
    choices : tuple of str
        At least two, all different. Numbers in order; a wrong one is what a learner may well believe.
    answer : str
        The right one of `choices`.
    why : str
        One sentence or two, shown with the answer.

    Raises
    ------
    ValueError
        If there are fewer than two choices, two are equal, or `answer` is none of them.
    """

    text: str
    choices: tuple[str, ...]
    answer: str
    why: str = ""

    def __post_init__(self):
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise ValueError(f"choices must be at least two different texts, got {list(self.choices)}")
        if self.answer not in self.choices:
            raise ValueError(f"answer must be one of {list(self.choices)}, got {self.answer!r}")


@dataclass(frozen=True)
class QuestionAbout:
    """A question about numbers that are known only when a notebook runs, such as those of the model it has loaded.

    Attributes
    ----------
    make : callable
        Takes the numbers by name and returns the `Question`.
    example : mapping
        The same numbers of the course's small model: what is asked where no model is loaded.
    """

    make: Callable[..., Question]
    example: Mapping[str, Any]

    def of(self, values: Mapping[str, Any]) -> Question:
        """The question for these numbers.

        Raises
        ------
        ValueError
            If the names are not those of `example`.
        """
        if set(values) != set(self.example):
            raise ValueError(f"a question about {sorted(self.example)} must get these, got {sorted(values)}")
        return self.make(**values)
