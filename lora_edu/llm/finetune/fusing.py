"""Fused steps: what they ask of a run, and the way from here into `lora_edu.accel`."""

import importlib.util
from types import ModuleType

import torch
from torch import nn

from lora_edu.llm.finetune.config import FinetuneConfig
from lora_edu.llm.finetune.scored_loss import Part, part

# Without liger-kernel's rotation keys are float32 and values are not, and attention outside autocast refuses both.
_PACKAGES = ("triton", "liger_kernel")


def require_fusable(config: FinetuneConfig, compute: torch.dtype, on_gpu: bool) -> None:
    """Refuse settings and machines that forbid fused steps, before anything is loaded.

    Parameters
    ----------
    compute
        The dtype of the run's products.
    on_gpu
        Whether the run has a CUDA GPU.

    Raises
    ------
    ValueError
        The method, the backend, dropout, gradient checkpointing, the dtype or the machine forbids them.
    """
    missing = [name for name in _PACKAGES if not importlib.util.find_spec(name)]
    if "dtype" not in torch.ops.aten.mm.overloads():
        missing.append("PyTorch 2.8")
    _refuse(
        (config.method != "qlora", f"method is {config.method}: it must be qlora"),
        (config.backend != "scratch", f"backend is {config.backend}: it must be scratch"),
        (config.lora_dropout > 0, f"lora_dropout is {config.lora_dropout}: it must be 0"),
        (config.gradient_checkpointing, "gradient_checkpointing is on: together they save little memory"),
        (not on_gpu, "there is no CUDA GPU"),
        (
            compute not in (torch.bfloat16, torch.float16),
            f"dtype is {str(compute).removeprefix('torch.')}: it must be bfloat16 or float16",
        ),
        (bool(missing), f'{", ".join(missing)} is missing: run `pip install -e ".[fused]"`'),
    )


def require_fusable_model(model_type: str, gradient_checkpointing: bool) -> None:
    """Refuse what is known once the model is chosen and memory has been asked.

    Parameters
    ----------
    model_type
        The model's family, as transformers names it.
    gradient_checkpointing
        Whether the run needs it to fit memory.

    Raises
    ------
    ValueError
        The family's layers are not known, or the run needs gradient checkpointing.
    """
    families = _fused().FAMILIES
    _refuse(
        (
            model_type not in families,
            f"the model is of the family {model_type}: it must be one of {', '.join(families)}",
        ),
        (
            gradient_checkpointing,
            "gradient checkpointing is needed to fit memory: take a smaller micro_batch_size or model",
        ),
    )


def fuse(model: nn.Module) -> nn.Module:
    """Give the model fused forwards, in place, and return it (`lora_edu.accel.fuse`)."""
    return _fused().fuse(model)


def loss_part(fused: bool) -> Part:
    """What computes the loss of a part of the scored tokens (`scored_loss`): for fused steps one kernel."""
    if not fused:
        return part
    from lora_edu.accel.loss import fused_part

    return fused_part


def _refuse(*reasons: tuple[bool, str]) -> None:
    for holds, reason in reasons:
        if holds:
            raise ValueError(f"fused must be off where {reason}; got 'on'")


def _fused() -> ModuleType:
    from lora_edu.accel import fused  # compiled code is for those who ask for it

    return fused
