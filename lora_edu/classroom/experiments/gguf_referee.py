"""gguf, llama.cpp's own package, as a referee of the formats in `four_bit_formats`.

Q4_0, Q4_1 and MXFP4 it writes and reads. NVFP4 and Q4_K it only reads: there our codes and constants are packed into
its bytes, so that at least what we read back is what llama.cpp would compute with.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lora_edu.classroom.experiments.four_bit_formats import E2M1, nvfp4_parts, q4_k_parts

WRITES = ("Q4_0", "Q4_1", "MXFP4")
READS = ("NVFP4", "Q4_K")


def read_by_gguf(name: str, W: Tensor) -> Tensor:
    """What gguf makes of float32 weights, one-dimensional, a multiple of 256: written by itself, or packed by us.

    For NVFP4 the factor of the whole tensor, which gguf keeps outside its blocks, is multiplied here.

    Raises
    ------
    ValueError
        If `name` is none of `WRITES` and `READS`.
    """
    from gguf import GGMLQuantizationType, quants

    if name not in WRITES + READS:
        raise ValueError(f"name must be one of {WRITES + READS}, got {name!r}")
    kind, factor = GGMLQuantizationType[name], 1.0
    if name in WRITES:
        data = quants.quantize(W.numpy(), kind)
    elif name == "Q4_K":
        data = _q4_k_bytes(W)
    else:
        data, factor = _nvfp4_bytes(W)
    return torch.from_numpy(quants.dequantize(data, kind).copy()).flatten() * factor


def _q4_k_bytes(W: Tensor) -> np.ndarray:
    """144 bytes for 256 weights: two float16, 12 bytes of 6-bit constants, 128 bytes of codes."""
    codes, steps, belows, of_step, of_below = (part.numpy() for part in q4_k_parts(W))
    d, m = (part[:, :, 0].astype(np.uint8) for part in (steps, belows))
    scales = [
        d[:, :4] | (d[:, 4:] >> 4) << 6,
        m[:, :4] | (m[:, 4:] >> 4) << 6,
        d[:, 4:] & 15 | (m[:, 4:] & 15) << 4,
    ]
    even, odd = codes[:, ::2].astype(np.uint8), codes[:, 1::2].astype(np.uint8)
    halves = [
        np.ascontiguousarray(part[:, 0]).astype(np.float16).view(np.uint8) for part in (of_step, of_below)
    ]
    return np.concatenate([*halves, *scales, (even | odd << 4).reshape(len(even), -1)], axis=1).ravel()


def _nvfp4_bytes(W: Tensor) -> tuple[np.ndarray, float]:
    """36 bytes for 64 weights: four E4M3 scales, then for each 16 weights their first eight beside their last."""
    numbers, scale, whole = nvfp4_parts(W)
    sign = 8 * (numbers < 0).to(torch.uint8)
    codes = (torch.bucketize(numbers.abs(), E2M1).to(torch.uint8) | sign).numpy().reshape(-1, 4, 16)
    scales = scale.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(-1, 4)
    pairs = (codes[..., :8] | codes[..., 8:] << 4).reshape(len(codes), -1)
    return np.concatenate([scales, pairs], axis=1).ravel(), whole
