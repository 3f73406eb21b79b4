"""Predictions of notebook 08, in its order."""

from lora_edu.classroom.predictions.question import Question

PREDICTIONS = (
    Question(
        "We compute it as printed, for i = 0 to 15. What do we get?",
        ("the published NF4 levels", "16 levels, none of them zero", "one level is minus infinity"),
        answer="one level is minus infinity",
        why="For i = 0 it asks for the quantile of 0: the number below which nothing lies.",
    ),
    Question(
        "Blocks of 64: by how much do the best levels, with -1, 0 and 1 among them, err less than NF4?",
        ("less than 0.2 %", "about 5 %", "about 20 %"),
        answer="less than 0.2 %",
        why=(
            "For the mean absolute error and this block size NF4 is nearly the best code there is, though it "
            "was derived from another idea."
        ),
    ),
    Question(
        "On normal numbers at blocks of 32, Q4_1 errs by 8 %. By how much on this weight?",
        ("about 0.2 %", "about 4 %", "about 8 %"),
        answer="about 0.2 %",
        why=(
            "The weights already lie on a min-max grid of 16 levels for each block of 32. Here it finds "
            "that grid again."
        ),
    ),
    Question(
        "256 scales of 32 bits take 1,024 bytes. How many do their 8-bit codes take, with the scale that they share?",
        ("64", "260", "512"),
        answer="260",
        why="256 codes of one byte, and one float32 of 4: with double quantization a weight pays 0.127 bits, not 0.5.",
    ),
    Question(
        "A method rounds a layer so that its outputs err less. What happens to the errors of its weights?",
        ("they shrink too", "they stay as they are", "they grow"),
        answer="they grow",
        why=(
            "Rounding to nearest gives each weight its least error, so any other choice errs more. Errors of "
            "several weights can cancel in an output."
        ),
    ),
)
