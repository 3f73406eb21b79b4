"""Predictions of notebook 00, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "200 such sentences, built like those in training, with new names: how many events are right "
        "afterwards?",
        ("fewer than 50", "about 100", "more than 150"),
        answer="more than 150",
        why=(
            "This is strict: above, 'quarter eleven' in place of 'quarter to eleven' made the third "
            "event wrong."
        ),
    ),
    Question(
        "At which rank do B and A together hold as many numbers as the whole update?",
        ("8", "288", "576"),
        answer="288",
        why="Each unit of rank costs a column of B and a row of A: 576 + 576 numbers.",
    ),
    Question(
        "Asked for the share of right answers, somebody writes `sum`, which counts them. What will the "
        "check say?",
        ("what was forgotten", "only that it is wrong", "pass"),
        answer="what was forgotten",
        why="It knows the mistakes that are often made.",
    ),
)
