"""Predictions of notebook 12, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The second loss is `nan` (not a number). What broke in the first step?",
        ("the loss overflowed", "Adam divided 0 by 0", "a gradient overflowed"),
        answer="Adam divided 0 by 0",
        why="Its epsilon of 1e-8 is 0 in fp16, and so is the square of a small gradient.",
    ),
    Question(
        "Which lesson does that take away?",
        ("to end a turn", "to read short rows", "none: filling teaches nothing"),
        answer="to end a turn",
        why="The real end of a turn is the same token as the filling, so its label goes too.",
    ),
    Question(
        "Every name in the file now begins with `model.`. What does `load_state_dict(..., strict=False)` do?",
        ("it loads nothing, and is silent", "it raises an error", "it warns"),
        answer="it loads nothing, and is silent",
        why="It returns the names that it did not use, and raises nothing.",
    ),
    Question(
        "`in_training_mode` runs without gradients and changes no weight. Is the training after it the "
        "same as without?",
        ("yes, nothing was trained", "no"),
        answer="no",
        why="Dropout drew random numbers, so all later steps drop other inputs.",
    ),
    Question(
        "It needs 38.3 GiB. We lower the rank from 64 to 8. How much does it need then?",
        ("about 5 GiB", "about 19 GiB", "about 37 GiB"),
        answer="about 37 GiB",
        why="Adapters and optimizer are 0.9 GiB of it; their gradients come later. The activations are 32.",
    ),
)
