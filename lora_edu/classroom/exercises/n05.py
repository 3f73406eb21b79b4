"""Exercises of notebook 05; the fourth is in `n05b`."""

import math

import torch
from torch import nn

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.classroom.experiments.tuning import tuned
from lora_edu.methods.lora import LoRALinear

# ---------------------------------------------------------------- 05.1 freeze_all_but_lora(model)


def freeze_all_but_lora(model: nn.Module) -> list[nn.Parameter]:
    """Let B and A train and nothing else; return them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("lora_A", "lora_B")))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _freezes_nothing(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _freezes_everything(model):
    return [p for p in model.requires_grad_(False).parameters() if p.requires_grad]


def _thaws_nothing(model):
    for name, parameter in model.named_parameters():
        if not name.endswith(("lora_A", "lora_B")):
            parameter.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _every_name_with_lora(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora" in name)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _only_B(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("lora_B"))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _names(model):
    freeze_all_but_lora(model)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _wrapped_models():
    torch.manual_seed(0)
    layers = {
        "hidden": LoRALinear(nn.Linear(6, 5), r=2, lora_alpha=4),
        "lora_free": nn.Linear(5, 4),
        "head": LoRALinear(nn.Linear(4, 3, bias=False), r=1, lora_alpha=2),
    }
    yield (nn.Sequential(layers["hidden"], nn.ReLU(), nn.Linear(5, 3)),)
    yield (nn.ModuleDict(layers),)
    yield (nn.Sequential(LoRALinear(nn.Linear(6, 5), r=2, lora_alpha=4)).requires_grad_(False),)


def _returns_the_models_own(function, model) -> bool:
    own = {id(parameter) for parameter in model.parameters()}
    return all(id(parameter) in own for parameter in function(model))


def _only_A_and_B_train_afterwards(function, model) -> bool:
    function(model)
    return all(name.endswith(("_A", "_B")) == p.requires_grad for name, p in model.named_parameters())


# ---------------------------------------------------------------- 05.2 tuned(validation, test)


def _by_the_test(validation, test):
    return tuned(test, test)


def _by_the_luckiest_seed(validation, test):
    return test[validation.max(dim=1).values.argmax()]


def _by_the_mean(validation, test):
    return test[validation.mean(dim=1).argmax()]


def _a_rate_for_each_seed(validation, test):
    return test.gather(0, validation.argmax(dim=0, keepdim=True))[0]


def _validation_scores(validation, test):
    return tuned(validation, validation)


def _median_only(validation, test):
    return tuned(validation, test).median()


def _index(validation, test):
    return int(validation.median(dim=1).values.argmax())


def _median_over_rates(validation, test):
    return test[validation.median(dim=0).values.argmax()]


def _tunings():
    validation = [[0.5, 0.6, 0.7], [0.2, 0.8, 0.9], [0.75, 0.76, 0.77], [0.1, 0.3, 0.98]]
    test = [[0.52, 0.61, 0.66], [0.30, 0.70, 0.88], [0.72, 0.79, 0.74], [0.20, 0.81, 0.96]]
    yield torch.tensor(validation), torch.tensor(test)
    generator = torch.Generator().manual_seed(0)
    for rates, seeds in ((5, 3), (3, 3)):
        yield tuple(torch.rand(2, rates, seeds, generator=generator))


# ---------------------------------------------------------------- 05.3 scaling(r, lora_alpha, use_rslora)


def scaling(r: int, lora_alpha: float, use_rslora: bool) -> float:
    """What BA is multiplied by."""
    return lora_alpha / (math.sqrt(r) if use_rslora else r)


def _alpha(r, lora_alpha, use_rslora):
    return lora_alpha


def _never_a_root(r, lora_alpha, use_rslora):
    return lora_alpha / r


def _always_a_root(r, lora_alpha, use_rslora):
    return lora_alpha / math.sqrt(r)


def _the_other_way_round(r, lora_alpha, use_rslora):
    return scaling(r, lora_alpha, not use_rslora)


def _root_of_all(r, lora_alpha, use_rslora):
    return math.sqrt(lora_alpha / r) if use_rslora else lora_alpha / r


def _r_over_alpha(r, lora_alpha, use_rslora):
    return 1 / scaling(r, lora_alpha, use_rslora)


def _rank_squared(r, lora_alpha, use_rslora):
    return lora_alpha / (r**2 if use_rslora else r)


def _settings():
    return [(8, 16, False), (16, 4.0, True), (1, 3, True), (4, 4, True), (64, 16, False)]


EXERCISES = {
    "05.1": Exercise(
        solution=freeze_all_but_lora,
        cases=_wrapped_models,
        wrong_answers=(
            WrongAnswer(
                _freezes_nothing,
                "You return what trains already. Layers that were not wrapped still train: the base keeps a gradient.",
            ),
            WrongAnswer(_freezes_everything, "Now nothing trains. A and B must keep their gradient."),
            WrongAnswer(
                _thaws_nothing,
                "You only switch off. A and B may have been frozen before: whatever trained before, they train now.",
            ),
            WrongAnswer(
                _every_name_with_lora,
                "You take every name that contains 'lora'. A layer of the base may have such a name: look at its end.",
            ),
            WrongAnswer(_only_B, "B alone trains. A trains as well: it moves once B has left zero."),
            WrongAnswer(_names, "Those are the names. The optimizer needs the parameters themselves."),
        ),
        laws=(
            Law(
                "afterwards `requires_grad` is True for lora_A and lora_B and False for all others.",
                _only_A_and_B_train_afterwards,
            ),
            Law(
                "what you return are the model's own parameters. A step on copies trains nothing.",
                _returns_the_models_own,
            ),
        ),
        may_change=frozenset({"requires_grad"}),
    ),
    "05.2": Exercise(
        solution=tuned,
        cases=_tunings,
        wrong_answers=(
            WrongAnswer(
                _by_the_test,
                "You choose by the test scores. Then they no longer say how well new digits are read.",
            ),
            WrongAnswer(
                _by_the_luckiest_seed,
                "You choose by the best single seed. That rewards luck: take the median over seeds first.",
            ),
            WrongAnswer(
                _by_the_mean, "You choose by the mean. One failed seed can decide it: take the median."
            ),
            WrongAnswer(
                _a_rate_for_each_seed,
                "Each seed gets a rate of its own. One rate is chosen for all seeds, or luck is tuned too.",
            ),
            WrongAnswer(
                _validation_scores,
                "The rate is right, but those are the validation scores that chose it. Return the test scores.",
            ),
            WrongAnswer(
                _median_only, "That is the median alone. Return the score of every seed, to show the spread."
            ),
            WrongAnswer(_index, "That is the number of the row. Return this row of `test`."),
            WrongAnswer(
                _median_over_rates,
                "dim=0 runs over rates. A median over the seeds, one for each rate, is along dim=1.",
            ),
        ),
    ),
    "05.3": Exercise(
        solution=scaling,
        cases=_settings,
        wrong_answers=(
            WrongAnswer(_alpha, "That is alpha itself. Is alpha divided by anything?"),
            WrongAnswer(_never_a_root, "You divide by r in both cases. Rank-stabilized LoRA takes its root."),
            WrongAnswer(_always_a_root, "You take the root in both cases. Plain LoRA divides by r itself."),
            WrongAnswer(_the_other_way_round, "The two cases have changed places."),
            WrongAnswer(_root_of_all, "The root is taken of r alone, not of alpha."),
            WrongAnswer(_r_over_alpha, "Upside down: alpha is the numerator."),
            WrongAnswer(_rank_squared, "You square r. Its square root is `r**0.5`."),
        ),
    ),
}
