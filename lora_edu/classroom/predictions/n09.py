"""Predictions of notebook 09, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "We store W and W + dW in NF4. How many of the 331,776 codes differ?",
        ("about 1 in 100", "about half", "nearly all"),
        answer="about 1 in 100",
        why="The levels lie so far apart that most weights stay nearest to the same one.",
    ),
    Question(
        "Codes and scales take 8.7 MB, the weight in 32 bits 67 MB. What does `obvious` leave in memory "
        "for the backward pass?",
        ("the 67 MB as well", "the codes alone", "nothing"),
        answer="the 67 MB as well",
        why="Autograd keeps what a product needs for its gradient, and that is the weight that it was given.",
    ),
    Question(
        "The 4-bit codes take 53 MB. How many MB of tensors does a training step on 224 tokens hold at "
        "its peak?",
        ("about 60", "about 200", "about 600"),
        answer="about 600",
        why=(
            "The embedding stays wide, and most of the rest is activations and logits: they do not care "
            "about 4 bits."
        ),
    ),
    Question(
        "Every block is computed a second time. How much longer does a QLoRA step take?",
        ("hardly", "by a third to a half", "it takes three times as long"),
        answer="by a third to a half",
        why=(
            "A step is one forward, and a backward of about one more: frozen weights need no gradient of "
            "their own."
        ),
    ),
    Question(
        "Our layer and theirs, one training step. What agrees?",
        (
            "every byte and every digit",
            "bytes exactly, results up to rounding",
            "results within a few percent",
        ),
        answer="bytes exactly, results up to rounding",
        why="The same codes mean the same weight. But the sums of a product are added in another order.",
    ),
)
