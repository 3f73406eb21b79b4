"""Exercises whose answer is a test: its catch is counted, and nothing but what a candidate does tells it apart."""

import inspect

import pytest
import torch

from lora_edu.classroom.candidates import MOST_CALLS, MOST_NUMBERS, Candidate, Handed
from lora_edu.classroom.checks import HINT, NOT_ATTEMPTED, PASS, Exercise, WrongAnswer, examine, faulty
from lora_edu.classroom.grade.remote import Remote
from lora_edu.classroom.written_tests import WrittenTest, chosen, written_test
from tests.classroom.test_checks import EXERCISES
from tests.classroom.test_grade_remote import Inside

# ------------------------------------------------ an exercise: does a function double what it is given?


def doubled(x):
    return x + x


def in_float32(x):
    return (2 * x.float()).to(x.dtype)


def _squared(x):
    return x * x


def _rows_alone(x):
    return torch.cat([2 * x[:1], x[1:]])


def _in_place(x):
    return x.mul_(2) if x.ndim == 1 else x


def keeps_the_law(candidate) -> bool:
    x = torch.randn(3, 2, dtype=torch.float64)
    return torch.allclose(candidate(x), 2 * x, rtol=1e-5)


def at_two(candidate):
    return torch.equal(candidate(torch.full((1, 2), 2.0)), torch.full((1, 2), 4.0))


def exactly(candidate):
    x = torch.randn(3, 2, dtype=torch.float64)
    return torch.equal(candidate(x), 2 * x)


def exactly_in_its_first_row(candidate):
    x = torch.full((2, 2), 0.1, dtype=torch.float64)
    return torch.equal(candidate(x)[0], 2 * x[0])


DOUBLES = written_test(
    solution=keeps_the_law,
    right=(doubled, in_float32),
    wrong=tuple(
        WrongAnswer(function, told)
        for function, told in (
            (_squared, "You square."),
            (_rows_alone, "That is the first row."),
            (_in_place, "That leaves a matrix."),
        )
    ),
    weak=(
        WrongAnswer(at_two, "Twice 2 is the square of 2."),
        WrongAnswer(exactly, "Rounding differs."),
    ),
)


def here(function):
    return examine(DOUBLES, function)


def afar(function):
    return examine(DOUBLES, Remote(Inside(function)))


in_both = pytest.mark.parametrize("examined", [here, afar])

# ------------------------------------------------ what is said of a test


@in_both
def test_a_good_test_passes_and_its_catch_is_counted(examined):
    assert examined(keeps_the_law) == (PASS, "Right. Your test catches 3 of 3 wrong functions.")


@in_both
def test_a_test_that_asserts_passes(examined):
    def asserts(candidate):
        x = torch.tensor([[1.0, -3.0], [0.5, 0.0]])
        torch.testing.assert_close(candidate(x), 2 * x)
        return True

    assert examined(asserts)[0] == PASS


@in_both
def test_a_weak_test_gets_its_hint_and_one_unknown_is_told_what_slips_through(examined):
    assert examined(at_two) == (HINT, "Twice 2 is the square of 2. Your test catches 1 of 3 wrong functions.")
    assert examined(exactly) == (HINT, "Rounding differs. Your test catches 3 of 3 wrong functions.")

    def first_row(candidate):
        return candidate(torch.full((2, 2), 3.0))[0].tolist() == [6.0, 6.0]

    slips = 'One that slips through would be told: "That is the first row."'
    assert examined(first_row) == (HINT, f"Your test catches 2 of 3 wrong functions. {slips}")


@in_both
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda candidate: False, "passes no function, not even a right one: it returns False. Is a limit"),
        (lambda candidate: candidate(torch.eye(2)) + "text", "it raises TypeError."),
        (lambda candidate: candidate(), "it raises TypeError."),
        (lambda candidate: candidate(torch.ones(2, 2)).sum().item() == 0, "passes no function"),
        (exactly_in_its_first_row, "it returns False. Right functions round differently: do your limits"),
        (
            lambda candidate: (candidate(torch.eye(2)) == 2 * torch.eye(2)).all(),
            "it returns tensor(True). Return",
        ),
    ],
)
def test_a_test_that_fails_a_right_function_is_told_how(examined, answer, told):
    status, said = examined(answer)
    assert status == HINT and told in said


@in_both
def test_a_test_that_passes_every_function_is_told_so(examined):
    status, said = examined(lambda candidate: True)
    assert status == HINT and said.startswith("Your test passes every function. One that slips through")


@in_both
def test_asserts_without_a_return_are_told(examined):
    def asserts(candidate):
        assert torch.equal(candidate(torch.eye(3)), 2 * torch.eye(3))

    assert "ends without `return`. Where all is well, `return True`" in examined(asserts)[1]
    assert examined(lambda candidate: None)[0] == NOT_ATTEMPTED


@in_both
def test_no_else_is_needed(examined):
    assert examined(lambda candidate: keeps_the_law(candidate) or None)[0] == PASS


def test_wrong_answers_are_chosen_by_name():
    exercise = Exercise(doubled, tuple, DOUBLES.wrong)
    assert [answer.function for answer in chosen(exercise, "_in_place", "_squared")] == [_in_place, _squared]
    with pytest.raises(KeyError):
        chosen(exercise, "_gone")


# ------------------------------------------------ nothing else tells a right candidate from a wrong one


def by_name(candidate):
    return candidate.__name__ in ("doubled", "in_float32")


def by_type_and_text(candidate):
    return "float" in repr(candidate) or type(candidate).__name__ in ("function", "doubled")


def by_source(candidate):
    return "_squared" not in inspect.getsource(candidate)


def by_what_it_holds(candidate):
    held = {**vars(candidate), **{name: getattr(candidate, name) for name in dir(candidate)}}
    return not any("_squared" in repr(value) or "_rows" in repr(value) for value in held.values())


def by_signature(candidate):
    return str(inspect.signature(candidate)) == "(x)"


class ByOrder:
    """Passes the first two of a round."""

    def __init__(self):
        self.seen = []

    def __call__(self, candidate):
        self.seen.append(id(candidate))
        return (len(self.seen) - 1) % 5 < 2


class ByNovelty(ByOrder):
    """Passes what it meets again."""

    def __call__(self, candidate):
        known = id(candidate) in self.seen
        self.seen.append(id(candidate))
        return known


LOOKING = (by_name, by_type_and_text, by_source, by_what_it_holds, by_signature, ByNovelty())


@pytest.mark.parametrize(
    "answer", LOOKING, ids=lambda answer: getattr(answer, "__name__", type(answer).__name__)
)
def test_a_test_that_looks_at_the_candidate_alone_does_not_pass_from_afar(answer):
    assert afar(answer)[0] == HINT


def test_the_order_of_candidates_is_another_each_time():
    orders = set()
    for _ in range(20):
        seen = []

        def notes(candidate, seen=seen):
            x = torch.tensor([[3.0], [5.0]])
            seen.append(str(candidate(x).tolist()))
            return True

        here(notes)
        orders.add(tuple(seen[:5]))
    assert len(orders) > 10


def test_a_guess_must_be_right_in_every_round():
    """One order in ten has the right ones first; three in a row, one in a thousand."""
    assert [here(ByOrder())[0] for _ in range(100)].count(PASS) <= 3


# ------------------------------------------------ what crosses


@in_both
def test_a_candidate_cannot_change_the_tests_tensors(examined):
    def compares(candidate):
        x = torch.ones(2)
        return bool((candidate(x) == 2).all() and (x == 1).all()) and keeps_the_law(candidate)

    assert examined(compares)[0] == PASS


def test_arguments_may_be_named_and_exceptions_keep_their_kind():
    def divided(x, by):
        if by == 0:
            raise ZeroDivisionError("by is 0")
        return x / by, {"by": by}

    handed = Handed(Candidate(divided).answer)
    assert handed(6, by=3) == (2.0, {"by": 3}) and repr(handed) == "candidate"
    with pytest.raises(ZeroDivisionError, match="by is 0"):
        handed(1, 0)
    with pytest.raises(TypeError):
        handed(1)
    with pytest.raises(TypeError, match="not <"):
        handed(object(), 1)


def test_a_candidate_works_so_much_and_no_more():
    handed = Handed(Candidate(lambda *a: len(a)).answer)
    with pytest.raises(ValueError, match="at most"):
        handed([torch.ones(MOST_NUMBERS), 1])
    assert handed(torch.ones(MOST_NUMBERS)) == 1
    for _ in range(MOST_CALLS - 2):
        handed()
    with pytest.raises(RuntimeError, match="a test may call"):
        handed()


# ------------------------------------------------ a planted fault


def halved(x):
    return x / 2


def _halved_but_whole(x):
    return x // 2


def _half_of_two(x):
    return x - 1


HALVES = Exercise(
    solution=halved,
    cases=lambda: [(2.0,), (3.0,)],
    wrong_answers=(WrongAnswer(_half_of_two, "Half of 2 alone."),),
    planted=_halved_but_whole,
    symptom="half of 3 is 1.",
)


@pytest.mark.parametrize("examined", [examine, lambda e, f: examine(e, Remote(Inside(f)))])
def test_a_planted_fault_is_not_attempted_until_the_results_change(examined):
    still = NOT_ATTEMPTED, "The fault is still in: half of 3 is 1."
    assert examined(HALVES, _halved_but_whole) == still
    assert examined(HALVES, lambda x: float(int(x / 2))) == still
    assert examined(HALVES, _half_of_two) == (HINT, "Half of 2 alone.")
    assert examined(HALVES, halved) == (PASS, "Right.")


def test_the_fault_of_a_notebook_can_be_run_before_it_is_mended():
    assert faulty("03.5")(torch.nn.Linear(3, 2)) == 4 * (3 * 2 + 2)
    with pytest.raises(KeyError, match="no planted fault"):
        faulty("03.4")
    with pytest.raises(KeyError):
        faulty("98.1")


@pytest.mark.parametrize(
    "key", [key for key, exercise in EXERCISES.items() if isinstance(exercise, WrittenTest)]
)
def test_candidates_take_the_same_names_and_right_ones_are_several(key):
    exercise = EXERCISES[key]
    functions = [*exercise.right, *(answer.function for answer in exercise.wrong)]
    assert len({tuple(inspect.signature(function).parameters) for function in functions}) == 1
    assert len(exercise.right) >= 2 and len(exercise.wrong) >= 5 and len(exercise.wrong_answers) >= 4


@pytest.mark.parametrize(
    "key", [key for key, exercise in EXERCISES.items() if isinstance(exercise, WrittenTest)]
)
@pytest.mark.parametrize("arguments", [(), (None,) * 9, ("x",)])
def test_no_message_names_a_candidate(key, arguments):
    """Nor says for one of them what it does not say for the others."""
    exercise = EXERCISES[key]
    functions = [*exercise.right, *(answer.function for answer in exercise.wrong)]
    said = set()
    for function in functions:
        with pytest.raises((TypeError, ValueError)) as raised:
            Handed(Candidate(function).answer)(*arguments)
        said.add(str(raised.value))
    assert len(said) == 1
    assert not any(function.__name__ in message for function in functions for message in said)
