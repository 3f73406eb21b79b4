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
        "4-bit codes in blocks of 64 take 4.5 bits a weight. Which change lowers their error more?",
        ("blocks of 16: 6 bits a weight", "5-bit codes: 5.5 bits a weight", "both alike"),
        answer="5-bit codes: 5.5 bits a weight",
        why="A further bit halves every gap. Blocks a quarter as large only have smaller largest weights, and pay for "
        "four times as many scales.",
    ),
    Question(
        "Weights lie in memory in 4 bits instead of 16. When can a layer be faster for it?",
        ("with one token", "with a batch of 512 tokens", "with both", "never: they must be unpacked"),
        answer="with one token",
        why="With one token the time is that of reading weights, and a kernel that unpacks while it multiplies reads "
        "a quarter of the bytes. With 512 it is that of multiplying, which 4 bits do not shorten. On this page's GPU "
        "it only draws level; others report more.",
    ),
)
