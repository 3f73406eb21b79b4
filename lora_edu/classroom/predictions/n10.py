"""Predictions of notebook 10, in its order.

Four of them are about the model that the notebook has loaded: choices and answers follow from its numbers.
"""

from lora_edu.classroom.predictions.question import Question, QuestionAbout


def _base_is_asked(right: int, asked: int) -> Question:
    """How many of `asked` events the base got `right`."""
    half = (asked + 1) // 2
    few, many = _span(1, half - 1), _span(half, asked)
    choices = ("none", few, many) if half > 1 else ("none", many)
    answer = choices[0] if right == 0 else few if right < half else many
    why = f"It got {right} of {asked}. Below you see what it says."
    return Question(_ASKED.format(asked), choices, answer=answer, why=why)


def _span(low: int, high: int) -> str:
    return f"{low} to {high}" if low < high else str(low)


_ASKED = "The base model has just answered {} test sentences. How many events are exactly right?"


def _share_that_trains(parameters: int, trained: int) -> Question:
    """What part `trained` is of `parameters`, the base's own."""
    share = 100 * trained / parameters
    choices = [f"{percent:.2g} %" for percent in (share / 100, share / 10, share)]
    return Question(
        f"The model has {parameters:,} parameters. An adapter of rank 8 stands beside all linear layers of its "
        "blocks. How large is it, against these?",
        tuple(choices),
        answer=choices[2],
        why=f"Each layer adds r × (in + out) numbers, with r = 8: {trained:,} in all.",
    )


def _base_afterwards(parameters: int, trained: int) -> Question:
    """How many of the base's `parameters` have changed, with an adapter of `trained` numbers."""
    return Question(
        f"How many of the base's {parameters:,} weights has training changed?",
        ("none", f"about {trained:,}", "all, a little"),
        answer="none",
        why="They are frozen. What trained stands beside them.",
    )


PREDICTIONS = (
    QuestionAbout(_base_is_asked, {"right": 0, "asked": 25}),
    QuestionAbout(_share_that_trains, {"parameters": 134_515_008, "trained": 2_442_240}),
    Question(
        "Some tokens of an answer belong to its form: braces, keys, quotes, the end. Others are copied from the "
        "sentence. Which does the model learn first?",
        ("the copied ones", "the form", "both together"),
        answer="the form",
        why="The form is the same in every answer. Each value must be found anew.",
    ),
    QuestionAbout(_base_afterwards, {"parameters": 134_515_008, "trained": 2_442_240}),
    Question(
        "peft merges an update of zero: it adds nothing to each 4-bit weight, and rounds it to NF4 again. How many "
        "weights change?",
        ("none", "about a tenth", "nearly all"),
        answer="nearly all",
        why="Their codes stay. Their scales, which are stored in 8 bits, come out a little different.",
    ),
)
