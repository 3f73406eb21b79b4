"""Predictions of notebook 02, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "We train for 100 steps on the same 6 examples. What is the rank of the update, a matrix of 20 x 30?",
        ("6", "20", "100"),
        answer="6",
        why="Each row of each gradient is a mix of the 6 inputs, so each row of their sum is one, too.",
    ),
    Question(
        "From matrix to matrix, the typical number of W differs by a factor of up to 8.5. By how much does that of dW?",
        ("a factor of 1.3", "a factor of 8.5, too", "a factor of over 50"),
        answer="a factor of 1.3",
        why=(
            "The optimizer Adam divides each number of the gradient by its usual size. So every number moves "
            "about as far, in whichever weight it stands."
        ),
    ),
    Question(
        "The query weight of block 15, 576 x 576. The best 8 terms of W keep 16 % of its energy. And of dW?",
        ("also about 16 %", "about 50 %", "over 99 %"),
        answer="about 50 %",
        why="The update is simpler than the weight, but far from exactly low-rank.",
    ),
    Question(
        "At rank 8 half of the energy is gone. On seen patterns the whole update gets 95 % of the events right. "
        "And rank 8?",
        ("about 10 %", "about 50 %", "about 90 %"),
        answer="about 90 %",
        why="Most of what was cut off made little difference to these answers.",
    ),
    Question(
        (
            "Two runs read the same sentences in another order. Chance would let the first 8 directions of a query "
            "weight's update agree by 1 %. How much do they share?"
        ),
        ("about 1 %", "about 10 %", "about 65 %"),
        answer="about 65 %",
        why="The order is chance, the sentences are not: both runs find much the same directions.",
    ),
)
