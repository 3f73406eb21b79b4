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
        "A 4096 × 4096 layer is in the middle of its forward product. With which method does it take more memory?",
        ("LoRA in 16 bits, four times as much", "QLoRA, a little more", "both take the same"),
        answer="QLoRA, a little more",
        why="For the product the weight is made in 16 bits, beside the codes. LoRA has no codes.",
    ),
    Question(
        "The 4-bit codes of SmolLM2 take 0.05 GiB. How many GiB of tensors does a training step on 128 tokens hold at "
        "its peak?",
        ("about 0.06", "about 0.15", "about 0.4"),
        answer="about 0.4",
        why=(
            "The embedding stays in 32 bits here, and most of the rest is activations and logits: they do not care "
            "about 4 bits."
        ),
    ),
    Question(
        "Codes and scales of a 2048 × 2048 layer take 2.1 MiB, its weight in 32 bits 16. What does `obvious` leave "
        "in memory for the backward pass?",
        ("the 16 MiB as well", "the codes alone", "nothing"),
        answer="the 16 MiB as well",
        why="Autograd keeps what a product needs for its gradient, and that is the weight that it was given.",
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
)
