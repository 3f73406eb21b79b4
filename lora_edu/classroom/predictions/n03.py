"""Predictions of notebook 03, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "How many times fewer numbers do B and A hold together than W?",
        ("8 times", "512 times", "1,024 times", "8,192 times"),
        answer="512 times",
        why="Each of the two factors is 1,024 times smaller than W, and there are two of them.",
    ),
    Question(
        "How many times less memory does it take to train Mistral-7B with LoRA, on texts of 512 tokens?",
        ("about 6 times", "about 35 times", "about 345 times"),
        answer="about 6 times",
        why=(
            "Gradients and Adam's averages go, and a frozen weight may stand in 16 bits instead of 32. The weights "
            "themselves and most activations stay."
        ),
    ),
    Question(
        "B and A hold 1/512 of W's numbers. How much computing does a training step of the layer take "
        "with LoRA?",
        ("more than full fine-tuning", "about the same", "about two thirds of it", "about 1/512 of it"),
        answer="about two thirds of it",
        why=(
            "Forward goes through W, and so does the gradient on its way back. Only the gradient of W "
            "itself is left out."
        ),
    ),
    Question(
        "At which rank do B and A of this layer hold as many numbers as W?",
        ("144", "192", "288"),
        answer="144",
        why="Each unit of rank costs 576 + 192 = 768 numbers, and 110,592 / 768 = 144.",
    ),
    Question(
        "How much do the thousand adapters weigh, all together?",
        ("a thousandth of the model", "about half of the model", "about ten models"),
        answer="about half of the model",
        why="Each is 0.047 % of the model: 6.8 MB beside 14.5 GB.",
    ),
)
