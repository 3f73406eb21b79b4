"""Predictions of notebook 11, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "The base has 134.5 million parameters. How many more do all three characters need together?",
        ("three times as many", "about 10 %", "about 1 %"),
        answer="about 1 %",
        why="Each adapter holds 460,800 numbers: 1.4 million in all.",
    ),
    Question(
        "All four questions go into one batch. How often is each row multiplied with W?",
        ("once", "once for each adapter", "once for each merged model"),
        answer="once",
        why="W acts on the whole batch. Then each adapter adds its update to its own rows.",
    ),
    Question(
        "How many of these adapters weigh as much as the whole base?",
        ("about 30", "about 300", "about 30,000"),
        answer="about 300",
        why="513 MiB / 1.76 MiB is 292.",
    ),
    Question(
        "How far is that shortcut from the exact average, as a share of the average?",
        ("about 1 %", "about 10 %", "about 100 %"),
        answer="about 100 %",
        why="The product of the sums also multiplies one adapter's B with the other's A.",
    ),
    Question(
        "A trained adapter of this kind follows a layer W. Can the two be merged into one matrix?",
        ("no", "only at rank 1", "yes, as with LoRA"),
        answer="no",
        why="One matrix cannot bend: minus the input gives exactly minus the output. With ReLU it does not.",
    ),
)
