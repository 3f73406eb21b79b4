"""Predictions of notebook 12, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The second loss is `nan` (not a number). What broke in the first step?",
        ("the loss overflowed", "Adam divided 0 by 0", "a gradient overflowed"),
        answer="Adam divided 0 by 0",
        why="Its epsilon of 1e-8 is 0 in fp16, and so is the square of a small gradient.",
    ),
    Question(
        "r = 64 and alpha = 128, all else as it was. How many rotated digits are read right (median of "
        "three seeds)?",
        ("about 69 %", "about 91 %", "about 97 %"),
        answer="about 69 %",
        why="The scaling is still 2, but 64 terms of B A step together where 8 did.",
    ),
    Question(
        "An update 1 % as large as W is added to a 4-bit weight, and the sum is stored in NF4 again. How "
        "much of the update is left?",
        ("about 2 %", "about half", "all of it"),
        answer="about 2 %",
        why=(
            "No weight moves far enough to reach another level. Only the largest of each block of 64 "
            "keeps its step."
        ),
    ),
    Question(
        "`in_training_mode` runs without gradients and changes no weight. Is the training after it the "
        "same as without?",
        ("yes, nothing was trained", "no"),
        answer="no",
        why="Dropout drew random numbers, so all later steps drop other inputs.",
    ),
    Question(
        "It needs 38.3 GiB. We lower the rank from 64 to 8. How much does it need then?",
        ("about 5 GiB", "about 19 GiB", "about 37 GiB"),
        answer="about 37 GiB",
        why="Adapters and optimizer are 0.9 GiB of it; their gradients come later. The activations are 32.",
    ),
)
