"""Exercises of notebook 05b; they are numbered on from those of 05."""

from torch import nn

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.methods.lora import LoRALinear

# ---------------------------------------------------------------- 05.4 adam_state_bytes(model)


def adam_state_bytes(model: nn.Module) -> int:
    """Bytes of both averages of every parameter that trains."""
    return sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _one_average(model):
    return adam_state_bytes(model) // 2


def _with_gradients(model):
    return 3 * adam_state_bytes(model) // 2


def _frozen_too(model):
    return sum(2 * p.numel() * p.element_size() for p in model.parameters())


def _numbers(model):
    return sum(2 * p.numel() for p in model.parameters() if p.requires_grad)


def _one_dtype_for_all(model):
    return _numbers(model) * next(model.parameters()).element_size()


def _last_dtype_for_all(model):
    return _numbers(model) * list(model.parameters())[-1].element_size()


def _always_four_bytes(model):
    return 4 * _numbers(model)


def _bits(model):
    return 8 * adam_state_bytes(model)


def _rows(model):
    return sum(2 * len(p) * p.element_size() for p in model.parameters() if p.requires_grad)


def _models():
    yield (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3).requires_grad_(False)),)
    yield (LoRALinear(nn.Linear(6, 5), r=2, lora_alpha=4).double(),)
    yield (nn.Linear(5, 2).bfloat16(),)
    adapted = LoRALinear(nn.Linear(6, 4).bfloat16(), r=2, lora_alpha=4)  # the adapter stays in float32
    yield (
        nn.Sequential(nn.Linear(4, 6).bfloat16().requires_grad_(False), adapted, nn.Linear(4, 3).bfloat16()),
    )


EXERCISES = {
    "05.4": Exercise(
        solution=adam_state_bytes,
        cases=_models,
        wrong_answers=(
            WrongAnswer(_one_average, "That is one average. Adam keeps two: of g and of g squared."),
            WrongAnswer(_with_gradients, "You count the gradient too. It is not part of the optimizer."),
            WrongAnswer(
                _frozen_too, "You count frozen parameters. Adam keeps nothing for what it does not train."
            ),
            WrongAnswer(_numbers, "Those are numbers. How many bytes has each?"),
            WrongAnswer(
                _always_four_bytes,
                "You take 4 bytes for each number. Not every parameter is float32: ask it.",
            ),
            WrongAnswer(
                _one_dtype_for_all,
                "You take one dtype for all. A 16-bit base may have float32 adapters: ask each parameter.",
                (_last_dtype_for_all,),
            ),
            WrongAnswer(_bits, "Those are bits. A byte has 8 of them."),
            WrongAnswer(_rows, "len(p) counts rows. A matrix has `numel()` numbers."),
        ),
    ),
}
