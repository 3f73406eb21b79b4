"""How a step is computed on this machine: what ``auto`` stands for.

The machine is asked here, once, and the answer is frozen. What runs a step takes a `Recipe` and asks nobody again.
"""

from dataclasses import dataclass, replace

import torch

from lora_edu.llm.base_model import SHAPES, TIERS, load_config, resolve_dtype
from lora_edu.llm.finetune.config import AUTO, FinetuneConfig
from lora_edu.llm.finetune.fusing import require_fusable
from lora_edu.llm.finetune.sharding import is_sharded, require_shardable
from lora_edu.llm.machine import has_bfloat16
from lora_edu.llm.surgery import ALL_LINEAR
from lora_edu.llm.tiers import learning_rate

WITHOUT_GRAPHS = "Steps run without CUDA graphs"

FULL_RATE = 2e-5
"""The peak learning rate of a full fine-tune where none is given."""


@dataclass(frozen=True)
class Lora:
    """The adapter that is attached; names as in peft."""

    target_modules: list[str] | str
    r: int
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool


@dataclass(frozen=True)
class Recipe:
    """How each step is computed, all of it settled.

    Attributes
    ----------
    dtype
        Of products and of weights that are not quantized.
    optimizer
        ``"adamw"`` or a name that transformers' Trainer knows.
    batch_size
        Sequences an optimizer step, over all processes.
    micro_batch_size
        Sequences at once in a process's memory.
    processes
        That share each batch.
    sharded
        Whether the base is spread over the processes (FSDP).
    device
        ``"cuda"`` or ``"cpu"``.
    fused_attention
        Whether attention keeps no matrix of scores (on a GPU: from compute capability 8.0 on).
    cuda_graphs
        Whether steps are replayed from CUDA graphs: ``"on"``, ``"off"``, or ``"auto"``, if capturing them succeeds.
    fused
        Whether the model gets fused forwards (`lora_edu.accel.fuse`).
    """

    model: str
    method: str
    backend: str
    dtype: torch.dtype
    lora: Lora
    optimizer: str
    steps: int
    learning_rate: float
    warmup_steps: int
    batch_size: int
    micro_batch_size: int
    gradient_checkpointing: bool
    seed: int
    save_every: int
    processes: int
    sharded: bool
    device: str
    fused_attention: bool
    cuda_graphs: str
    fused: bool

    @property
    def micro_batches(self) -> int:
        """How many forward passes of a process make one optimizer step."""
        return max(1, self.batch_size // (self.micro_batch_size * self.processes))

    @property
    def quantized(self) -> bool:
        """Whether the base is held in 4 bits."""
        return self.method == "qlora"


def make_recipe(config: FinetuneConfig, processes: int = 1) -> Recipe:
    """Settle what the machine decides: dtype, optimizer, device.

    Parameters
    ----------
    config
        The settings; ``model`` may still be ``auto`` (`choose_model`).
    processes
        That share each batch.

    Raises
    ------
    ValueError
        The batch does not divide over the processes, the optimizer needs a GPU that is not there, or the settings
        cannot be sharded or fused as was asked.
    """
    at_once = config.micro_batch_size * processes
    if config.batch_size % at_once:
        raise ValueError(
            f"batch_size must be a multiple of micro_batch_size x processes = {at_once}, got {config.batch_size}"
        )
    on_gpu = torch.cuda.is_available()
    if config.optimizer == "paged_adamw_8bit" and not on_gpu:
        raise ValueError("optimizer must be auto or adamw without a CUDA GPU, got 'paged_adamw_8bit'")
    dtype, sharded = compute_dtype(config), is_sharded()
    if sharded:
        require_shardable(config, dtype)
    if config.fused == "on":
        require_fusable(config, dtype, on_gpu)
    return Recipe(
        model=config.model,
        method=config.method,
        backend=config.backend,
        dtype=dtype,
        lora=Lora(
            ALL_LINEAR if config.target_modules == [ALL_LINEAR] else config.target_modules,
            config.r,
            config.lora_alpha,
            config.lora_dropout,
            config.use_rslora,
        ),
        optimizer=choose_optimizer(config),
        steps=config.steps or 0,  # of epochs the plan counts them, once it has the rows
        learning_rate=settle_rate(config, config.model),
        warmup_steps=config.warmup_steps,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        gradient_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        save_every=config.save_every,
        processes=processes,
        sharded=sharded,
        device="cuda" if on_gpu else "cpu",
        fused_attention=not on_gpu or has_bfloat16(),
        cuda_graphs=config.cuda_graphs,
        fused=config.fused == "on",
    )


def objection(recipe: Recipe) -> str | None:
    """Return why no step of this recipe can be replayed, as far as that is known before it is tried."""
    if recipe.device != "cuda":
        return "there is no CUDA GPU"
    if recipe.processes > 1 or recipe.sharded:
        return "several processes share each step"
    if recipe.gradient_checkpointing and recipe.method != "full" and recipe.lora.lora_dropout > 0:
        return "gradient checkpointing must draw the same dropout twice"
    return None


def settle_graphs(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Return the recipe with CUDA graphs off where they are known to be impossible, and in words why.

    On a CPU nothing is said.

    Raises
    ------
    ValueError
        They are impossible, and were asked for.
    """
    reason = objection(recipe)
    if reason is None or recipe.cuda_graphs == "off":
        return recipe, []
    if recipe.cuda_graphs == "on":
        raise ValueError(f"cuda_graphs must be auto or off where {reason}, got 'on'")
    notes = [f"{WITHOUT_GRAPHS}: {reason}."] if recipe.device == "cuda" else []
    return replace(recipe, cuda_graphs="off"), notes


def settle_rate(config: FinetuneConfig, model: str) -> float:
    """Return the peak learning rate: what was asked for, or what suits the method and the size of `model`.

    Of ``auto`` no size is known yet: it is taken for a small one until a model is chosen.
    """
    if config.learning_rate is not None:
        return config.learning_rate
    if config.method == "full":
        return FULL_RATE
    if model == AUTO:
        return learning_rate(1)
    return learning_rate(model if model in TIERS or model in SHAPES else load_config(model))


def compute_dtype(config: FinetuneConfig) -> torch.dtype:
    """Return the dtype of products and of weights that are not quantized.

    ``auto``: float32 on a CPU; on a GPU bfloat16 from compute capability 8.0 on and float16 before. A model that
    trains whole stays float32: 16 bits would round its small updates away.
    """
    if config.dtype == AUTO and config.method == "full":
        return torch.float32
    return resolve_dtype(None if config.dtype == AUTO else config.dtype)


def choose_optimizer(config: FinetuneConfig) -> str:
    """Return what ``auto`` stands for: paged 8-bit AdamW for QLoRA on a GPU that holds all of it, else AdamW."""
    if config.optimizer != AUTO:
        return config.optimizer
    paged = config.method == "qlora" and torch.cuda.is_available() and not is_sharded()
    return "paged_adamw_8bit" if paged else "adamw"
