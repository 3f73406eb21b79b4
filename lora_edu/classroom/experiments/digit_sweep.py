"""Twenty seeds of every way to learn a new task from few digits: the trainings of notebook 05, and their record.

Tools/record_digit_sweep.py runs them and writes data/runs/digit_sweep.json; the notebook reads that and repeats one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lora_edu.classroom import records
from lora_edu.classroom.experiments import digit_reader, digits
from lora_edu.classroom.experiments.tuning import tuned

RECORD = "digit_sweep"
SCRATCH, FULL, LORA, RANDOM, ALONE = "from scratch", "full fine-tuning", "W + BA", "random W + BA", "BA alone"
RANKS, RATES, SEEDS = (1, 2, 4, 8, 16), (0.001, 0.003, 0.01, 0.03, 0.1), 20
ONE_RANK = 8  # for the controls that need no more
SCALING_RANKS, SCALING_RATES = (1, 4, 16, 64), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
FEW, MANY = 20, 200
"""Images that are seen in training."""
SWAPPED_COLUMNS = [2, 5]


def swap_columns(images: Tensor) -> Tensor:
    """Images (n, 8, 8) whose third and sixth columns of pixels have changed places."""
    swapped = images.clone()
    swapped[..., SWAPPED_COLUMNS] = images[..., SWAPPED_COLUMNS[::-1]]
    return swapped


def quarter_turn(images: Tensor) -> Tensor:
    """Images (n, 8, 8) turned to the left."""
    return images.rot90(dims=(1, 2))


TASKS = {"swapped": swap_columns, "turned": quarter_turn}
FINDINGS = {
    "swapped": "Swapped columns: even rank 1 beats full fine-tuning",
    "turned": "Quarter turn: rank counts, and a new network does as well",
}
RATE_FINDINGS = {False: "α / r: 0.03 is best at every rank", True: "α / √r: rank 64 wants less"}
"""By `use_rslora`: what the pictures of the record show, out of sight until the prediction is made."""


@cache
def _base() -> nn.Sequential:
    return digit_reader.base_network()


@cache
def _task(name: str) -> dict[str, digits.Data]:
    return digits.load(TASKS[name])


def new_model(
    way: str, seed: int, r: int = 8, lora_alpha: float | None = None, use_rslora: bool = False
) -> nn.Sequential:
    """A network of notebook 05 before its training on a new task.

    Parameters
    ----------
    way
        ``"from scratch"``: a fresh network, all of which trains. ``"full fine-tuning"``: the base, all of which trains.
        The others train A and B beside both hidden layers, whose W is the base's (``"W + BA"``), drawn at random
        (``"random W + BA"``) or zero (``"BA alone"``); biases and the last layer are the base's, frozen.
    seed
        From which all random numbers start.
    r, lora_alpha, use_rslora
        As in `LoRALinear`; lora_alpha is 2 r if left out.

    Raises
    ------
    ValueError
        If there is no such way.
    """
    ways = (SCRATCH, FULL, LORA, RANDOM, ALONE)
    if way not in ways:
        raise ValueError(f"way must be one of {', '.join(ways)}, got {way!r}")
    model = copy.deepcopy(_base())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in model:
            if isinstance(layer, nn.Linear) and way == SCRATCH:
                layer.reset_parameters()
        if way in (SCRATCH, FULL):
            return model.requires_grad_()
        for place in digit_reader.HIDDEN:
            layer = model[place]
            assert isinstance(layer, nn.Linear)
            if way == RANDOM:
                nn.init.kaiming_uniform_(layer.weight, a=5**0.5)  # as nn.Linear starts
            elif way == ALONE:
                nn.init.zeros_(layer.weight)
        return digit_reader.with_lora(
            model, r, 2 * r if lora_alpha is None else lora_alpha, use_rslora=use_rslora
        )


def train_together(
    models: Sequence[nn.Sequential], data: Sequence[digits.Data], learning_rate: float, steps: int = 60
) -> None:
    """Train models of one kind, each on its own data, in place: what `digit_reader.train` does to each, in one go.

    Adam treats every number by itself, so models that lie in one stack do not meet.

    Parameters
    ----------
    models
        Alike but for their numbers.
    data
        For each model inputs (n, features) and labels (n,), n the same for all.
    learning_rate, steps
        As in `digit_reader.train`.
    """
    trains = {name for name, parameter in models[0].named_parameters() if parameter.requires_grad}
    stacked, _ = stack_module_state(list(models))
    stacked = {name: tensor.detach().requires_grad_(name in trains) for name, tensor in stacked.items()}
    X, y = (torch.stack(list(parts)) for parts in zip(*data, strict=True))
    outputs = vmap(lambda parameters, x: functional_call(models[0], parameters, (x,)))
    optimizer = torch.optim.Adam([stacked[name] for name in trains], lr=learning_rate)
    for _ in range(steps):
        losses = F.cross_entropy(outputs(stacked, X).flatten(0, 1), y.flatten(), reduction="sum")
        optimizer.zero_grad()
        (losses / y.shape[1]).backward()  # the sum over models of their mean losses
        optimizer.step()
    for place, model in enumerate(models):
        model.load_state_dict({name: stacked[name][place] for name in trains}, strict=False)


def scores_of(
    task: str, images: int, way: str, learning_rate: float, seeds: Sequence[int], **lora: float
) -> dict[str, list[float]]:
    """Train with each seed, which also decides which images are seen, and score.

    Parameters
    ----------
    task, images
        One of `TASKS`, and how many of its 400 images for training are seen.
    way, learning_rate, lora
        As in `new_model` and `train_together`.

    Returns
    -------
    dict
        ``validation`` and ``test``: for each seed the share (0 to 1) of 300 and of 397 images that are read right.
    """
    data = _task(task)
    models = [new_model(way, seed, **lora) for seed in seeds]  # pyright: ignore[reportArgumentType]
    train_together(models, [digits.few(data["adapt"], seed, images) for seed in seeds], learning_rate)
    return {
        part: [round(digit_reader.accuracy(model, data[part]), 4) for model in models]
        for part in ("validation", "test")
    }


# ---------------------------------------------------------------- what the record holds


def trials(rates: Sequence[float] = RATES, **settings: Any) -> Tensor:
    """Recorded scores of shape (2, rates, seeds): validation, then test; `settings` as in `records.runs`."""
    found = {run["learning_rate"]: run for run in records.runs(RECORD, **settings)}
    return torch.tensor([[found[rate][part] for rate in rates] for part in ("validation", "test")])


def tuned_scores(**settings: Any) -> Tensor:
    """Recorded test scores (seeds,) at the learning rate that the validation digits choose."""
    return tuned(*trials(**settings))


def by_rank(task: str, way: str, ranks: Sequence[int] = RANKS) -> Tensor:
    """The middle half (3, ranks) of tuned test scores with 20 images; a way without a rank has the same at all."""
    shown = ranks if way in (LORA, RANDOM, ALONE) else (None,) * len(ranks)
    runs = [tuned_scores(experiment="ranks", task=task, way=way, r=r) for r in shown]
    return middle_half(torch.stack(runs, dim=1))


def rivals(task: str) -> dict[str, Tensor]:
    """`by_rank` of LoRA and its rivals, beside the base as it was, which reads the same share at every rank."""
    as_it_was = digit_reader.accuracy(_base(), _task(task)["test"])
    ways = {way: by_rank(task, way) for way in (SCRATCH, FULL, LORA, RANDOM)}
    return ways | {"untrained base": torch.full((3, len(RANKS)), as_it_was, dtype=torch.double)}


def by_rate(use_rslora: bool) -> dict[str, Tensor]:
    """For each rank the middle half (3, rates) of test scores: turned digits, alpha 4."""
    settings: dict[str, Any] = {"experiment": "scaling", "use_rslora": use_rslora}
    return {f"r = {r}": middle_half(trials(SCALING_RATES, r=r, **settings)[1].T) for r in SCALING_RANKS}


def middle_half(scores: Tensor) -> Tensor:
    """Lower quartile, median and upper quartile over the seeds, (3, n), for a figure that draws a median and a band."""
    return scores.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.double), dim=0)
