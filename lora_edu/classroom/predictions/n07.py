"""Predictions of notebook 07, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "What becomes of 70,000 in fp16?",
        ("70,000", "about 70,000", "65,504, the largest", "infinity"),
        answer="infinity",
        why="65,504 is the largest number of fp16, and 70,000 is too far beyond it to be rounded down.",
    ),
    Question(
        "Which index is stored for 0.23456?",
        ("8", "9", "10"),
        answer="9",
        why="Level 9 is 0.2 and level 10 is 0.333: the first is nearer. Indices count from 0.",
    ),
    Question(
        "In symmetric int4, how many of the other 4,095 weights are read back as something else than zero?",
        ("none", "about half", "nearly all"),
        answer="none",
        why="A step is now 100 / 7 = 14.3, and the others are smaller than half of it.",
    ),
    Question(
        "Suppose each weight may take 6 bits, absmax included. Which way of spending them has the "
        "smallest error?",
        ("4-bit codes, blocks of 16", "5-bit codes, blocks of 32", "6-bit codes, blocks of 4,096"),
        answer="5-bit codes, blocks of 32",
        why="Fine levels are lost on large outliers, and small blocks spend too much on scales.",
    ),
    Question(
        "How long does the 4-bit layer take for 64 tokens, next to the fp32 layer on this computer's "
        "processor?",
        ("about an eighth", "about as long", "longer"),
        answer="longer",
        why="Nothing here multiplies NF4 codes: W is rebuilt in fp32 first, then multiplied as before.",
    ),
)
