"""Exercises 05.5, a test of a merge, and 05.6, a training that does not train."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises.n04 import EXERCISES as OF_04
from lora_edu.classroom.exercises.n04 import merge
from lora_edu.classroom.written_tests import written_test
from lora_edu.methods.lora import LoRALinear

# ---------------------------------------------------------------- 05.5 keeps_outputs(candidate)


def _parts(out_features: int = 5, in_features: int = 4, r: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """W (out, in), A (r, in) and B (out, r)."""
    return torch.randn(out_features, in_features), torch.randn(r, in_features), torch.randn(out_features, r)


def _keeps(candidate: Callable, W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> bool:
    x = torch.randn(3, W.shape[1])
    apart = x @ W.T + lora_alpha / len(lora_A) * x @ lora_A.T @ lora_B.T
    together = x @ candidate(W, lora_A, lora_B, lora_alpha).T
    return torch.allclose(together, apart, rtol=1e-3, atol=1e-3)


def keeps_outputs(candidate: Callable) -> bool:
    """Whether a layer with the merged weight gives what W and the update give together."""
    return _keeps(candidate, *_parts(), 6.0)


def _scaled_last(W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    return W + (lora_B @ lora_A) * lora_alpha / lora_A.shape[0]


def _in_float32(W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    return merge(W.float(), lora_A.float(), lora_B.float(), lora_alpha).to(W.dtype)


def _in_float64(W: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    return merge(W.double(), lora_A.double(), lora_B.double(), lora_alpha).to(W.dtype)


def _alpha_equal_to_r(candidate):
    return _keeps(candidate, *_parts(), 2.0)


def _fresh(candidate):
    W, lora_A, lora_B = _parts()
    return _keeps(candidate, W, lora_A, torch.zeros_like(lora_B), 6.0)


def _all_of_one_side(candidate):
    return _keeps(candidate, *_parts(4, 4, 4), 6.0)


def _symmetric(candidate):
    W, lora_A, _ = _parts(4, 4)
    return _keeps(candidate, W, lora_A, lora_A.T.clone(), 6.0)


def _shape_alone(candidate):
    W, lora_A, lora_B = _parts()
    return candidate(W, lora_A, lora_B, 6.0).shape == W.shape


def _to_the_last_digit(candidate):
    return all(
        torch.equal(candidate(*parts, 6.0), merge(*parts, 6.0)) for parts in (_parts(), _parts(50, 40, 7))
    )


def _a_scaling_that_never_rounds(candidate):
    parts = _parts()
    return torch.equal(candidate(*parts, 16.0), merge(*parts, 16.0))


# ---------------------------------------------------------------- 05.6 train_adapter(base, X, y, seed)


def train_adapter(base: nn.Sequential, X: Tensor, y: Tensor, seed: int) -> list[float]:
    """Losses of ten steps of an adapter over each linear layer of a frozen network."""
    torch.manual_seed(seed)
    model = _wrapped(base)
    return _losses(model, torch.optim.Adam(model.parameters(), lr=0.03), X, y)


def _wrapped(base: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*(LoRALinear(m, 2, 4) if isinstance(m, nn.Linear) else m for m in base))


def _losses(model: nn.Module, optimizer: torch.optim.Optimizer, X: Tensor, y: Tensor) -> list[float]:
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _planted(base: nn.Sequential, X: Tensor, y: Tensor, seed: int) -> list[float]:
    torch.manual_seed(seed)
    model, losses = base, []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    model = nn.Sequential(*(LoRALinear(m, 2, 4) if isinstance(m, nn.Linear) else m for m in model))
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _trained(parameters: Callable[[nn.Sequential], Iterable[nn.Parameter]]) -> Callable:
    """The training of what `parameters` finds in the wrapped model."""

    def training(base, X, y, seed):
        torch.manual_seed(seed)
        model = _wrapped(base)
        return _losses(model, torch.optim.Adam(parameters(model), lr=0.03), X, y)

    return training


def _thawed_base(base, X, y, seed):
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(base.parameters(), lr=0.03)
    return _losses(_wrapped(base).requires_grad_(True), optimizer, X, y)


def _not_wrapped(base, X, y, seed):
    return _losses(base.requires_grad_(True), torch.optim.Adam(base.parameters(), lr=0.03), X, y)


def _a_new_optimizer_each_step(base, X, y, seed):
    torch.manual_seed(seed)
    model, losses = _wrapped(base), []
    for _ in range(10):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        losses.append(_one_step(model, optimizer, X, y))
    return losses


def _one_step(model, optimizer, X, y):
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(X), y)
    loss.backward()
    optimizer.step()
    return loss.item()


_all_thawed = _trained(lambda model: model.requires_grad_(True).parameters())
_B_alone = _trained(lambda model: [p for name, p in model.named_parameters() if name.endswith("lora_B")])
_first_layer = _trained(lambda model: model[0].parameters())
_all_thawed.__name__, _B_alone.__name__, _first_layer.__name__ = "_all_thawed", "_B_alone", "_first_layer"


def _networks():
    for seed in (0, 1):
        torch.manual_seed(seed)
        base = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
        yield base, torch.randn(12, 6), torch.randint(3, (12,)), seed


EXERCISES = {
    "05.5": written_test(
        solution=keeps_outputs,
        right=(merge, _scaled_last, _in_float32, _in_float64),
        wrong=OF_04["04.2"].wrong_answers,
        weak=(
            WrongAnswer(
                _alpha_equal_to_r,
                "Your alpha equals r, so that the scaling is 1: who leaves it out passes.",
            ),
            WrongAnswer(
                _fresh,
                "Your B is zero, as before training. Then the update is zero, however it is scaled.",
            ),
            WrongAnswer(
                _all_of_one_side,
                "Inputs, outputs and r are equal in your test: who takes one for another passes.",
            ),
            WrongAnswer(
                _symmetric,
                "Your B is A transposed, so the update is symmetric: who turns it over passes.",
            ),
            WrongAnswer(
                _shape_alone, "Every matrix of that shape passes. What should a merged layer give back?"
            ),
            WrongAnswer(
                _to_the_last_digit,
                "Two right ways round differently, so `torch.equal` fails one. `torch.allclose` leaves room.",
                (_a_scaling_that_never_rounds,),
            ),
        ),
    ),
    "05.6": Exercise(
        solution=train_adapter,
        cases=_networks,
        planted=_planted,
        symptom="the loss is the same at every step.",
        wrong_answers=(
            WrongAnswer(
                _thawed_base,
                "The loss falls because W trains now, as in full fine-tuning. A and B stand still, or are not there.",
                (_not_wrapped,),
            ),
            WrongAnswer(
                _all_thawed,
                "A and B train, and so does W. In LoRA W stays frozen.",
            ),
            WrongAnswer(
                _a_new_optimizer_each_step,
                "A new optimizer at each step forgets its averages. Make it once, at the right place.",
            ),
            WrongAnswer(_B_alone, "B alone trains. The optimizer needs A as well."),
            WrongAnswer(_first_layer, "The first layer alone trains. Give the optimizer all of the model."),
        ),
    ),
}
