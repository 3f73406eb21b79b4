"""How much memory a fine-tune takes on this machine, and what of it is changed so that it fits."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lora_edu.llm.base_model import TIERS, load_config
from lora_edu.llm.budget import (
    ARCHITECTURES,
    Ledger,
    available_bytes,
    count_parameters,
    memory_ledger,
    preflight,
)
from lora_edu.llm.budget.preflight import GIB, changes
from lora_edu.llm.finetune.graph_shapes import padded_length
from lora_edu.llm.finetune.recipe import Recipe, objection

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Asking:
    """What is asked of the model, beside reading the rows, as far as memory depends on it.

    Attributes
    ----------
    answers
        Conversations answered at once before and after training; 0: none is.
    prompt
        Tokens of the longest.
    new_tokens
        The most that an answer adds.
    scored
        The most tokens of a training row that a loss is computed of; None: all.
    validation
        Tokens of the longest row whose loss is asked at checkpoints; 0: none is.
    """

    answers: int = 0
    prompt: int = 0
    new_tokens: int = 64
    scored: int | None = None
    validation: int = 0


NOTHING_ASKED = Asking()


def choose_model(recipe: Recipe, seq: int, asking: Asking = NOTHING_ASKED) -> str:
    """Return the largest of `TIERS` that fits the GPU as `recipe` asks; on a CPU the smallest.

    One that is said to be risky in float16 is left out where float16 is computed in.

    Parameters
    ----------
    seq
        Tokens of the longest training example.
    """
    smallest, *larger = TIERS.values()
    for tier in reversed(larger) if recipe.device == "cuda" else ():
        if recipe.dtype == torch.float16 and tier.risky_in_float16:
            continue
        try:
            fitting = _fitting(recipe, predict_memory(recipe, tier.shape, seq, asking))
        except MemoryError:
            continue
        if not (recipe.fused and fitting.settings["gradient_checkpointing"]):  # fused steps go without
            return tier.name
    return smallest.name


def fit(
    recipe: Recipe, seq: int, asking: Asking = NOTHING_ASKED, loaded: bool = False
) -> tuple[Recipe, Ledger | None, list[str]]:
    """Return the recipe that fits this machine, the memory it will take, and in words what was changed.

    Parameters
    ----------
    seq
        Tokens of the longest training example.
    loaded
        Whether the base is in memory already.

    Raises
    ------
    MemoryError
        Nothing fits; the message says what to change.
    """
    model_config = load_config(recipe.model)
    if model_config.model_type not in ARCHITECTURES:
        known = f"only for {', '.join(ARCHITECTURES)}"
        return recipe, None, [f"Memory is not predicted for {model_config.model_type} models, {known}."]
    asked = predict_memory(recipe, model_config, seq, asking)
    parameters = count_parameters(model_config)
    smaller = tuple(tier.shape for tier in reversed(TIERS.values()) if tier.parameters < parameters)
    fitting = _fitting(recipe, asked, _available(asked, loaded), smaller)
    notes = []
    if changed := changes(asked, fitting):
        most = max(ledger.total for ledger in _ways(recipe, asked))
        notes.append(
            f"To fit memory: {changed} ({fitting.total / GIB:.1f} GiB predicted, not {most / GIB:.1f})."
        )
    return _as_predicted(recipe, fitting), fitting, notes


def _fitting(
    recipe: Recipe, asked: Ledger, available: int | None = None, smaller: tuple[str, ...] = ()
) -> Ledger:
    """Return the prediction of what fits in each of the ways that the steps may have to run."""
    fits = [preflight(way, recipe.device, available, smaller).settings for way in _ways(recipe, asked)]
    lightest = min(fits, key=lambda s: (s["batch"], not s["gradient_checkpointing"]))
    changed = {name: lightest[name] for name in ("batch", "micro_batches", "gradient_checkpointing")}
    fitting = asked.but(**changed, answers=min(s["answers"] for s in fits))
    graphs = asked.settings["cuda_graphs"] and objection(_as_predicted(recipe, fitting)) is None
    return fitting.but(cuda_graphs=graphs)


def _ways(recipe: Recipe, asked: Ledger) -> list[Ledger]:
    """The prediction, and the one without CUDA graphs if that is how steps run where capturing them fails."""
    may_fail = asked.settings["cuda_graphs"] and recipe.cuda_graphs == "auto"
    return [asked, asked.but(cuda_graphs=False)] if may_fail else [asked]


def _as_predicted(recipe: Recipe, ledger: Ledger) -> Recipe:
    s = ledger.settings
    return replace(recipe, micro_batch_size=s["batch"], gradient_checkpointing=s["gradient_checkpointing"])


def _available(asked: Ledger, loaded: bool) -> int:
    """Bytes that the run may fill. On a GPU, a base that is there already would count as used by another."""
    there = asked["weights"] + asked["quantization constants"]
    device = asked.settings["device"]
    return available_bytes(device) + (there if loaded and device == "cuda" else 0)


def predict_memory(
    recipe: Recipe, model_config: "PretrainedConfig | str", seq: int, asking: Asking = NOTHING_ASKED
) -> Ledger:
    """Return the memory ledger of a run on this machine, for sequences of `seq` tokens and what is asked.

    Where nothing speaks against CUDA graphs they are counted on. Capturing them may fail, and then steps with whole
    logits can take more than is predicted; `fit` sees to it that these fit too, unless ``cuda_graphs`` is on.
    """
    graphs = recipe.cuda_graphs != "off" and objection(recipe) is None
    return memory_ledger(
        model_config,
        recipe.method,
        recipe.micro_batch_size,
        padded_length(seq) if graphs else seq,
        recipe.lora.r,
        recipe.lora.target_modules,
        recipe.dtype,
        recipe.optimizer,
        recipe.gradient_checkpointing,
        recipe.backend,
        recipe.device,
        recipe.micro_batches,
        recipe.fused_attention,
        asking.answers,
        asking.prompt,
        asking.new_tokens,
        graphs,
        asking.scored,
        asking.validation,
    )
