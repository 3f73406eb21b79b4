"""What a prediction holds."""

from __future__ import annotations

from dataclasses import dataclass


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
