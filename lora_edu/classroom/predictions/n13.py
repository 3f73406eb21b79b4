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
        "Both answer greedily, always with the likeliest token. Do they write the same text for 60 sentences?",
        ("for most, not for all", "for all of them", "for hardly any"),
        answer="for most, not for all",
        why="They round differently, so where two tokens are nearly as likely they may part.",
    ),
    Question(
        "With the adapter apart llama.cpp reads 50 of the 60 sentences. Now the sum is stored in 4 bits once more, in "
        "Q4_0. How many does it read then?",
        ("50", "38", "8"),
        answer="8",
        why="Every linear layer is rounded a second time, to other levels, and nobody trained against that noise.",
    ),
    Question(
        "A batch has eight rows, of eight customers with an adapter each. How often must a layer's W be read for one "
        "step?",
        ("once", "8 times", "9 times"),
        answer="once",
        why="W x is one product for all rows. Only the small A and B differ.",
    ),
)
