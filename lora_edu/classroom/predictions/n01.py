"""Predictions of notebook 01, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "Three inputs stand in the rows of `X`, of shape (3, 5). Which product gives the three outputs?",
        ("W @ X", "X @ W.T", "X @ W"),
        answer="X @ W.T",
        why="(3, 5) times (5, 4) chains, and each row of the result is W times a row of X.",
    ),
    Question(
        "B keeps two of the columns, and A says how much of each goes into every column of W. How many "
        "numbers do B and A hold together?",
        ("8", "14", "18", "20"),
        answer="18",
        why=(
            "B is 4 × 2 and A is 2 × 5: 8 + 10. Who said 14 left out the four ones and zeros of A: columns 1 and 2 "
            "need no recipe. That is right too, but B and A hold them."
        ),
    ),
    Question(
        "We add up one term, two, three and so on, each time the best ones. What is sharp first?",
        ("the fence", "the hills", "the sun"),
        answer="the fence",
        why="Its edges run along rows and columns, and a column times a row draws exactly such edges.",
    ),
    Question(
        "We keep rank 8 of 576: 9,216 numbers in place of 331,776. How large is the relative error of "
        "the best copy?",
        ("under 10 %", "about 50 %", "over 90 %"),
        answer="over 90 %",
        why="A copy that is all zeros has an error of 100 %. This one is hardly better.",
    ),
    Question(
        "How long does the randomized SVD take for the first 64 terms of a matrix of that size?",
        ("about a second", "about 20 seconds", "over a minute"),
        answer="about a second",
        why="It multiplies the matrix with 80 columns a few times, and decomposes only a small matrix.",
    ),
)
