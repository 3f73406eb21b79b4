"""Predictions of notebook 04, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "Which two factors make an update that can be added to a 4 × 5 weight?",
        ("B: 4 × 2 and A: 5 × 2", "B: 5 × 2 and A: 2 × 4", "B: 4 × 2 and A: 2 × 5"),
        answer="B: 4 × 2 and A: 2 × 5",
        why=(
            "Neighbours must agree: (4, 2) times (2, 5) is (4, 5). The first pair does not chain, the "
            "second gives 5 × 4."
        ),
    ),
    Question(
        (
            "W is 4096 × 4096. From how many tokens on does it take fewer multiplications to form W + BA once than "
            "to keep W x and B(Ax) apart?"
        ),
        ("8", "64", "about 2000", "never"),
        answer="about 2000",
        why=(
            "Forming costs r m n once; apart costs r (m + n) for each token. Equal at m n / (m + n) = "
            "2048 tokens."
        ),
    ),
    Question(
        "A is random, B is zero. After the first training step, what has moved?",
        ("A", "B", "both", "neither"),
        answer="B",
        why=(
            "A's gradient carries a factor B, and B is still zero. B's gradient carries A x, and that "
            "is not zero."
        ),
    ),
    Question(
        ("From B = 0 and a random A: what does the first step of gradient descent make of the update BA?"),
        (
            "G, as far as the random A lets it through",
            "what full training would do: a multiple of G",
            "the best approximation of G that has rank r",
            "nothing, since A has not moved",
        ),
        answer="G, as far as the random A lets it through",
        why=(
            "The gradient of B is s G Aᵀ, and A stays. So BA becomes -η s² G AᵀA: each row of G, "
            "projected onto A's rows."
        ),
    ),
    Question(
        (
            "Training mode, dropout 0.5, B still zero. Two calls with the same inputs: how much do "
            "the outputs differ?"
        ),
        ("not at all", "a little", "by about half"),
        answer="not at all",
        why=(
            "Only the update sees the dropped inputs, and with B zero the update is zero. The base "
            "path gets all of x."
        ),
    ),
)
