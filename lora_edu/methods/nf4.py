r"""NF4 as bitsandbytes stores it: two codes a byte, one scale a block, the scales quantized in their turn.

.. math:: W \approx c_{i} \cdot a, \qquad a \approx c^{(8)}_{j} \cdot a' + \bar a

``c`` are the 16 NF4 levels, ``i`` 4-bit codes, ``a`` the absmax of each block of 64 weights. Double
quantization stores ``a`` less its mean as 8-bit codes ``j`` with an absmax ``a'`` for each 256 of them: 4.5
bits a weight become 4.127.

References
----------
Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, section 3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lora_edu.methods import _validate
from lora_edu.methods.blockwise import nearest_level, normalize_blocks
from lora_edu.methods.codebook import dynamic_code, nf4_code
from lora_edu.methods.packing import pack_4bit

# Scales of the first level that share one of the second, as in the paper.
NESTED_BLOCKSIZE = 256
# Weights handled at a time, so that temporary copies are small and, on a CPU, stay in its cache.
QUANTIZE_CHUNK = 2**18
DEQUANTIZE_CHUNK = 2**20
GPU_CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class QuantState:
    """What is needed beside the packed codes to get the weights back.

    Attributes
    ----------
    shape, dtype
        Of the weights that were quantized.
    blocksize
        Weights a block.
    absmax
        One scale a block: float32, or uint8 codes under double quantization.
    nested_absmax
        float32, one scale for each ``nested_blocksize`` of the codes in ``absmax``.
    nested_blocksize
        Codes of ``absmax`` a block.
    nested_code
        float32, the 256 levels that the codes in ``absmax`` name.
    offset
        float32, the mean that was taken from the scales before they were quantized.
    """

    shape: torch.Size
    dtype: torch.dtype
    blocksize: int
    absmax: Tensor
    nested_absmax: Tensor | None = None
    nested_blocksize: int | None = None
    nested_code: Tensor | None = None
    offset: Tensor | None = None


def quantize_nf4(
    W: Float[Tensor, "*shape"], blocksize: int = 64, double_quant: bool = False
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """Quantize weights to NF4, byte for byte as bitsandbytes does on a CPU.

    What ``pack_4bit(quantize_blockwise(W, nf4_code(), blocksize)[0])`` gives, several times faster: ``W`` is
    worked through in chunks, and the nearest level found by a table. An odd tail is padded with a weight of
    zero, whose code is 7.

    Parameters
    ----------
    W
        Weights: floating-point, finite, any shape.
    blocksize
        Weights a block, at least 1.
    double_quant
        Quantize the scales too.

    Returns
    -------
    packed
        uint8, one-dimensional, ``ceil(W.numel() / 2)`` bytes.
    quant_state
        The scales and what else ``dequantize_nf4`` needs.

    Raises
    ------
    TypeError, ValueError
        ``W`` is no floating-point tensor, is empty or not finite; ``blocksize`` is no integer above 0.
    """
    _validate.tensor("W", W)
    _validate.integer("blocksize", blocksize, 1)
    flat = W.detach().flatten()
    packed = torch.empty(-(-flat.numel() // 2), dtype=torch.uint8, device=W.device)
    absmax = torch.empty(-(-flat.numel() // blocksize), dtype=torch.float32, device=W.device)
    for start, stop in _chunks(flat.numel(), math.lcm(blocksize, 2), QUANTIZE_CHUNK, W.device):
        x, absmax[start // blocksize : -(-stop // blocksize)] = normalize_blocks(flat[start:stop], blocksize)
        padded = torch.cat([x, x.new_zeros(1)]) if len(x) % 2 else x
        packed[start // 2 : -(-stop // 2)] = pack_4bit(nearest_nf4_level(padded))
    state = QuantState(W.shape, W.dtype, blocksize, absmax)
    return packed, _quantize_scales(state) if double_quant else state


def empty_nf4(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    blocksize: int,
    double_quant: bool,
    device: torch.device | str | None = None,
) -> tuple[UInt8[Tensor, "bytes"], QuantState]:
    """Room for what ``quantize_nf4`` returns for weights of this shape, every scale zero."""
    _validate.integer("blocksize", blocksize, 1)
    numel = math.prod(shape)
    blocks = -(-numel // blocksize)
    packed = torch.zeros(-(-numel // 2), dtype=torch.uint8, device=device)
    state = QuantState(torch.Size(shape), dtype, blocksize, torch.zeros(blocks, device=device))
    return packed, _quantize_scales(state) if double_quant else state


def dequantize_nf4(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """The weights that ``packed`` stands for, in the shape and dtype of the original.

    Parameters
    ----------
    packed, quant_state
        As ``quantize_nf4`` returned them.
    out
        Where to write: contiguous, of that shape and dtype. Filling memory that is already in use is several
        times faster than asking the system for fresh memory.

    Raises
    ------
    TypeError, ValueError
        ``packed``, ``quant_state`` and ``out`` do not belong together.
    """
    s = quant_state
    check_stored(packed, s)
    if out is None:
        out = torch.empty(s.shape, dtype=s.dtype, device=packed.device)
    fits = isinstance(out, Tensor) and (out.shape, out.dtype, out.is_contiguous()) == (s.shape, s.dtype, True)
    given = f"{tuple(out.shape)}, {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
    _validate.require(fits, "out", f"a contiguous tensor, {tuple(s.shape)}, {s.dtype}", given)
    flat, absmax = out.view(-1), scales(s)
    # _decode writes two float32 at a time, so the first of them must lie on an even place in its storage.
    direct = s.dtype == torch.float32 and out.storage_offset() % 2 == 0
    for start, stop in _chunks(flat.numel(), math.lcm(s.blocksize, 2), DEQUANTIZE_CHUNK, out.device):
        part = flat[start:stop]
        decoded = part if direct else torch.empty(part.shape, dtype=torch.float32, device=out.device)
        _decode(packed, absmax, s.blocksize, start, decoded)
        if not direct:
            part.copy_(decoded)
    return out


def dequantized_panels(
    packed: UInt8[Tensor, "bytes"], quant_state: QuantState, dtype: torch.dtype
) -> Iterator[tuple[slice, Float[Tensor, "rows in"]]]:
    """A matrix in panels of whole rows, ``(rows, W[rows])``; a panel is lost when the next one is asked for.

    A product with one panel after the other never holds the whole matrix. On a CPU it is also faster than
    dequantizing all of it, because the panel stays in the cache.
    """
    s = quant_state
    height, width = s.shape
    unit = math.lcm(s.blocksize, 2)
    absmax = scales(s)
    memory = torch.empty(0, dtype=torch.float32, device=packed.device)
    # A panel starts a block and a byte, so its weights are counted in multiples of both and of a row.
    for start, stop in _chunks(height * width, math.lcm(unit, width), DEQUANTIZE_CHUNK, packed.device):
        if start == 0:
            memory = memory.new_empty(stop)
        panel = memory[: stop - start]
        _decode(packed, absmax, s.blocksize, start, panel)
        yield slice(start // width, stop // width), panel.view(-1, width).to(dtype)


def check_stored(packed: UInt8[Tensor, "bytes"], quant_state: QuantState) -> None:
    """Raise unless the two belong together: the right number of codes, of scales, and of scales of scales.

    Raises
    ------
    TypeError, ValueError
        Naming the tensor that does not fit.
    """
    s = quant_state
    _check_state(s)
    _validate.tensor("packed", packed, torch.uint8)
    numel = math.prod(s.shape)
    blocks = -(-numel // s.blocksize)
    _validate.shape("packed", packed, (-(-numel // 2),))
    _validate.shape("quant_state.absmax", s.absmax, (blocks,))
    if s.absmax.dtype == torch.float32:
        return
    _validate.tensor("quant_state.absmax", s.absmax, torch.uint8)
    _validate.integer("quant_state.nested_blocksize", s.nested_blocksize, 1)
    nested = {
        "nested_absmax": (-(-blocks // (s.nested_blocksize or 1)),),
        "nested_code": (256,),
        "offset": (),
    }
    for name, shape in nested.items():
        constant = getattr(s, name)
        _validate.tensor(f"quant_state.{name}", constant, torch.float32)
        _validate.shape(f"quant_state.{name}", constant, shape)


def scales(quant_state: QuantState) -> Float[Tensor, "blocks"]:
    """The absmax of each block in float32, read back from its codes under double quantization."""
    s = quant_state
    if s.nested_absmax is None or s.nested_blocksize is None or s.nested_code is None or s.offset is None:
        return s.absmax
    absmax = s.nested_code.index_select(0, s.absmax.int())
    _scale_blocks(absmax, s.nested_absmax, s.nested_blocksize)
    return absmax.add_(s.offset)


def nearest_nf4_level(x: Float[Tensor, "numel"]) -> UInt8[Tensor, "numel"]:
    """``nearest_level(x, nf4_code())`` by a table, several times faster.

    [-1, 1] is cut into 64 cells, so small that none holds two midpoints: one comparison in the cell decides.
    """
    first, midpoint = _cells(x.device)
    cell = x.add(1).mul_(32).int()
    return first.index_select(0, cell).add_(x > midpoint.index_select(0, cell))


def bits_per_parameter(quant_state: QuantState) -> float:
    """Bits stored for each weight: packed codes, scales and offset; the two code tables are left out.

    Returns
    -------
    float
        Bits: 4.5 at block 64; 4.127 with double quantization, on a large matrix.

    Raises
    ------
    TypeError
        ``quant_state`` is no ``QuantState``.
    """
    s = quant_state
    _check_state(s)
    numel = math.prod(s.shape)
    constants = [t for t in (s.absmax, s.nested_absmax, s.offset) if t is not None]
    return 8 * (-(-numel // 2) + sum(t.nbytes for t in constants)) / numel


def _chunks(numel: int, unit: int, size: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Cut ``numel`` weights into ranges of whole units, each of at most ``size`` weights or else one unit."""
    step = max(1, (size if device.type == "cpu" else GPU_CHUNK) // unit) * unit
    return ((start, min(start + step, numel)) for start in range(0, numel, step))


@cache
def _cells(device: torch.device) -> tuple[UInt8[Tensor, "65"], Float[Tensor, "65"]]:
    """For each cell: the level at its lower end, and the midpoint within it or else infinity."""
    code = nf4_code()
    midpoints = (code[:-1] + code[1:]) / 2
    # The arithmetic of nearest_nf4_level: it never descends, so x above a midpoint is never in a lower cell.
    cell = midpoints.add(1).mul_(32).int()
    first = torch.searchsorted(cell, torch.arange(65, dtype=torch.int32)).to(torch.uint8)
    within = torch.full((65,), math.inf).index_copy(0, cell.long(), midpoints)
    return first.to(device), within.to(device)


def _decode(
    packed: UInt8[Tensor, "bytes"],
    absmax: Float[Tensor, "blocks"],
    blocksize: int,
    start: int,
    out: Float[Tensor, "numel"],
) -> None:
    """Write the weights from number ``start`` on, which begins a block and a byte, to ``out``."""
    numel = out.numel()
    pairs, odd = divmod(numel, 2)
    codes = packed[start // 2 :]
    levels = _byte_levels(out.device)
    torch.index_select(levels, 0, codes[:pairs].int(), out=out[: 2 * pairs].view(torch.int64))
    if odd:
        out[-1] = levels.view(torch.float32)[2 * codes[pairs].int()]
    _scale_blocks(out, absmax[start // blocksize :], blocksize)


@cache
def _byte_levels(device: torch.device) -> torch.Tensor:
    """The two levels that each of the 256 bytes names, seen as one int64 so that one read fetches both."""
    code = nf4_code()
    return torch.cartesian_prod(code, code).view(torch.int64).flatten().to(device)


def _scale_blocks(values: Float[Tensor, "numel"], absmax: Float[Tensor, "blocks"], blocksize: int) -> None:
    """Multiply each block of ``values``, in place, by its absmax; the last block may be shorter."""
    blocks, tail = divmod(values.numel(), blocksize)
    values[: blocks * blocksize].view(-1, blocksize).mul_(absmax[:blocks, None])
    if tail:
        values[-tail:].mul_(absmax[blocks])


def _quantize_scales(state: QuantState) -> QuantState:
    """Double quantization: the scales less their mean, in blocks of 256, to the 8-bit dynamic code."""
    offset = state.absmax.mean()
    code = dynamic_code().to(offset.device)
    numel = state.absmax.numel()
    blocks = F.pad(state.absmax - offset, (0, -numel % NESTED_BLOCKSIZE)).view(-1, NESTED_BLOCKSIZE)
    nested_absmax = blocks.abs().amax(1)
    x = (blocks * (1 / nested_absmax)[:, None]).clamp(-1, 1)
    codes = nearest_level(_on_grid(x), code).to(torch.uint8)
    # bitsandbytes gives an all-zero block the code 0; its scale of zero makes zeros of any code.
    codes[nested_absmax == 0] = 0
    return replace(
        state,
        absmax=codes.flatten()[:numel],
        nested_absmax=nested_absmax,
        nested_blocksize=NESTED_BLOCKSIZE,
        nested_code=code,
        offset=offset,
    )


def _on_grid(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The nearest of 65,536 even steps in [-1, 1].

    bitsandbytes looks 8-bit codes up by such a step on a CPU. float64 stands for its fused multiply-add,
    which rounds once.
    """
    step = (((x + 1) * 0.5).double() * 65535 + 0.5).float().floor()
    return 2 * step / 65535 - 1


def _check_state(s: QuantState) -> None:
    _validate.require(isinstance(s, QuantState), "quant_state", "a QuantState", type(s).__name__, TypeError)
