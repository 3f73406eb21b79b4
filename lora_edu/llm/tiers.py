"""What the machine decides about a fine-tune: dtype, optimizer, model, and how much is in memory at once."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lora_edu.llm.base_model import DEFAULT_NAME, load_config, resolve_dtype
from lora_edu.llm.budget import ARCHITECTURES, Ledger, count_parameters, memory_ledger, preflight
from lora_edu.llm.budget.preflight import GIB, changes
from lora_edu.llm.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lora_edu.llm.finetune import FinetuneConfig

AUTO = "auto"
TIERS = {
    "Qwen/Qwen2.5-7B-Instruct": "Qwen2.5-7B",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "SmolLM2-1.7B",
    DEFAULT_NAME: "SmolLM2-135M",
}
"""What ``--model auto`` chooses from, the largest first, and the recorded shape of each. On a CPU: the last."""


def compute_dtype(config: "FinetuneConfig") -> torch.dtype:
    """Return the dtype of products and of weights that are not quantized.

    ``auto``: float32 on a CPU; on a GPU bfloat16 from compute capability 8.0 on and float16 before. A model that
    trains whole stays float32: 16 bits would round its small updates away.
    """
    if config.dtype == "auto" and config.method == "full":
        return torch.float32
    return resolve_dtype(None if config.dtype == "auto" else config.dtype)


def choose_optimizer(config: "FinetuneConfig") -> str:
    """Return what ``auto`` stands for: paged 8-bit AdamW for QLoRA on a GPU that holds all of it, else AdamW."""
    if config.optimizer != "auto":
        return config.optimizer
    paged = config.method == "qlora" and torch.cuda.is_available() and not is_sharded()
    return "paged_adamw_8bit" if paged else "adamw"


def choose_model(config: "FinetuneConfig", seq: int, processes: int = 1) -> str:
    """Return the largest of `TIERS` that fits the GPU as `config` asks; on a CPU the smallest.

    Parameters
    ----------
    seq
        Tokens of the longest training example.
    processes
        That share each batch.
    """
    names = list(TIERS)
    if torch.cuda.is_available():
        for name in names[:-1]:
            try:
                preflight(predict(config, TIERS[name], seq, processes), "cuda")
            except MemoryError:
                continue
            return name
    return names[-1]


def fit(config: "FinetuneConfig", seq: int, processes: int = 1) -> "tuple[FinetuneConfig, Ledger | None]":
    """Return the settings that fit this machine and the memory they will take, or refuse.

    Raises
    ------
    MemoryError
        Nothing fits; the message says what to change.
    """
    model_config = load_config(config.model)
    if model_config.model_type not in ARCHITECTURES:
        kinds = ", ".join(ARCHITECTURES)
        print(
            f"Memory is not predicted for {model_config.model_type} models, only for {kinds}.",
            file=sys.stderr,
        )
        return config, None
    asked = predict(config, model_config, seq, processes)
    parameters = count_parameters(model_config)
    smaller = tuple(shape for shape in TIERS.values() if count_parameters(shape) < parameters)
    fitting = preflight(asked, asked.settings["device"], smaller=smaller)
    if changed := changes(asked, fitting):
        print(
            f"To fit memory: {changed} ({fitting.total / GIB:.1f} GiB predicted, not {asked.total / GIB:.1f})."
        )
    s = fitting.settings
    adjusted = replace(
        config, micro_batch_size=s["batch"], gradient_checkpointing=s["gradient_checkpointing"]
    )
    return adjusted, fitting


def predict(
    config: "FinetuneConfig", model_config: "PretrainedConfig | str", seq: int, processes: int = 1
) -> Ledger:
    """Return the memory ledger of a run on this machine."""
    on_gpu = torch.cuda.is_available()
    return memory_ledger(
        model_config,
        config.method,
        config.micro_batch_size,
        seq,
        config.r,
        config.targets(),
        compute_dtype(config),
        choose_optimizer(config),
        config.gradient_checkpointing,
        config.backend,
        "cuda" if on_gpu else "cpu",
        max(1, config.batch_size // (config.micro_batch_size * processes)),
        not on_gpu or torch.cuda.get_device_capability() >= (8, 0),
    )
