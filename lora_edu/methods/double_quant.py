r"""Double quantization: the scales, one a block of weights, are quantized in their turn.

.. math:: a \approx c^{(8)}_{j} \cdot a' + \bar a

The scales ``a`` less their mean are stored as 8-bit codes ``j``, with a float32 absmax ``a'`` for each 256 of
them: 32 bits a block of weights become 8 + 32/256.

References
----------
Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, section 3. The paper
names an 8-bit float for the codes; bitsandbytes, followed here, takes its 8-bit dynamic map.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.methods.blockwise import nearest_level
from lora_edu.methods.codebook import dynamic_code
from lora_edu.methods.quant_state import QuantState

NESTED_BLOCKSIZE = 256
"""Scales of the first level that share one of the second, as in the paper."""

CHUNK = 2**10 * NESTED_BLOCKSIZE
"""Scales worked on at once: there is one for every 64 weights, and double precision takes 8 bytes for each."""


def double_quantize(state: QuantState) -> QuantState:
    """The state with its float32 scales replaced by 8-bit codes and their constants."""
    offset = state.absmax.mean()
    code = dynamic_code().to(offset.device)
    parts = [_quantize_scales(part - offset, code) for part in state.absmax.split(CHUNK)]
    absmax, nested_absmax = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return replace(
        state,
        absmax=absmax,
        nested_absmax=nested_absmax,
        nested_blocksize=NESTED_BLOCKSIZE,
        nested_code=code,
        offset=offset,
    )


def scales(quant_state: QuantState) -> Float[Tensor, "blocks"]:
    """The absmax of each block in float32, read back from its codes under double quantization."""
    s = quant_state
    if s.nested_absmax is None or s.nested_blocksize is None or s.nested_code is None or s.offset is None:
        return s.absmax
    absmax = s.nested_code.index_select(0, s.absmax.int())
    spread = s.nested_absmax.repeat_interleave(s.nested_blocksize)[: absmax.numel()]
    return absmax.mul_(spread).add_(s.offset)


def _quantize_scales(
    shifted: Float[Tensor, "blocks"], code: Float[Tensor, "256"]
) -> tuple[UInt8[Tensor, "blocks"], Float[Tensor, "nested_blocks"]]:
    """The 8-bit code of each scale less the mean, and the absmax of each 256 of them."""
    blocks = F.pad(shifted, (0, -shifted.numel() % NESTED_BLOCKSIZE)).view(-1, NESTED_BLOCKSIZE)
    nested_absmax = blocks.abs().amax(1)
    x = blocks.mul_((1 / nested_absmax)[:, None]).clamp_(-1, 1)
    codes = nearest_level(_round_to_grid_(x), code).to(torch.uint8)
    # bitsandbytes gives an all-zero block the code 0; its scale of zero makes zeros of any code.
    codes[nested_absmax == 0] = 0
    return codes.flatten()[: shifted.numel()], nested_absmax


def _round_to_grid_(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The nearest of 65,536 even steps in [-1, 1], in place.

    bitsandbytes looks 8-bit codes up by such a step on a CPU. float64 stands for its fused multiply-add,
    which rounds once.
    """
    step = x.add_(1).mul_(0.5).double().mul_(65535).add_(0.5)
    return x.copy_(step).floor_().mul_(2).div_(65535).sub_(1)
