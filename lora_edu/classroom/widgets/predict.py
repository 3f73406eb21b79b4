"""A question before the experiment; its answer opens once the learner has chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets

from lora_edu.classroom.language import say
from lora_edu.classroom.predictions import Question, find_question
from lora_edu.classroom.widgets._show import show, to_html


class Prediction:
    """A question whose answer opens after the learner has committed to one; see `predict`."""

    def __init__(self, question: Question):
        self.question = question
        layout = ipywidgets.Layout(width="auto")
        self.buttons = [ipywidgets.Button(description=choice, layout=layout) for choice in question.choices]
        for button in self.buttons:
            button.on_click(self._commit)
        self.feedback = ipywidgets.HTML()
        self.widget = ipywidgets.VBox(
            [
                ipywidgets.HTML(f"<b>{to_html(question.text)}</b>"),
                ipywidgets.HBox(self.buttons),
                self.feedback,
            ]
        )
        self.widget.children[1].layout.flex_flow = "row wrap"

    def _commit(self, chosen: ipywidgets.Button) -> None:
        answer, why = self.question.answer, self.question.why
        for button in self.buttons:
            button.disabled = True
            if button.description == answer:
                button.icon = "check"
        right = chosen.description == answer
        chosen.button_style = "success" if right else "warning"
        said = say("You said: {chosen}. The answer: {answer}.", chosen=chosen.description, answer=answer)
        verdict = say("Right.") if right else said
        self.feedback.value = f'<div role="status">{to_html(f"{verdict} {why}".rstrip())}</div>'

    def to_html(self) -> str:
        """The static form: question, choices, and the answer behind a click."""
        choices = "".join(f"<li>{to_html(choice)}</li>" for choice in self.question.choices)
        why = f" <span>{to_html(self.question.why)}</span>" if self.question.why else ""
        answer = f"<b>{to_html(self.question.answer)}</b>.{why}"
        return (
            f"<p><b>{to_html(self.question.text)}</b></p><ul>{choices}</ul>"
            f"<details><summary>{say('Decide first, then open the answer')}</summary>{answer}</details>"
        )

    def __repr__(self) -> str:
        return "\n".join([self.question.text, *(f"  - {choice}" for choice in self.question.choices)])

    def _ipython_display_(self) -> None:
        show(self.widget, "predict", ({"text/html": self.to_html(), "text/plain": repr(self)}, {}))


def predict(
    question: str,
    choices: Sequence[str] | None = None,
    answer: str | None = None,
    why: str = "",
    **values: Any,
) -> Prediction:
    """Ask before the experiment; the answer opens once the learner has chosen.

    Parameters
    ----------
    question : str
        Alone, an id such as ``"01.4"``: the fourth question of `lora_edu.classroom.predictions` for notebook 01,
        so that no cell of the notebook holds its answer. With `choices`, the question itself, which ends in "?".
        Words between backticks are shown as code.
    choices : sequence of str, optional
        At least two, all different; one button each.
    answer : str, optional
        The right one of `choices`.
    why : str
        One sentence, shown with the answer.
    **values
        With an id of a question about a model: the numbers of the model that is loaded. Choices and answer follow.

    Returns
    -------
    Prediction
        Shows itself as the last value of a cell.

    Raises
    ------
    ValueError
        If there is no such id, it takes other values, there are fewer than two choices, two are equal, or `answer` is
        none of them.
    """
    if choices is None and answer is None:
        return Prediction(find_question(question, **values))
    return Prediction(Question(question, tuple(choices or ()), answer or "", why))
