"""A student's function called from afar is judged as it is when it is called here: all but the process itself."""

import itertools
import json

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from lora_edu.classroom.calls import parts
from lora_edu.classroom.checks import HINT, PASS, examine
from lora_edu.classroom.grade.answers import _Student
from lora_edu.classroom.grade.places import place
from lora_edu.classroom.grade.remote import Remote
from tests.classroom.test_checks import EXERCISES
from tests.classroom.test_checks_fooled import (
    KeepsInputs,
    of_another_kind,
    places_to_spoil,
    prints,
    raises,
    returns_none,
    spoils,
)
from tests.classroom.test_checks_right_ways import WAYS


class Inside:
    """A child that is none: it answers in this process, through the same JSON and bytes."""

    lost = None

    def __init__(self, function):
        self._student = _Student(lambda header, body: self._answer(header, body))
        self._student._function = function

    def ask(self, request, body=b"", answer=None):
        self._answer = answer
        with _disable_current_modes():  # who counts tensors in the parent does not see the child's
            header, answer = self._student.answer(json.loads(json.dumps(request)), body)
        return json.loads(json.dumps(header)), answer

    def give_up(self, why):
        raise AssertionError(why)


def from_afar(key, function):
    return examine(EXERCISES[key], Remote(Inside(function)))


@pytest.mark.parametrize("key", EXERCISES)
def test_right_answers_pass_and_a_wrong_one_gets_its_hint(key):
    assert from_afar(key, EXERCISES[key].solution) == examine(EXERCISES[key], EXERCISES[key].solution)
    assert from_afar(key, EXERCISES[key].solution)[0] == PASS
    for way in [way for of, way in WAYS if of == key][:1]:
        assert from_afar(key, way)[0] == PASS
    wrong = EXERCISES[key].wrong_answers[-1]
    assert from_afar(key, wrong.function) == examine(EXERCISES[key], wrong.function)


@pytest.mark.parametrize("key", [key for key in EXERCISES if places_to_spoil(key)])
def test_what_a_call_changes_is_seen_from_afar(key):
    assert from_afar(key, spoils(places_to_spoil(key)[-1])(EXERCISES[key].solution))[0] == HINT


@pytest.mark.parametrize("key", ["00.1", "04.1", "06.3", "10.2"])  # a number, a tensor, a tuple, a model
@pytest.mark.parametrize("make", [prints, returns_none, raises, of_another_kind])
def test_a_wrong_answer_is_told_as_here(key, make):
    wrong = make(EXERCISES[key].solution)
    assert from_afar(key, wrong) == examine(EXERCISES[key], wrong)


def test_what_a_call_keeps_and_draws_is_seen_from_afar():
    def draws(model, X, y):
        torch.rand(())
        return EXERCISES["12.3"].solution(model, X, y)

    def keeps_the_weight(x, packed, quant_state):
        from lora_edu.methods.nf4 import dequantize_nf4

        return x @ dequantize_nf4(packed, quant_state).T

    assert "no random number is drawn" in from_afar("12.3", draws)[1]
    assert "no copy of the weight exists" in from_afar("09.2", keeps_the_weight)[1]
    assert "x is not kept" in from_afar("09.2", KeepsInputs.apply)[1]


def written_to(key):
    """The tensors, lists and dictionaries among the arguments of all cases."""
    for argument in itertools.chain(*EXERCISES[key].cases()):
        for path, content in parts(argument):
            if isinstance(content, torch.Tensor) and content.numel():
                yield place(argument, path[:-1], path[-1])
            elif path[-2:-1] in (("list",), ("dict",)):
                yield place(argument, path[:-2], path[-1])


@pytest.mark.parametrize("key", EXERCISES)
def test_no_case_shares_memory_with_another_student(key):
    """What a call changes of its arguments is done here as well: it must be nobody else's."""
    twice = (
        list(written_to(key)),
        list(written_to(key)),
    )  # both live on, so that neither takes the other's place
    first, second = (
        {part.data_ptr() if isinstance(part, torch.Tensor) else id(part) for part in written}
        for written in twice
    )
    assert not first & second


class Liar(Inside):
    """Answers every call with what `says` makes of the right reply."""

    def __init__(self, says):
        super().__init__(EXERCISES["04.1"].solution)
        self._says = says

    def ask(self, request, body=b""):
        header, answer = super().ask(request, body)
        return self._says(header, answer)

    def give_up(self, why):
        self.lost = why


COLLIDING = [[{"int": hex(i * (2**61 - 1))}, None] for i in range(1001)]  # one hash for all
LIES = [
    lambda header, body: ({"pass": True}, b""),
    lambda header, body: ({**header, "value": True}, body),
    lambda header, body: ({**header, "value": {"tensor": ["float64", [3, 4], 0, 10**12]}}, body),
    lambda header, body: ({**header, "value": {"tensor": ["float64", [-3, -4], 0, 96]}}, body),
    lambda header, body: ({**header, "value": {"tensor": ["object", [1], 0, 8]}}, body),
    lambda header, body: ({**header, "value": {"part": [0, ["__class__", "__init__"]]}}, body),
    lambda header, body: ({**header, "value": {"odd": ["Tensor", "right"]}}, body),
    lambda header, body: ({**header, "value": {"raised": ["KeyboardInterrupt", ""]}}, body),
    lambda header, body: ({**header, "changed": [[0, [], "values", {"odd": ["x", "x"]}]] * 9}, body),
    lambda header, body: ({**header, "changed": [["a", 1, 2, 3]]}, body),
    lambda header, body: ({**header, "kept": {"bytes": 1 << 60, "arguments": [99]}}, body),
    lambda header, body: ({**header, "printed": {"list": [{"list": []}] * 45_000}}, body),
    lambda header, body: ({**header, "value": {"dict": COLLIDING}}, b""),
    lambda header, body: ([], b""),
]


@pytest.mark.parametrize("lie", range(len(LIES)))
def test_no_reply_but_the_right_one_passes(lie):
    liar = Liar(LIES[lie])
    try:
        status, _ = examine(EXERCISES["04.1"], Remote(liar))
    except Exception:  # `marks` takes every one for a hint
        status = HINT
    assert status != PASS
