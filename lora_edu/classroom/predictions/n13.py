"""Predictions of notebook 13, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The adapter has rank 8 and α = 16. What do these bytes hold?",
        ("A, B and the weights they change", "A, B and α", "A and B"),
        answer="A and B",
        why="The base's weights are in no adapter file, and α stands in adapter_config.json, beside it.",
    ),
    Question(
        "We copy every number and only rename the tensors. llama.cpp loads the file without a complaint. How many "
        "of the 60 updates does it then apply rightly?",
        ("0", "30", "60"),
        answer="30",
        why="Those of the values. The rows of a query stand in another order there.",
    ),
    Question(
        "Both answer greedily, always with the likeliest token. Do they write the same text for 200 sentences?",
        ("for most, not for all", "for all of them", "for hardly any"),
        answer="for most, not for all",
        why="They round differently, so where two tokens are nearly as likely they may part.",
    ),
    Question(
        "The adapter was trained over the Q4_1 weights. Which of these loses more sentences?",
        (
            "merged into them, and stored in 8 bits",
            "merged into an NF4 copy of them, and stored in 16 bits",
            "neither: the sum holds the update",
        ),
        answer="merged into an NF4 copy of them, and stored in 16 bits",
        why="16 bits hold the sum, but under the update lies another base than the one it was trained over.",
    ),
    Question(
        "A batch has eight rows, of eight customers with an adapter each. How often must a layer's W be read for one "
        "step?",
        ("once", "8 times", "9 times"),
        answer="once",
        why="W x is one product for all rows. Only the small A and B differ.",
    ),
)
