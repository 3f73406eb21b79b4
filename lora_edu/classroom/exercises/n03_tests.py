"""Exercises 03.4, a test of the break-even rank, and 03.5, a fault in the bytes of a model."""

import math
from collections.abc import Callable

import torch
from torch import nn

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises.n03 import EXERCISES as OF_03
from lora_edu.classroom.exercises.n03 import break_even_rank
from lora_edu.classroom.written_tests import written_test

# ---------------------------------------------------------------- 03.4 breaks_even(candidate)

SHAPES = ((192, 576), (4096, 1024), (3, 8))


def breaks_even(candidate: Callable) -> bool:
    """Whether at the rank `candidate(m, n)` B and A hold as many numbers as W."""
    return all(math.isclose(candidate(m, n) * (m + n), m * n, rel_tol=1e-6) for m, n in SHAPES)


def _by_reciprocals(m: int, n: int) -> float:
    return 1 / (1 / m + 1 / n)


def _in_float32(m: int, n: int) -> float:
    return (m / torch.tensor(float(m + n)) * n).item()


def _whole(m: int, n: int) -> int:
    return round(m * n / (m + n))


def _to_a_tenth(m: int, n: int) -> float:
    return round(m * n / (m + n), 1)


def _a_thousandth_more(m: int, n: int) -> float:
    return 1.001 * m * n / (m + n)


def _one_side_more(m: int, n: int) -> float:
    return m * n / (m + n + 1)


NEAR_MISSES = (
    WrongAnswer(_whole, "You round to a whole rank. The break-even rank need not be one."),
    WrongAnswer(_to_a_tenth, "You round to a tenth. The break-even rank may lie between two."),
    WrongAnswer(_a_thousandth_more, "That is a thousandth too much."),
    WrongAnswer(_one_side_more, "You divide by one too many. How many numbers does each rank cost?"),
)


def _squares_alone(candidate):
    return all(
        math.isclose(candidate(side, side) * 2 * side, side * side, rel_tol=1e-6) for side in (8192, 7)
    )


def _whole_ranks_alone(candidate):
    return candidate(192, 576) == 144 and candidate(576, 192) == 144


def _turned_over(candidate):
    return all(math.isclose(candidate(m, n), candidate(n, m), rel_tol=1e-6) for m, n in SHAPES)


def _a_rank_that_fits(candidate):
    return all(0 < candidate(m, n) <= min(m, n) for m, n in SHAPES)


def _within_a_rank(candidate):
    ranks = [(candidate(m, n), m, n) for m, n in SHAPES]
    return all((r - 1) * (m + n) < m * n < (r + 1) * (m + n) for r, m, n in ranks)


def _to_the_last_digit(candidate):
    return all(candidate(m, n) == m * n / (m + n) for m, n in (*SHAPES, (7, 41), (11, 13)))


def _to_nine_digits(candidate):
    return all(math.isclose(candidate(m, n), m * n / (m + n)) for m, n in (*SHAPES, (3, 7)))


def _to_nine_digits_at_one_shape(candidate):
    return math.isclose(candidate(3, 7), 2.1)


# ---------------------------------------------------------------- 03.5 model_bytes(model)


def model_bytes(model: nn.Module) -> int:
    """Bytes of all tensors that a model keeps, each counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _planted(model: nn.Module) -> int:
    total = 0
    for tensor in model.state_dict().values():
        total += tensor.numel() * tensor.element_size()
    return total


def _parameters_alone(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _what_trains(model):
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _without_the_head(model):
    tensors = [t for name, t in model.state_dict().items() if "head" not in name]
    return sum(t.numel() * t.element_size() for t in tensors)


def _without_embeddings(model):
    tensors = [t for name, t in model.state_dict().items() if "embed" not in name]
    return sum(t.numel() * t.element_size() for t in tensors)


def _each_shape_once(model):
    kept = {tuple(tensor.shape): tensor for tensor in model.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())


def _equal_ones_once(model):
    kept: list[torch.Tensor] = []
    for tensor in model.state_dict().values():
        if not any(tensor.shape == other.shape and torch.equal(tensor, other) for other in kept):
            kept.append(tensor)
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _numbers(model):
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


def _always_four_bytes(model):
    return 4 * _numbers(model)


def _language_model(tied: bool) -> nn.ModuleDict:
    parts = {"embed": nn.Embedding(10, 4), "first": nn.Linear(4, 4), "second": nn.Linear(4, 4)}
    model = nn.ModuleDict({**parts, "head": nn.Linear(4, 10, bias=False)})
    if tied:
        model["head"].weight = model["embed"].weight
    return model


def _models():
    torch.manual_seed(0)
    yield (_language_model(tied=True),)
    yield (_language_model(tied=False).bfloat16(),)
    frozen = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    yield (nn.Sequential(frozen, nn.Linear(4, 2).double(), nn.LayerNorm(2), nn.LayerNorm(2)),)


EXERCISES = {
    "03.4": written_test(
        solution=breaks_even,
        right=(break_even_rank, _by_reciprocals, _in_float32),
        wrong=(*OF_03["03.2"].wrong_answers, *NEAR_MISSES),
        weak=(
            WrongAnswer(
                _squares_alone,
                "You try squares alone. There half of either side is right: try a W with two different sides.",
            ),
            WrongAnswer(
                _whole_ranks_alone,
                "Who rounds down passes your test: your shapes break even at whole ranks, or your limits are wide. "
                "Try 3 x 8, which breaks even at 24/11, with `rel_tol=1e-6`.",
                (_within_a_rank,),
            ),
            WrongAnswer(
                _turned_over,
                "W and its transpose hold as many numbers, so this should hold. But it holds for many formulas.",
            ),
            WrongAnswer(_a_rank_that_fits, "You ask whether such a rank fits. Many do; one breaks even."),
            WrongAnswer(
                _to_the_last_digit,
                "Two right ways differ by up to a millionth: `==`, and `math.isclose` as it comes (1e-9), fail one. "
                "Take `rel_tol=1e-6`.",
                (_to_nine_digits, _to_nine_digits_at_one_shape),
            ),
        ),
    ),
    "03.5": Exercise(
        solution=model_bytes,
        cases=_models,
        planted=_planted,
        symptom="a small model comes out too large, a large one right.",
        wrong_answers=(
            WrongAnswer(
                _parameters_alone,
                "You leave the buffers out. A 4-bit weight is kept in one, and takes memory like any other.",
            ),
            WrongAnswer(
                _what_trains,
                "You count what trains. A frozen weight takes as much memory.",
            ),
            WrongAnswer(
                _without_the_head,
                "You leave out a layer by its name. Where head and embedding are two weights, both take memory.",
                (_without_embeddings,),
            ),
            WrongAnswer(
                _each_shape_once,
                "You count each shape once. Two layers of one shape are two weights.",
            ),
            WrongAnswer(
                _equal_ones_once,
                "You count equal values once. Two norms that begin with ones are two tensors: is it the same memory?",
            ),
            WrongAnswer(_numbers, "Those are numbers. How many bytes has each?"),
            WrongAnswer(_always_four_bytes, "You take 4 bytes a number. Each tensor has a dtype of its own."),
        ),
    ),
}
