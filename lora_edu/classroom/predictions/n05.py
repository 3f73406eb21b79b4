"""Predictions of notebook 05, in its order."""

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
        "Each method gets the learning rate that suits it. Which is the least r of 1, 2, 4, 8, 16 that "
        "comes within 2 points of full fine-tuning on rotated digits?",
        ("1", "4", "16", "none of them"),
        answer="4",
        why="That is the median of three seeds. The task does not need the exact update.",
    ),
    Question(
        "Learning rate 0.003, alpha 4, scaling alpha / r. What does going from r = 1 to r = 64 do to the "
        "accuracy on rotated digits?",
        ("it hardly changes", "it rises steadily", "it falls"),
        answer="it hardly changes",
        why="64 times as many trained numbers, and the median moves by less than 2 points.",
    ),
    Question(
        "LoRA at r = 8 trains 2,048 numbers in place of 8,970. What happens to the activations that are "
        "kept?",
        ("they shrink to a quarter", "they vanish", "they grow a little"),
        answer="they grow a little",
        why="Those of the base stay, and A x comes on top: r numbers for each example and layer.",
    ),
    Question(
        "W + update - update, in 32 bits, with the update we trained. How many of the 4,096 weights of "
        "layer 2 come back exactly?",
        ("about half", "nearly all", "all"),
        answer="about half",
        why="Each sum is rounded to 24 bits. What the larger number pushes out is lost.",
    ),
)
