"""Predictions of notebook 05, in its order; those of 05b go on in `n05b`."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "`base` has 8,970 numbers, B and A of both layers have 2,048. `LoRALinear` freezes the layer "
        "that it wraps. How many numbers will `train` change?",
        ("2,048", "2,698", "11,018"),
        answer="2,698",
        why="The last layer is not wrapped, so nobody froze it: 640 weights and 10 biases.",
    ),
    Question(
        "The exact update for swapped columns has rank 8. LoRA and full fine-tuning learn from the same 20 images. "
        "From which rank on does LoRA read more digits than full fine-tuning (medians of 20 seeds)?",
        ("1", "4", "8", "16"),
        answer="1",
        why="Rank 1 is ahead in 16 of 20 seeds. The exact update is not needed.",
    ),
    Question(
        "Scaling alpha / r, alpha 4. r grows from 4 to 64. What happens to the learning rate that works best?",
        ("it falls", "it rises", "it stays"),
        answer="it stays",
        why="alpha / r shrinks the update just as much as Adam's steps on more numbers make it grow.",
    ),
)
