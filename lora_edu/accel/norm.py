"""Root-mean-square norm of a float32 stream into 16 bits, one Triton kernel forward and one backward.

transformers' norm with a float32 weight returns float32, which every linear layer behind it rounds to 16 bits again.
Here the kernel rounds once, at the end, and what it reads stays float32: the residual stream is as wide as it was.

References
----------
Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467, equation 4.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_edu.accel.shared import pitch, share


class RMSNormTo(torch.autograd.Function):
    """``weight * x / rms(x)`` rounded to ``dtype``, room behind each row; the weight is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch width"],
        weight: Float[Tensor, "width"],
        eps: float,
        dtype: torch.dtype,
        room: int,
    ) -> Float[Tensor, "*batch width"]:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y, inverse = normed(rows, weight, eps, dtype, room)
        ctx.save_for_backward(rows, weight, inverse)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, inverse = ctx.saved_tensors
        grad_x = torch.empty_like(rows)
        block = triton.next_power_of_2(rows.shape[1])
        kernel: Any = _backward
        with torch.cuda.device_of(rows):
            kernel[(len(rows),)](
                grad_y.reshape(rows.shape).contiguous(), rows, weight, inverse, grad_x,
                rows.shape[1], block, num_warps=_warps(block),
            )  # fmt: skip
        return grad_x.view(grad_y.shape), *(None,) * 4


class FusedRMSNorm(nn.Module):
    """A norm of the Llama family, its output in 16 bits. A model's own norm becomes one by its class."""

    weight: nn.Parameter
    variance_epsilon: float
    dtype: torch.dtype
    room: int
    """Columns behind each row of the output, for the fused layers that read it."""

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The norm of ``x``, rounded to ``dtype``; backward makes it again where a fused layer reads it."""
        settings = self.weight, self.variance_epsilon, self.dtype
        y: Any = RMSNormTo.apply(x, *settings, self.room)
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
        columns = x.shape[-1] + self.room
        # What is written behind the rows is no change of them: .data counts changes of its own.
        wide = y.data.as_strided((len(rows), columns), (pitch(columns), 1))
        return share(y, lambda: normed(rows, *settings)[0], wide)


def normed(
    rows: Float[Tensor, "rows width"],
    weight: Float[Tensor, "width"],
    eps: float,
    dtype: torch.dtype,
    room: int = 0,
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows"]]:
    """The norm of each row, with ``room`` unwritten columns or more behind it, and 1 / rms of it."""
    count, width = rows.shape
    y = rows.new_empty(count, pitch(width + room), dtype=dtype)[:, :width]
    inverse = torch.empty(count, dtype=torch.float32, device=rows.device)
    block = triton.next_power_of_2(width)
    kernel: Any = _forward
    with torch.cuda.device_of(rows):
        kernel[(count,)](rows, weight, y, y.stride(0), inverse, width, eps, block, num_warps=_warps(block))
    return y, inverse


def _warps(block: int) -> int:
    return min(16, max(1, block // 256))


@triton.jit
def _forward(x, weight, y, y_row, inverse, width, eps, BLOCK: tl.constexpr):
    """One row: y = weight x / rms(x), and 1 / rms(x)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * width + column, mask=inside, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    tl.store(inverse + row, scale)
    result = values * scale * tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(y + row * y_row + column, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(grad_y, x, weight, inverse, grad_x, width, BLOCK: tl.constexpr):
    """One row, with n = x / rms(x) and g = weight grad_y: grad_x = (g - n mean(g n)) / rms(x)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    scale = tl.load(inverse + row)
    normed = tl.load(x + row * width + column, mask=inside, other=0).to(tl.float32) * scale
    g = tl.load(grad_y + row * width + column, mask=inside, other=0).to(tl.float32)
    g = g * tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    result = scale * (g - normed * (tl.sum(g * normed, 0) / width))
    tl.store(grad_x + row * width + column, result.to(grad_x.dtype.element_ty), mask=inside)
