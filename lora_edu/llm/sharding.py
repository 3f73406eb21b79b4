"""One frozen base spread over several GPUs: what a fine-tune changes for FSDP.

Fully sharded data parallel (Zhao et al. 2023, arXiv 2304.11277) leaves each process a part of every weight. A layer's
weights are gathered before it computes and dropped after. ``accelerate launch --config_file configs/fsdp.yaml``
switches it on, in PyTorch's second form, ``fully_shard``, and accelerate does the sharding.
"""

from typing import TYPE_CHECKING

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from lora_edu.llm.finetune import FinetuneConfig


def is_sharded() -> bool:
    """Return whether accelerate was asked to shard the model of this process."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def require_shardable(config: "FinetuneConfig", compute: torch.dtype) -> None:
    """Refuse what cannot be sharded, before anything is loaded.

    Parameters
    ----------
    compute
        The dtype of the run's products.

    Raises
    ------
    ValueError
        ``config`` names another backend than peft, full fine-tuning, a paged optimizer or ``resume``, or ``compute``
        is not bfloat16.
    """
    refused = [
        (
            config.backend != "peft",
            "backend",
            "peft",
            config.backend,
            "our 4-bit codes are buffers, which stay whole",
        ),
        (
            config.method == "full",
            "method",
            "lora or qlora",
            config.method,
            "only an adapter is gathered again",
        ),
        (compute != torch.bfloat16, "dtype", "bfloat16", compute, "4-bit codes travel as bfloat16 numbers"),
        (
            config.optimizer == "paged_adamw_8bit",
            "optimizer",
            "auto or adamw",
            config.optimizer,
            "no page is sharded",
        ),
        (config.resume, "resume", "False", True, "a sharded run writes no checkpoints"),
    ]
    for wrong, name, allowed, got, reason in refused:
        if wrong:
            raise ValueError(f"{name} must be {allowed} with FSDP ({reason}), got {got}")


def quant_storage(compute: torch.dtype) -> torch.dtype:
    """Return the dtype in which bitsandbytes keeps 4-bit codes.

    Bytes, as a rule. A shard must be of the dtype that FSDP gathers, so there four codes are stored as the 16 bits of
    one number of dtype ``compute``. The codes are the same.
    """
    return compute if is_sharded() else torch.uint8


def gather_trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole of each parameter that trains, by name, on the CPU. Every process must call this."""
    return {
        name: (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().cpu()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
