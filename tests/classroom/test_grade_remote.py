"""A student's function called from afar is judged as it is when it is called here: all but the process itself."""

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
        self._student = _Student()
        self._student._function = function

    def ask(self, request, body=b""):
        with _disable_current_modes():  # who counts tensors in the parent does not see the child's
            header, answer = self._student.answer(json.loads(json.dumps(request)), body)
        return json.loads(json.dumps(header)), answer

    def give_up(self, why):
        raise AssertionError(why)


def from_afar(key, function):
    return examine(EXERCISES[key], Remote(Inside(function)))


@pytest.mark.parametrize("key", EXERCISES)
def test_every_solution_passes_and_every_wrong_answer_gets_its_hint(key):
    assert from_afar(key, EXERCISES[key].solution) == (PASS, "Right.")
    for wrong in EXERCISES[key].wrong_answers:
        for form in (wrong.function, *wrong.others):
            assert from_afar(key, form) == (HINT, wrong.hint)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_other_right_way_passes_and_generic_wrong_answers_are_told_as_here(key):
    for _, way in [way for way in WAYS if way[0] == key]:
        assert from_afar(key, way)[0] == PASS
    solution = EXERCISES[key].solution
    makers = [prints, returns_none, raises, of_another_kind, *map(spoils, places_to_spoil(key))]
    for make in makers:
        status, said = examine(EXERCISES[key], make(solution))
        assert status != PASS and from_afar(key, make(solution))[0] == status
        if make in (prints, returns_none, raises):
            assert from_afar(key, make(solution))[1] == said


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


def tensors_of(key):
    for arguments in EXERCISES[key].cases():
        for argument in arguments:
            for place_of, content in parts(argument):
                if isinstance(content, torch.Tensor) and content.numel():
                    yield place(argument, place_of[:-1], place_of[-1])


@pytest.mark.parametrize("key", EXERCISES)
def test_no_case_shares_memory_with_another_student(key):
    """What a call changes of its arguments is done here as well: it must be nobody else's."""
    first, second = list(tensors_of(key)), list(tensors_of(key))
    assert not {t.data_ptr() for t in first} & {t.data_ptr() for t in second}


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


COLLIDING = [[{"int": hex(i * (2**61 - 1))}, None] for i in range(9999)]  # one hash for all
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
    lambda header, body: ({**header, "printed": {"list": [{"list": []}] * 100_000}}, body),
    lambda header, body: (
        {**header, "value": {"dict": [[{"int": hex(i * (2**61 - 1))}, None] for i in range(9999)]}},
        b"",
    ),
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
