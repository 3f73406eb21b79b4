"""What the GPU is: its compute capability and its memory, asked in one place, and how a test pretends another.

Two environment variables are meant for tests and records alone, and stand for a smaller GPU than the one that is there:
``LORA_EDU_COMPUTE_CAPABILITY=7.5`` (a T4: no bfloat16, no fused attention for grouped queries), and
``LORA_EDU_GPU_GIB=14.5``, which caps what PyTorch may allocate and what `preflight` sees.
"""

import os
import re

import torch

CAPABILITY = "LORA_EDU_COMPUTE_CAPABILITY"
MEMORY = "LORA_EDU_GPU_GIB"
AMPERE = (8, 0)
"""From here on a GPU computes in bfloat16 and has flash attention."""
GIB = 2**30


def compute_capability() -> tuple[int, int] | None:
    """Return the GPU's compute capability, such as (7, 5) for a T4; None without a GPU.

    Raises
    ------
    ValueError
        ``LORA_EDU_COMPUTE_CAPABILITY`` is set and is not two numbers with a dot between.
    """
    if not torch.cuda.is_available():
        return None
    if not (pretended := os.environ.get(CAPABILITY)):
        return torch.cuda.get_device_capability()
    if not re.fullmatch(r"\d+\.\d", pretended):
        raise ValueError(f"{CAPABILITY} must be a compute capability such as 7.5, got {pretended!r}")
    major, minor = pretended.split(".")
    return int(major), int(minor)


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 itself; a T4 only emulates it. Not asked of a CPU."""
    return (compute_capability() or (0, 0)) >= AMPERE


def gpu_limit() -> int | None:
    """Return the bytes that ``LORA_EDU_GPU_GIB`` allows; None if it is not set.

    Raises
    ------
    ValueError
        It is no number above 0.
    """
    if not (text := os.environ.get(MEMORY)):
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) == 0:
        raise ValueError(f"{MEMORY} must be a number of GiB above 0, got {text!r}")
    return int(float(text) * GIB)


def free_gpu_bytes() -> int:
    """Return what this process may still fill on the GPU: free memory, and what PyTorch holds unused."""
    held, used = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    free, limit = torch.cuda.mem_get_info()[0], gpu_limit()
    return (free if limit is None else max(0, min(free, limit - held))) + held - used


def gpu_bytes() -> int:
    """Return the GPU's whole memory, or the limit that stands for it."""
    total = torch.cuda.get_device_properties(0).total_memory
    return min(total, gpu_limit() or total)


def left_for_another() -> dict[str, str]:
    """Return the setting that holds another process to what this one leaves of the limit; empty without one."""
    limit = gpu_limit()
    if limit is None or not torch.cuda.is_available():
        return {}
    left = limit - torch.cuda.memory_reserved()
    return {MEMORY: f"{max(left / GIB, 0.001):.3f}"}


def pretend() -> None:
    """Make PyTorch keep to the two variables, where they are set: its allocator and its kernels of attention.

    Called before anything is put on a GPU. Where neither is set, nothing changes.
    """
    if not torch.cuda.is_available():
        return
    if (limit := gpu_limit()) is not None:
        limit_gpu_memory(limit)
    if os.environ.get(CAPABILITY) and not has_bfloat16():
        without_flash_attention()


def limit_gpu_memory(limit: int) -> None:
    """Let PyTorch's allocator take no more than `limit` bytes in this process."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))


def without_flash_attention() -> None:
    """Switch off the kernels of attention that a GPU before compute capability 8.0 lacks."""
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
