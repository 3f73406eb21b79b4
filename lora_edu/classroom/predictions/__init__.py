"""The questions that notebooks ask before an experiment, out of the learner's sight: one module a notebook.

``PREDICTIONS`` of module ``n01`` holds the questions of notebook 01 in its order: the fourth is "01.4". Those of a
second half, such as 05b, are numbered on from the first half's.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

from lora_edu.classroom.language import text
from lora_edu.classroom.predictions.question import Question, QuestionAbout

__all__ = ["Question", "QuestionAbout", "find_question", "load_predictions"]


def load_predictions(notebook: str) -> dict[str, Question]:
    """The questions of one notebook (``"10"``, ``"05b"``) by id, in its order; empty if it has none.

    A question about a model is here the one about the course's small model.
    """
    return {
        key: question.of(question.example) if isinstance(question, QuestionAbout) else question
        for key, question in _numbered(notebook).items()
    }


def _numbered(notebook: str) -> dict[str, Question | QuestionAbout]:
    number = notebook[:2]
    asked_before = 0 if notebook == number else len(_questions(number))
    questions = enumerate(_questions(notebook), start=asked_before + 1)
    return {f"{number}.{place}": question for place, question in questions}


def _questions(notebook: str) -> tuple[Question | QuestionAbout, ...]:
    name = f"{__name__}.n{notebook}"
    if importlib.util.find_spec(name) is None:
        return ()
    return importlib.import_module(name).PREDICTIONS


def find_question(key: str, **values: Any) -> Question:
    """The question with an id such as ``"01.4"``, about these values if it is one about a model.

    Raises
    ------
    ValueError
        If `key` is no such id, its notebook has no question of that number, or the question takes other values.
    """
    if not re.fullmatch(r"\d\d\.\d+", key):
        raise ValueError(f"a question without choices must be an id such as '01.4', got {key!r}")
    known = _numbered(key[:2]) | _numbered(f"{key[:2]}b")
    if key not in known:
        raise ValueError(f"question must be one of {list(known)}, got {key!r}")
    question = known[key]
    if isinstance(question, QuestionAbout):
        return _in_language(key, question.of(values))
    if values:
        raise ValueError(f"question {key} takes no values, got {sorted(values)}")
    return _in_language(key, question)


def _in_language(key: str, question: Question) -> Question:
    """The question in the language of this process."""
    asked, choice, why = (f"prediction {key} {part}" for part in ("question", "choice", "why"))
    return Question(
        text(asked, question.text),
        tuple(text(choice, each) for each in question.choices),
        text(choice, question.answer),
        text(why, question.why),
    )
