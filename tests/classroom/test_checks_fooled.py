"""No answer fools a check: five generic wrong answers to every exercise, and the ones that once passed."""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lora_edu.classroom.checks import HINT, NOT_ATTEMPTED, PASS, check
from lora_edu.classroom.written_tests import WrittenTest
from lora_edu.methods.nf4 import dequantize_nf4
from tests.classroom.test_checks import EXERCISES

# ------------------------------------------------ five generic wrong answers, made of each solution


def prints(solution):
    def answer(*arguments):
        print(solution(*arguments))

    return answer


def returns_none(solution):
    def answer(*arguments):
        solution(*arguments)

    return answer


def raises(solution):
    def answer(*arguments):
        solution(*arguments)
        raise ValueError("something")

    return answer


def of_another_kind(solution):
    """The right result in another form: a float for a count, complex numbers in a tensor, text for a number."""

    def turned(value):
        if isinstance(value, nn.Parameter):
            return value.detach().clone()
        if isinstance(value, torch.Tensor):
            return value.to(torch.complex64 if value.is_floating_point() else torch.float32)
        if isinstance(value, list | tuple):
            return type(value)(map(turned, value))
        return {bool: int, int: float, float: str, str: str.encode}.get(type(value), lambda same: same)(value)

    return lambda *arguments: turned(solution(*arguments))


def spoils(position):
    """Wraps a solution: its result, and afterwards one argument is another."""

    def of(solution):
        def answer(*arguments):
            result = copy.deepcopy(solution(*arguments))
            spoil(arguments[position])
            return result

        return answer

    return of


def can_be_spoiled(value):
    return isinstance(value, torch.Tensor | nn.Module | list | dict) or hasattr(value, "absmax")


def spoil(value):
    if isinstance(value, torch.Tensor):
        with torch.no_grad():
            value.data.fill_(1) if (value != 1).any() else value.data.fill_(0)
    elif isinstance(value, nn.Module):
        first = next(value.parameters(), None)
        spoil(first) if first is not None else value.train(not value.training)
    elif isinstance(value, list):
        value.append(value[0])
    elif isinstance(value, dict):
        del value[next(iter(value))]
    else:
        value.absmax.add_(1)


def first_arguments(key):
    return next(iter(EXERCISES[key].cases()))


def places_to_spoil(key):
    return [position for position, value in enumerate(first_arguments(key)) if can_be_spoiled(value)]


GENERIC = [(key, make) for key in EXERCISES for make in (prints, returns_none, raises, of_another_kind)]
SPOILED = [(key, position) for key in EXERCISES for position in places_to_spoil(key)]
NOTHING_TO_SPOIL = {  # their arguments are numbers
    *("01.2", "03.2", "05.3", "07.1", "07.4", "08.1", "08.4", "09.3", "11.2", "13.2"),
}


@pytest.mark.parametrize(("key", "make"), GENERIC, ids=[f"{key}-{make.__name__}" for key, make in GENERIC])
def test_no_generic_wrong_answer_is_taken(key, make):
    status = check(key, make(EXERCISES[key].solution))
    tried = key == "05.1" or isinstance(
        EXERCISES[key], WrittenTest
    )  # its model is changed; its candidates may raise
    assert status == HINT or (status == NOT_ATTEMPTED and make is returns_none)
    assert tried or (status == NOT_ATTEMPTED) == (make is returns_none)


@pytest.mark.parametrize(("key", "position"), SPOILED)
def test_no_answer_that_spoils_an_argument_is_taken(key, position):
    assert check(key, spoils(position)(EXERCISES[key].solution)) == HINT


def test_the_exercises_without_an_argument_to_spoil_are_known():
    tests = {key for key, exercise in EXERCISES.items() if isinstance(exercise, WrittenTest)}  # of a function
    assert {key for key in EXERCISES if not places_to_spoil(key)} == NOTHING_TO_SPOIL | tests


# ------------------------------------------------ answers that once passed, each with what is said now


def only_switches_off(model):
    trains = []
    for name, parameter in model.named_parameters():
        if name.endswith(("lora_A", "lora_B")):
            trains.append(parameter)
        else:
            parameter.requires_grad_(False)
    return trains


def copies(model):
    return [parameter.clone() for parameter in EXERCISES["05.1"].solution(model)]


def one_dtype(model):
    size = next(model.parameters()).element_size()
    return 2 * size * sum(p.numel() for p in model.parameters() if p.requires_grad)


def at_most_the_share(S, share):
    kept = S.square().cumsum(0) / S.square().sum()
    return int((kept <= share).sum()) + 1


def base_changed(x, W, lora_A, lora_B, lora_alpha):
    W += lora_alpha / len(lora_A) * lora_B @ lora_A
    return x @ W.T


def cut_in_place(W, r):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return W.copy_(U[:, :r] * S[:r] @ Vh[:r])


def update_in_place(W, W_tuned, r):
    U, S, Vh = torch.linalg.svd(W_tuned - W, full_matrices=False)
    W += U[:, :r] * S[:r] @ Vh[:r]
    return W


class KeepsInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, packed, quant_state):
        ctx.save_for_backward(x, packed)
        ctx.quant_state = quant_state
        return x @ dequantize_nf4(packed, quant_state).T

    @staticmethod
    def backward(ctx, grad_y):
        _, packed = ctx.saved_tensors
        return grad_y @ dequantize_nf4(packed, ctx.quant_state), None, None


def levels_in_float32(offset):
    positive = torch.special.ndtri(torch.linspace(offset, 0.5, 9)[:-1])
    negative = -torch.special.ndtri(torch.linspace(offset, 0.5, 8)[:-1])
    levels = torch.cat([negative, torch.zeros(1), positive]).sort().values
    return levels / levels[-1]


counted = EXERCISES["03.1"].solution
ONCE_TAKEN = [
    ("05.1", only_switches_off, "`requires_grad` is True for lora_A and lora_B"),
    ("05.1", copies, "the model's own parameters"),
    ("08.3", lambda i: i[::2].long() * 16 + i[1::2], "the result is uint8"),
    ("08.3", lambda i: i[::2].float() * 16 + i[1::2], "in torch.float32; numbers of the kind of torch.uint8"),
    ("05.4", one_dtype, "one dtype for all"),
    ("02.2", at_most_the_share, "mind the case where both are equal"),
    ("03.3", lambda shapes, r, bits: sum(r * (m + n) for m, n in shapes) * bits // 8, "2.5 bytes"),
    ("04.1", base_changed, "changes `W` in place"),
    ("01.3", cut_in_place, "changes `W` in place"),
    ("02.3", update_in_place, "changes `W` in place"),
    ("09.2", KeepsInputs.apply, "x is not kept"),
    ("08.1", levels_in_float32, "the levels are float64"),
    ("08.1", lambda offset: levels_in_float32(offset).double(), "float32 on the way"),
    ("01.2", lambda m, n, r: min(m * n, r * (m + n)), "You stop at m n"),
    ("03.1", lambda config, r: float(counted(config, r)), "right, but a float; a whole number"),
    ("11.2", lambda memory, base, adapter: max(0.0, (memory - base) // adapter), "whole number"),
]


@pytest.mark.parametrize(("key", "answer", "told"), ONCE_TAKEN)
def test_an_answer_that_once_passed_is_told(key, answer, told, capsys):
    assert check(key, answer) == HINT
    assert told in capsys.readouterr().out


# ------------------------------------------------ print, and change in place, for return


def printed(config, r):
    print(counted(config, r))


def merges_in_place(W, lora_A, lora_B, lora_alpha):
    W += lora_alpha / len(lora_A) * lora_B @ lora_A


@pytest.mark.parametrize(
    ("key", "answer", "told"),
    [
        ("03.1", printed, "03.1 hint. Your function prints 816; the check needs `return`.\n"),
        ("00.1", prints(EXERCISES["00.1"].solution), "prints 0.25; the check needs `return`."),
        (
            "04.2",
            merges_in_place,
            "04.2 hint. Your function changes `W` in place and returns nothing; the check",
        ),
        ("05.1", returns_none(EXERCISES["05.1"].solution), "changes `model` in place and returns nothing"),
        ("01.2", lambda m, n, r: None, "ends without `return`"),
    ],
)
def test_what_stands_in_the_place_of_return_is_told(key, answer, told, capsys):
    check(key, answer)
    assert told in capsys.readouterr().out


def test_a_path_without_return_is_told(capsys):
    def answer(marks):
        if any(marks):
            return sum(marks) / len(marks)
        print("none")
        return None

    check("00.1", answer)
    told = "For ([False, False, False]) it prints none and returns nothing; the check needs `return`."
    assert told in capsys.readouterr().out


def test_what_a_function_prints_is_shown_once_below_the_verdict(capsys):
    def answer(config, r):
        print("rank", r)
        return counted(config, r)

    assert check("03.1", answer) == PASS
    assert capsys.readouterr().out == "03.1 pass. Right.\n  It printed:\n  rank 3\n"


# ------------------------------------------------ numbers of numpy, and other forms


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64])
def test_a_whole_number_of_numpy_is_a_number(kind):
    assert check("03.1", lambda config, r: kind(counted(config, r))) == PASS


@pytest.mark.parametrize("kind", [np.float64, np.float32, float])
def test_a_number_of_numpy_is_a_number(kind):
    assert check("00.1", lambda marks: kind(sum(marks) / len(marks))) == PASS


FORMS = [
    (
        "03.1",
        lambda *sizes: torch.tensor(counted(*sizes)),
        "a tensor; `.item()` makes it a plain number",
    ),
    (
        "03.1",
        lambda *sizes: np.array(counted(*sizes)),
        "a numpy array; `.item()` makes it a plain number",
    ),
    ("03.1", lambda *sizes: np.float64(counted(*sizes)), "a float64; a whole number (int) is wanted"),
    ("03.1", lambda *sizes: str(counted(*sizes)), "of type str; int is wanted"),
    ("06.2", lambda *a: (path for path in EXERCISES["06.2"].solution(*a)), "a generator; a list is wanted"),
    ("06.2", lambda *a: map(str, EXERCISES["06.2"].solution(*a)), "a map; a list is wanted"),
    ("12.2", lambda model: dict(EXERCISES["12.2"].solution(model)), "a dict; a list is wanted"),
    ("01.1", lambda W, X: (X @ W.T).numpy(), "a numpy array; `torch.from_numpy` makes it a tensor"),
    ("01.1", lambda W, X: (X @ W.T).tolist(), "a list; `torch.tensor` makes it one"),
]


@pytest.mark.parametrize(("key", "answer", "told"), FORMS)
def test_a_right_result_in_another_form_is_told(key, answer, told, capsys):
    assert check(key, answer) == HINT
    assert f"right, but {told}" in capsys.readouterr().out


def test_a_generator_without_end_is_told(capsys):
    def answer(model, targets):
        while True:
            yield "path"

    assert check("06.2", answer) == HINT
    assert "a generator, not" in capsys.readouterr().out


# ------------------------------------------------ what a hint shows


def test_numbers_are_short_and_small_inputs_are_shown(capsys):
    check("01.4", lambda W, W_hat: (W - W_hat).abs().sum().item() / 7)
    text = capsys.readouterr().out
    assert "For (tensor([[3, 0], [0, 4]]), tensor([[0, 0], [0, 4]])) it returns 0.428571, not 0.6." in text


@pytest.mark.parametrize(
    ("key", "answer", "multiple"),
    [
        ("02.1", lambda X, E: 0.01 * E.T @ X, "0.01"),
        ("03.1", lambda config, r: 3 * counted(config, r), "3"),
        ("09.3", lambda *sizes: [7 * size for size in EXERCISES["09.3"].solution(*sizes)], "7"),
    ],
)
def test_a_factor_common_to_all_results_is_told(key, answer, multiple, capsys):
    check(key, answer)
    assert capsys.readouterr().out.endswith(f" Each result is {multiple} times the right one.\n")


def test_products_that_do_not_chain_are_explained(capsys):
    check("04.3", lambda x, grad_y, A, B, scaling: (x @ A, x))
    assert "does not chain: the two inner numbers must be equal." in capsys.readouterr().out
    check("11.3", lambda h, down, up: h @ down)
    assert "Transposed, the second would fit." in capsys.readouterr().out


def test_an_exception_of_the_same_type_is_not_taken_for_a_known_mistake(capsys):
    def answer(X, E):
        raise RuntimeError("another reason")

    check("02.1", answer)
    assert "raises RuntimeError for" in capsys.readouterr().out


# ------------------------------------------------ two levels, or two answers, are never equally near


def test_no_weight_lies_between_two_levels():
    for x, code in EXERCISES["07.2"].cases():
        assert nearest_two_differ(torch.tensor([x]), code)
    for W, code, blocksize in EXERCISES["07.3"].cases():
        blocks = W.view(-1, blocksize)
        assert nearest_two_differ(blocks / blocks.abs().amax(1, keepdim=True), code)
    for (block,) in EXERCISES["08.2"].cases():
        assert nearest_two_differ(block, torch.linspace(block.min().item(), block.max().item(), 16))


def nearest_two_differ(x, levels):
    distances = (x.double().flatten()[:, None] - levels.double()).abs().sort(dim=1).values
    return bool(((distances[:, 1] - distances[:, 0]) > 1e-4 * (levels[-1] - levels[0])).all())


def test_no_choice_is_a_draw():
    for validation, _ in EXERCISES["05.2"].cases():
        best = validation.median(dim=1).values.sort().values
        assert best[-1] - best[-2] > 1e-3
    for (ledger,) in EXERCISES["12.4"].cases():
        groups = ("activations", "logits"), ("weights", "quantization constants")
        sums = [sum(map(ledger.get, group)) for group in (*groups, ("adapters", "gradients", "optimizer"))]
        assert sorted(sums)[-1] > sorted(sums)[-2]


def test_no_share_is_met_but_where_every_order_of_operations_meets_it():
    for S, share in EXERCISES["02.2"].cases():
        kept = (S / S.norm()).square().cumsum(0)
        exact = S.square().cumsum(0) / S.square().sum()
        assert torch.equal(kept < share, exact < share) or (kept - share).abs().min() > 1e-6


def test_singular_values_are_apart():
    for W, _ in EXERCISES["01.3"].cases():
        S = torch.linalg.svdvals(W)
        assert (S[:-1] - S[1:]).min() > 1e-3
    for W, W_tuned, _ in EXERCISES["02.3"].cases():
        S = torch.linalg.svdvals(W_tuned - W)
        assert (S[:-1] - S[1:]).min() > 1e-3


# ------------------------------------------------ whatever comes, a check answers


class Abandon(BaseException):
    """What is no Exception, as an exit or a cancelled task is not."""


def abandons(*_):
    raise Abandon


def closes_its_output(*_):
    sys.stdout.close()
    return 1


class EndsWrong:
    """An iterator that breaks."""

    def __iter__(self):
        return self

    def __next__(self):
        raise Abandon


@pytest.mark.parametrize("key", ["00.1", "01.1", "06.2", "12.1"])
@pytest.mark.parametrize(
    "answer",
    [
        abandons,
        closes_its_output,
        lambda *_: EndsWrong(),
        lambda *_: {1, "a"},
        lambda *_: np.array([object()]),
        lambda *_: torch.ones(2, device="meta"),
        lambda *_: torch.eye(3).to_sparse(),
        lambda *_: [[]] * 3,
        lambda *_: float("inf"),
        lambda *_: complex(1, 1),
        lambda *_: "9" * 5000,
        lambda: None,
        type,
    ],
)
def test_a_check_answers_whatever_comes(key, answer, capsys):
    assert check(key, answer) == HINT
    assert capsys.readouterr().out.startswith(f"{key} hint. ")


@pytest.mark.parametrize(
    "key", ["", ".", "04", "04.1\0", "\0.1", "../x.1", "²²²²²²²²².1", 4.1, ["04.1"], b"04.1"]
)
def test_an_id_that_is_none_is_told(key, capsys):
    assert check(key, len) == HINT
    assert capsys.readouterr().out.startswith("There is no exercise ")
