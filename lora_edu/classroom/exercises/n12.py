"""Exercises of notebook 12."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.methods.lora import LoRALinear

# ---------------------------------------------------------------- 12.1 loss_scale_step(gradient, scale)


def loss_scale_step(gradient: Tensor, scale: float) -> tuple[Tensor | None, float]:
    """What the optimizer gets of a scaled fp16 gradient, and the scale of the next step."""
    if gradient.isfinite().all():
        return gradient.float() / scale, scale
    return None, scale / 2


def _unscales_in_half(gradient, scale):
    return (gradient / scale, scale) if gradient.isfinite().all() else (None, scale / 2)


def _never_skips(gradient, scale):
    return gradient.float() / scale, scale


def _cleans(gradient, scale):
    finite = bool(gradient.isfinite().all())
    return torch.nan_to_num(gradient.float(), 0.0, 0.0, 0.0) / scale, scale if finite else scale / 2


def _looks_for_nan_alone(gradient, scale):
    return (None, scale / 2) if gradient.isnan().any() else (gradient.float() / scale, scale)


def _keeps_the_scale(gradient, scale):
    return loss_scale_step(gradient, scale)[0], scale


def _doubles_the_scale(gradient, scale):
    return (gradient.float() / scale, scale) if gradient.isfinite().all() else (None, 2 * scale)


def _multiplies(gradient, scale):
    return (gradient.float() * scale, scale) if gradient.isfinite().all() else (None, scale / 2)


def _any_finite(gradient, scale):
    return (gradient.float() / scale, scale) if gradient.isfinite().any() else (None, scale / 2)


def _scaled_gradients() -> Iterator[tuple[Tensor, float]]:
    # 1000 is no power of two, so that dividing in fp16 rounds where the comparison sees it.
    yield torch.tensor([100.3, -31.7, 0.7]).half(), 1000.0
    yield torch.tensor([0.25, -8.0, 0.0]).half(), 65536.0
    yield torch.tensor([1.0, float("inf"), -2.0]).half(), 65536.0
    yield torch.tensor([float("nan"), 2.0]).half(), 1024.0
    yield torch.tensor([float("inf")] * 2).half(), 8.0


def _saves_the_smallest(function, *_) -> bool:
    unscaled, _ = function(torch.tensor([2.0**-10]).half(), 2.0**16)
    return unscaled.item() == 2.0**-26


# ---------------------------------------------------------------- 12.2 update_sizes(model)


@torch.no_grad()
def update_sizes(model: nn.Module) -> list[tuple[str, float]]:
    """For each LoRA layer its path, and the norm of its update as a share of that of its weight."""
    return [
        (path, (layer.delta_weight().norm() / _norm_of_W(layer)).item())
        for path, layer in _lora_layers(model)
    ]


def _norm_of_W(layer: LoRALinear) -> Tensor:
    return cast(Tensor, layer.base_layer.weight).norm()


def _lora_layers(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(path, layer) for path, layer in model.named_modules() if isinstance(layer, LoRALinear)]


@torch.no_grad()
def _without_scaling(model):
    scalings = [layer.scaling for _, layer in _lora_layers(model)]
    return [(path, size / s) for (path, size), s in zip(update_sizes(model), scalings, strict=True)]


@torch.no_grad()
def _absolute(model):
    return [(path, layer.delta_weight().norm().item()) for path, layer in _lora_layers(model)]


@torch.no_grad()
def _product_of_norms(model):
    return [
        (path, (layer.scaling * layer.lora_B.norm() * layer.lora_A.norm() / _norm_of_W(layer)).item())
        for path, layer in _lora_layers(model)
    ]


@torch.no_grad()
def _norm_of_B(model):
    return [(path, (layer.lora_B.norm() / _norm_of_W(layer)).item()) for path, layer in _lora_layers(model)]


def _only_those_that_act(model):
    return [(path, size) for path, size in update_sizes(model) if size > 0]


def _unnamed(model):
    return [size for _, size in update_sizes(model)]


def _squared(model):
    return [(path, size**2) for path, size in update_sizes(model)]


def _adapted_models() -> Iterator[tuple[nn.Module]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second, third = (
            LoRALinear(nn.Linear(6, 5), r=2, lora_alpha=alpha, use_rslora=rs)
            for alpha, rs in ((6, False), (4, True), (4, False))
        )
        for layer in (first, second):  # the third keeps B = 0
            nn.init.normal_(layer.lora_B)
        block = nn.ModuleDict({"q": second, "v": third, "norm": nn.LayerNorm(5)})
    yield (nn.Sequential(first, nn.ReLU(), nn.Linear(5, 3)),)
    yield (nn.ModuleDict({"block": block}),)


# ---------------------------------------------------------------- 12.3 score(model, X, y)


@torch.no_grad()
def score(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """The share of right answers in evaluation mode; the model is left in the mode that it was in."""
    was_training = model.training
    model.eval()
    right = (model(X).argmax(dim=1) == y).double().mean().item()
    model.train(was_training)
    return right


@torch.no_grad()
def _measures_in_training_mode(model, X, y):
    return (model(X).argmax(dim=1) == y).double().mean().item()


@torch.no_grad()
def _stays_in_eval(model, X, y):
    model.eval()
    return _measures_in_training_mode(model, X, y)


@torch.no_grad()
def _always_ends_in_train(model, X, y):
    right = _stays_in_eval(model, X, y)
    model.train()
    return right


def _counts(model, X, y):
    return len(y) * score(model, X, y)


def _wrong_axis(model, X, y):
    was_training = model.training
    right = (model.eval()(X).argmax(dim=0)[: len(y)] == y[: X.shape[1]]).double().mean().item()
    model.train(was_training)
    return right


def _error_rate(model, X, y):
    return 1 - score(model, X, y)


def _models_to_score() -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """The second and the fourth case show, by their labels, in which mode the case before left the model."""
    X, y = torch.eye(4)[[0, 1, 2, 3, 3]], torch.tensor([0, 1, 2, 3, 0])
    for training in (True, False):
        model = nn.Sequential(nn.Dropout(p=1.0)).train(training)  # in training mode every score is 0
        yield model, X, y
        yield model, X, y if model.training == training else y.flip(0)


def _no_number_is_drawn(function, model, X, y) -> bool:
    before = torch.get_rng_state()
    function(nn.Sequential(nn.Dropout(p=0.5)), X, y)
    return torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- 12.4 which_knob(ledger)

GROUPS = {
    "tokens": ("activations", "logits"),
    "weights": ("weights", "quantization constants"),
    "adapters": ("adapters", "gradients", "optimizer"),
}


def which_knob(ledger: dict[str, int]) -> str:
    """The group of `GROUPS` that holds most bytes."""
    return max(GROUPS, key=lambda group: sum(ledger[term] for term in GROUPS[group]))


def _largest_term(ledger):
    return max(GROUPS, key=lambda group: max(ledger[term] for term in GROUPS[group]))


def _always_tokens(ledger):
    return "tokens"


def _smallest(ledger):
    return min(GROUPS, key=lambda group: sum(ledger[term] for term in GROUPS[group]))


def _without_logits(ledger):
    return which_knob(ledger | {"logits": 0})


def _without_optimizer(ledger):
    return which_knob(ledger | {"optimizer": 0, "gradients": 0})


def _bytes_of_it(ledger):
    return max(sum(ledger[term] for term in terms) for terms in GROUPS.values())


def _ledgers() -> list[tuple[dict[str, int]]]:
    terms = [term for group in GROUPS.values() for term in group]
    rows = (
        (32, 2, 4, 1, 1, 1, 1),  # activations
        (6, 6, 10, 0, 1, 0, 1),  # activations and logits together
        (4, 1, 12, 2, 1, 1, 1),  # weights
        (3, 1, 6, 0, 4, 4, 8),  # what trains
        (2, 1, 5, 0, 3, 2, 3),  # the three parts of what trains together
        (1, 9, 8, 1, 1, 1, 1),  # logits
    )
    ledgers = (dict(zip(terms, row, strict=True)) for row in rows)
    return [(ledger | {"workspace": 3, "process": 0},) for ledger in ledgers]


EXERCISES = {
    "12.1": Exercise(
        solution=loss_scale_step,
        cases=_scaled_gradients,
        wrong_answers=(
            WrongAnswer(
                _unscales_in_half,
                "You divide in fp16. What scaling had saved is rounded, or becomes 0 again: go to float32 first.",
            ),
            WrongAnswer(_never_skips, "You hand on infinite gradients. One such step ruins every weight."),
            WrongAnswer(
                _cleans,
                "You replace what is not finite and step all the same. The true gradient is unknown: skip the step.",
            ),
            WrongAnswer(
                _looks_for_nan_alone, "You look for nan alone. Overflow gives inf first: ask `isfinite`."
            ),
            WrongAnswer(
                _keeps_the_scale,
                "The step is skipped, but the scale stays. Then the next step overflows too, for ever.",
            ),
            WrongAnswer(
                _doubles_the_scale,
                "After an overflow the scale grows. It was too large already: which way must it go?",
            ),
            WrongAnswer(_multiplies, "You multiply by the scale. The loss was multiplied: undo it."),
            WrongAnswer(
                _any_finite,
                "You step as soon as one number is finite. A single infinite one spoils its weight: ask for `all`.",
            ),
        ),
        laws=(
            Law(
                "a gradient of 2**-10 at scale 2**16 comes back as 2**-26, which fp16 cannot hold.",
                _saves_the_smallest,
            ),
        ),
    ),
    "12.2": Exercise(
        solution=update_sizes,
        cases=_adapted_models,
        wrong_answers=(
            WrongAnswer(
                _without_scaling, "B A alone is not what is added. The scaling belongs to the update."
            ),
            WrongAnswer(
                _absolute, "Those are norms. Large or small compared with what? Divide by that of W."
            ),
            WrongAnswer(
                _product_of_norms,
                "You multiply norms. The norm of a product is smaller: multiply the matrices first.",
            ),
            WrongAnswer(_norm_of_B, "You look at B alone. The update is the product of B and A, scaled."),
            WrongAnswer(
                _only_those_that_act,
                "You leave out layers whose update is zero. Those are the ones that one is looking for.",
            ),
            WrongAnswer(_unnamed, "Which size belongs to which layer? Return pairs of path and size."),
            WrongAnswer(_squared, "Those are squares. A norm has a root."),
        ),
    ),
    "12.3": Exercise(
        solution=score,
        cases=_models_to_score,
        wrong_answers=(
            WrongAnswer(
                _measures_in_training_mode,
                "You measure in the mode that the model is in. With dropout on, the score is a matter of luck.",
            ),
            WrongAnswer(
                _stays_in_eval,
                "The score is right, but the model stays in evaluation mode: training goes on without dropout.",
            ),
            WrongAnswer(
                _always_ends_in_train,
                "You always end in training mode. Give back the mode that you found: it may have been the other.",
            ),
            WrongAnswer(_counts, "That is a count. Divide by the number of examples."),
            WrongAnswer(_wrong_axis, "dim=0 runs over examples. The classes of one example are along dim=1."),
            WrongAnswer(_error_rate, "That is the share of wrong answers."),
        ),
        laws=(Law("no random number is drawn while you measure.", _no_number_is_drawn, of_process=True),),
    ),
    "12.4": Exercise(
        solution=which_knob,
        cases=_ledgers,
        wrong_answers=(
            WrongAnswer(
                _largest_term, "You take the largest single term. Terms that one knob moves add up first."
            ),
            WrongAnswer(_always_tokens, "Often true, but not always. Compare the three sums of this ledger."),
            WrongAnswer(_smallest, "That is the smallest group. Turning its knob frees least."),
            WrongAnswer(
                _without_logits, "You leave out the logits. They grow with the tokens, as activations do."
            ),
            WrongAnswer(
                _without_optimizer,
                "You count the adapters alone. Each trained number has a gradient and an optimizer's state too.",
            ),
            WrongAnswer(_bytes_of_it, "Those are its bytes. Return the name of the group."),
        ),
    ),
}
