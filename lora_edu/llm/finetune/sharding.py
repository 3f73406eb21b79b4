"""One frozen base spread over several GPUs: what a fine-tune changes for FSDP.

Fully sharded data parallel (Zhao et al. 2023, arXiv 2304.11277) leaves each process a part of every weight. A layer's
weights are gathered before it computes and dropped after. ``accelerate launch --config_file configs/fsdp.yaml``
switches it on, in PyTorch's second form, ``fully_shard``, and accelerate does the sharding.
"""

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lora_edu.llm.finetune.config import FinetuneConfig


def is_sharded() -> bool:
    """Return whether accelerate was asked to shard the model of this process."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def require_shardable(config: FinetuneConfig, compute: torch.dtype) -> None:
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
            "backend must be peft with FSDP: our 4-bit codes are buffers, which stay whole",
        ),
        (
            config.method == "full",
            "method must be lora or qlora with FSDP: only an adapter is gathered again",
        ),
        (
            compute != torch.bfloat16,
            "dtype must be bfloat16 with FSDP (auto is, from compute capability 8.0 on): no other has been tried",
        ),
        (
            config.optimizer == "paged_adamw_8bit",
            "optimizer must be auto or adamw with FSDP: its pages stay whole",
        ),
        (config.resume, "resume must be False with FSDP: a sharded run writes no checkpoints"),
    ]
    for wrong, message in refused:
        if wrong:
            name = message.partition(" ")[0]
            raise ValueError(f"{message}; got {compute if name == 'dtype' else getattr(config, name)}")


def gather_trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole of each parameter that trains, by name, on the CPU. Every process must call this."""
    return {
        name: (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().cpu()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
