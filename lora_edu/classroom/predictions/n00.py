"""Predictions of notebook 00, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        (
            "200 such sentences, built like those in training, with new names: how many events are "
            "right afterwards?"
        ),
        ("fewer than 50", "about 100", "more than 150"),
        answer="more than 150",
        why=(
            "This is strict: above, 'quarter eleven' in place of 'quarter to eleven' made the third "
            "event wrong."
        ),
    ),
    Question(
        "Without the adapter, does the model answer exactly as it did at first?",
        ("nearly: a few words differ", "yes, letter by letter", "no, it keeps something of the robot"),
        answer="yes, letter by letter",
        why=("The adapter stands beside the weights. None of them was changed, so nothing has to be undone."),
    ),
    Question(
        "You want to train all 7 billion weights. How much memory does that take?",
        ("over 100 GiB", "about 30 GiB", "about 15 GiB"),
        answer="over 100 GiB",
        why=(
            "For each weight it keeps four numbers of 4 bytes: the weight, how to change it, and two "
            "averages of that."
        ),
    ),
    Question(
        (
            "Asked for the share of right answers, somebody writes `sum`, which counts them. What "
            "will the check say?"
        ),
        ("what was forgotten", "only that it is wrong", "pass"),
        answer="what was forgotten",
        why="It knows the mistakes that are often made.",
    ),
)
