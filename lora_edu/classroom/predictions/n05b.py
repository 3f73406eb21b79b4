"""Predictions of notebook 05b, in its order; they are numbered on from those of 05."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "SmolLM2 is trained in 8 sentences at a time. With LoRA, gradients and Adam's averages fall from 1.50 GiB to "
        "0.03. What happens to the most memory that the GPU ever holds?",
        ("it falls by more than 90 %", "it falls by a third", "it stays the same"),
        answer="it falls by a third",
        why="The weights stay, and so do most activations. And while these are all there, no gradient is yet.",
    ),
    Question(
        "W + update - update, in 32 bits, the update blown up to the size of W. How many of the 4,096 weights of "
        "layer 2 come back exactly?",
        ("about two thirds", "nearly all", "all"),
        answer="about two thirds",
        why="Each sum is rounded to 24 bits. What the larger number pushes out is lost.",
    ),
    Question(
        "bfloat16, updates of 2 % of W, another one each time. How far is W off after 300 swaps?",
        ("0.006 %", "0.06 %", "0.6 %"),
        answer="0.6 %",
        why="Each sum is rounded to 8 bits, so each swap loses a little of W itself.",
    ),
)
