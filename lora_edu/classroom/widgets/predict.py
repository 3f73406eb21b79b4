"""A question before the experiment; its answer opens once the learner has chosen."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from lora_edu.classroom.widgets._show import show, to_html


class Prediction:
    """A question whose answer opens after the learner has committed to one; see `predict`."""

    def __init__(self, question: str, choices: Sequence[str], answer: str, why: str):
        self.question, self.choices, self.answer, self.why = question, list(choices), answer, why
        layout = ipywidgets.Layout(width="auto")
        self.buttons = [ipywidgets.Button(description=choice, layout=layout) for choice in choices]
        for button in self.buttons:
            button.on_click(self._commit)
        self.feedback = ipywidgets.HTML()
        self.widget = ipywidgets.VBox(
            [ipywidgets.HTML(f"<b>{to_html(question)}</b>"), ipywidgets.HBox(self.buttons), self.feedback]
        )
        self.widget.children[1].layout.flex_flow = "row wrap"

    def _commit(self, chosen: ipywidgets.Button) -> None:
        for button in self.buttons:
            button.disabled = True
            if button.description == self.answer:
                button.icon = "check"
        right = chosen.description == self.answer
        chosen.button_style = "success" if right else "warning"
        verdict = "Right." if right else f"You said: {chosen.description}. The answer: {self.answer}."
        self.feedback.value = f'<div role="status">{to_html(f"{verdict} {self.why}".rstrip())}</div>'

    def to_html(self) -> str:
        """The static form: question, choices, and the answer behind a click."""
        choices = "".join(f"<li>{to_html(choice)}</li>" for choice in self.choices)
        answer = to_html(f"{self.answer}. {self.why}".rstrip())
        return (
            f"<p><b>{to_html(self.question)}</b></p><ul>{choices}</ul>"
            f"<details><summary>Decide first, then open the answer</summary>{answer}</details>"
        )

    def __repr__(self) -> str:
        return "\n".join([self.question, *(f"  - {choice}" for choice in self.choices)])

    def _ipython_display_(self) -> None:
        show(self.widget, {"text/html": self.to_html(), "text/plain": repr(self)})


def predict(question: str, choices: Sequence[str], answer: str, why: str = "") -> Prediction:
    """Ask before the experiment; the answer opens once the learner has chosen.

    Parameters
    ----------
    question : str
        Ends in "?". Words between backticks are shown as code.
    choices : sequence of str
        At least two, all different; one button each.
    answer : str
        The right one of `choices`.
    why : str
        One sentence, shown with the answer.

    Returns
    -------
    Prediction
        Shows itself as the last value of a cell.

    Raises
    ------
    ValueError
        If there are fewer than two choices, two are equal, or `answer` is none of them.
    """
    if len(choices) < 2 or len(set(choices)) != len(choices):
        raise ValueError(f"choices must be at least two different texts, got {list(choices)}")
    if answer not in choices:
        raise ValueError(f"answer must be one of {list(choices)}, got {answer!r}")
    return Prediction(question, choices, answer, why)
