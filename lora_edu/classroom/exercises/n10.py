"""Exercises of notebook 10."""

import json

import torch
from torch import Tensor, nn

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.classroom.experiments.merging import kept_share

# ---------------------------------------------------------------- 10.1 exact_match(answers, references)


def exact_match(answers: list[str], references: list[dict]) -> float:
    """Share of answers (0 to 1) that are JSON and equal their reference."""

    def is_right(answer: str, reference: dict) -> bool:
        try:
            return json.loads(answer) == reference
        except json.JSONDecodeError:
            return False

    return sum(map(is_right, answers, references)) / len(references)


def _compares_text(answers, references):
    pairs = zip(answers, references, strict=True)
    return sum(answer == json.dumps(reference) for answer, reference in pairs) / len(references)


def _stops_at_malformed(answers, references):
    pairs = zip(answers, references, strict=True)
    return sum(json.loads(answer) == reference for answer, reference in pairs) / len(references)


def _drops_malformed(answers, references):
    def is_json(text):
        try:
            json.loads(text)
        except json.JSONDecodeError:
            return False
        return True

    pairs = [(a, r) for a, r in zip(answers, references, strict=True) if is_json(a)]
    return sum(json.loads(a) == r for a, r in pairs) / max(1, len(pairs))


def _counts_fields(answers, references):
    def share(answer, reference):
        try:
            fields = json.loads(answer)
        except json.JSONDecodeError:
            return 0
        return sum(fields.get(key) == value for key, value in reference.items()) / len(reference)

    return sum(map(share, answers, references)) / len(references)


def _count_of_right(answers, references):
    return round(exact_match(answers, references) * len(references))


def _percent_of_right(answers, references):
    return 100 * exact_match(answers, references)


def _answer_sheets():
    event = {"who": "Ada", "what": "rowing", "where": "Ulm", "day": "Monday", "time": "9:00"}
    other = {**event, "who": "Bo", "time": "17:30"}
    reordered = json.dumps(dict(reversed(event.items())))
    yield [json.dumps(event), json.dumps(other)], [event, other]
    yield [reordered, json.dumps(other, indent=1)], [event, other]
    yield [json.dumps(event), json.dumps(event), "{}", "{}"], [event, other, event, event]
    yield [json.dumps(event), json.dumps(other)[:-1]], [event, other]
    yield ["", "I am not sure.", json.dumps(event)], [event, other, event]


def _order_of_rows(function, answers, references) -> bool:
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = function([answers[i] for i in order], [references[i] for i in order])
    return abs(function(answers, references) - shuffled) < 1e-9


# ---------------------------------------------------------------- 10.2 trainable_fraction(model)


def trainable_fraction(model: nn.Module) -> float:
    """Share of a model's parameters that training will change (0 to 1)."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable / sum(p.numel() for p in model.parameters())


def _counts_tensors(model):
    parameters = list(model.parameters())
    return sum(p.requires_grad for p in parameters) / len(parameters)


def _trainable_over_frozen(model):
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable / max(1, sum(p.numel() for p in model.parameters() if not p.requires_grad))


def _as_percent(model):
    return 100 * trainable_fraction(model)


def _frozen_fraction(model):
    return 1 - trainable_fraction(model)


def _count_only(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _models():
    for frozen in ([], [0], [0, 2], [0, 1, 2]):
        model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4, bias=False), nn.Linear(4, 3))
        for index in frozen:
            model[index].requires_grad_(False)
        yield (model,)


# ---------------------------------------------------------------- 10.3 kept_share(before, after, update)


def _ratio_of_norms(before, after, update):
    return ((after - before).norm() / update.norm()).item()


def _share_of_changed_weights(before, after, update):
    return (after != before).double().mean().item()


def _without_before(before, after, update):
    return (after * update).sum().item() / update.square().sum().item()


def _cosine(before, after, update):
    moved = after - before
    return ((moved * update).sum() / (moved.norm() * update.norm()).clamp(min=1e-12)).item()


def _divided_by_what_moved(before, after, update):
    moved = after - before
    return (moved * update).sum().item() / moved.square().sum().clamp(min=1e-12).item()


def _lost_share(before, after, update):
    return 1 - kept_share(before, after, update)


def _merges() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    W, other = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    update = torch.zeros(6, 4, dtype=torch.float64)
    update[:, 1] = 0.1  # in one column: rank 1
    other[:, 1] = 0  # touches none of the update's weights
    return [
        (W, W + update, update),
        (W, W.clone(), update),
        (W, W + update / 4, update),
        (W, W + update / 2 + 0.3 * other, update),
        (W, W - update, update),
    ]


def _noise_is_no_update(function, before, after, update) -> bool:
    noise = torch.where(update == 0, 5.0, 0.0).double()
    return abs(function(before, after + noise, update) - function(before, after, update)) < 1e-6


EXERCISES = {
    "10.1": Exercise(
        solution=exact_match,
        cases=_answer_sheets,
        wrong_answers=(
            WrongAnswer(
                _compares_text,
                "You compare text. The order of keys and spaces mean nothing in JSON: parse first.",
            ),
            WrongAnswer(
                _stops_at_malformed,
                "One malformed answer stops you. Catch json.JSONDecodeError: it counts as wrong.",
            ),
            WrongAnswer(
                _drops_malformed,
                "You leave malformed answers out. They are wrong answers: divide by all of them.",
            ),
            WrongAnswer(
                _counts_fields, "You give credit for single fields. Exact match wants the whole event."
            ),
            WrongAnswer(
                _count_of_right, "That is the number of right answers. Divide by how many there are."
            ),
            WrongAnswer(_percent_of_right, "That is in percent. Return the share itself, between 0 and 1."),
        ),
        laws=(Law("shuffling the rows leaves the score as it is.", _order_of_rows),),
    ),
    "10.2": Exercise(
        solution=trainable_fraction,
        cases=_models,
        wrong_answers=(
            WrongAnswer(
                _counts_tensors, "You count tensors. A matrix of 128 numbers weighs more than a bias of 8."
            ),
            WrongAnswer(
                _trainable_over_frozen, "You divide by the frozen parameters. Divide by all of them."
            ),
            WrongAnswer(_as_percent, "That is in percent. Return the share itself, between 0 and 1."),
            WrongAnswer(_frozen_fraction, "That is the frozen share. requires_grad marks what trains."),
            WrongAnswer(
                _count_only, "That is the number of trainable parameters. Divide by the number of all."
            ),
        ),
    ),
    "10.3": Exercise(
        solution=kept_share,
        cases=_merges,
        wrong_answers=(
            WrongAnswer(
                _ratio_of_norms,
                "You compare sizes. Rounding moves weights too, in any direction: only what points along the "
                "update counts.",
            ),
            WrongAnswer(
                _share_of_changed_weights,
                "You count weights that changed. A weight may change by next to nothing, or the wrong way.",
            ),
            WrongAnswer(_without_before, "You look at the whole weight. What did the merge add to `before`?"),
            WrongAnswer(
                _cosine, "That is an angle. A merge that keeps half of every number has angle zero too."
            ),
            WrongAnswer(
                _divided_by_what_moved,
                "You divide by what moved. The question is how much of the *update* arrived.",
            ),
            WrongAnswer(_lost_share, "That is the share that was lost. Return the share that was kept."),
        ),
        laws=(Law("moving weights that the update leaves alone changes nothing.", _noise_is_no_update),),
    ),
}
