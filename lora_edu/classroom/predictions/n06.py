"""Predictions of notebook 06, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The vocabulary has 49,152 tokens, and the model reads these 5. How many numbers does it give back?",
        ("1", "49,152", "245,760"),
        answer="245,760",
        why="At each of the 5 places, one score for every token that could come next.",
    ),
    Question(
        "`all-linear` means each linear layer of the 30 blocks. How many pairs of B and A is that?",
        ("120", "210", "211"),
        answer="210",
        why="Seven layers a block: q, k, v, o, gate, up, down. The output layer is left out.",
    ),
    Question(
        "A second adapter is trained without that label. What does it write after the closing brace?",
        ("nothing, it stops", "a second event", "a polite sentence"),
        answer="a second event",
        why="It was never asked to stop, and it has only ever been asked for events.",
    ),
    Question(
        "Exact match on seen patterns, each at its best learning rate. All linear layers at r = 8 reach "
        "96 %. And q and v alone, at r = 8?",
        ("about 96 %", "about 80 %", "about 60 %"),
        answer="about 96 %",
        why="On this narrow task, and at a higher learning rate.",
    ),
    Question(
        "Head and LoRA train together and get 98 % right. Only LoRA is saved. And after loading it over "
        "the base, with a new head?",
        ("less than 30 %", "49 %, as with a trained head alone", "98 %"),
        answer="less than 30 %",
        why="The new head is random. What LoRA prepares for the old one means nothing to it.",
    ),
)
