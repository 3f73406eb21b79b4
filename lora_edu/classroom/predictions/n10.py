"""Predictions of notebook 10, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The base model is asked about 25 test sentences. How many events does it get exactly right?",
        ("none", "about 5", "about 12", "nearly all"),
        answer="none",
        why="It answers in the style of a chat. Below you see what that looks like.",
    ),
    Question(
        "The model has 134.5 million parameters. What share will train?",
        ("0.02 %", "2 %", "20 %"),
        answer="2 %",
        why="Each layer adds r x (in + out) numbers: 2.4 million in all.",
    ),
    Question(
        "The loss starts above 1 nat a token. The model sees 240 sentences, once each. Where does it end?",
        ("near 1", "near 0.5", "below 0.15"),
        answer="below 0.15",
        why="To copy from a sentence into a fixed form is easy once the form is known.",
    ),
    Question(
        "How many of the base model's 134.5 million weights changed?",
        ("none", "about 2 %", "all, a little"),
        answer="none",
        why="They are frozen. The adapter is added beside them.",
    ),
    Question(
        "peft merges an update of zero: it adds nothing to each 4-bit weight, and rounds it to NF4 again. How many "
        "weights change?",
        ("none", "about a tenth", "nearly all"),
        answer="nearly all",
        why="Their codes stay. Their scales, which are stored in 8 bits, come out a little different.",
    ),
)
