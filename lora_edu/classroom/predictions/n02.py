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
        "The norm of the change over the norm of the weight, |dW| / |W|: how large is it?",
        ("about 0.2 %", "about 5 %", "about 50 %"),
        answer="about 0.2 %",
        why="The learning rate of full fine-tuning is small, and 200 steps are few.",
    ),
    Question(
        "The query weight of the middle block, 576 x 576. The best 8 terms of W keep 16 % of its energy. "
        "And of dW?",
        ("also about 16 %", "about 50 %", "over 99 %"),
        answer="about 50 %",
        why="The update is simpler than the weight, but far from exactly low-rank.",
    ),
    Question(
        "At rank 8 half of the energy is gone. The whole update gets 95 % of the events right. And rank 8?",
        ("about 10 %", "about 50 %", "about 90 %"),
        answer="about 90 %",
        why="Most of what was cut off made little difference to these answers.",
    ),
)
