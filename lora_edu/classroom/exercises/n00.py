"""Exercises of notebook 00."""

from lora_edu.classroom.checks import Exercise, WrongAnswer

# ---------------------------------------------------------------- 00.1 share_right(marks)


def share_right(marks: list[bool]) -> float:
    """Share (0 to 1) of the marks that are True."""
    return sum(marks) / len(marks)


def _percent(marks):
    return 100 * share_right(marks)


def _share_wrong(marks):
    return 1 - share_right(marks)


def _right_to_wrong(marks):
    return sum(marks) / (len(marks) - sum(marks))


def _floor_division(marks):
    return sum(marks) // len(marks)


def _marks():
    yield ([True, False, False, False],)
    yield ([False, True, True, False, True],)
    yield ([True, True],)
    yield ([False, False, False],)


EXERCISES = {
    "00.1": Exercise(
        solution=share_right,
        cases=_marks,
        wrong_answers=(
            WrongAnswer(sum, "That is how many are right. Divide by how many there are."),
            WrongAnswer(_percent, "That is in percent. Return the share itself, between 0 and 1."),
            WrongAnswer(_share_wrong, "That is the share of wrong answers. True marks a right one."),
            WrongAnswer(_right_to_wrong, "You divide by the wrong answers. Divide by all of them."),
            WrongAnswer(_floor_division, "`//` rounds down, so most shares become 0. Divide with `/`."),
        ),
    ),
}
