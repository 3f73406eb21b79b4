"""Predictions of notebook 08, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The last cut leaves 1/16 of all numbers above it. How many standard deviations from the middle "
        "does it lie?",
        ("about 1.5", "about 2.5", "about 4"),
        answer="about 1.5",
        why="The outermost slice holds 6 % of all numbers, and it reaches from there to infinity.",
    ),
    Question(
        "We compute it as printed, for i = 0 to 15. What do we get?",
        ("the published NF4 levels", "16 levels, none of them zero", "one level is minus infinity"),
        answer="one level is minus infinity",
        why="For i = 0 it asks for the quantile of 0: the number below which nothing lies.",
    ),
    Question(
        "Normal numbers, blocks of 64, both 4.5 bits a weight. Which has the smaller root mean square error?",
        ("NF4", "int4 min-max", "they are equal"),
        answer="int4 min-max",
        why=(
            "NF4 has the smaller mean absolute error. Min-max fits its ends to each block, which saves "
            "large errors."
        ),
    ),
    Question(
        "On normal numbers at blocks of 32, min-max int4 errs by 8 %. By how much on this weight?",
        ("about 0.2 %", "about 4 %", "about 8 %"),
        answer="about 0.2 %",
        why=(
            "The weights already lie on a min-max grid of 16 levels for each block of 32. Here they find "
            "it again."
        ),
    ),
    Question(
        "How many bits a weight do the scales still take, both levels together?",
        ("0.008", "0.127", "0.25"),
        answer="0.127",
        why="8 bits for 64 weights are 0.125; 32 bits for 64 times 256 weights are 0.002.",
    ),
)
