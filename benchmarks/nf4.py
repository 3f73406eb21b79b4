"""How fast is a matrix turned into NF4 and back, and are the bytes bitsandbytes' own?

python -m benchmarks.nf4 [--device cuda] [--json FILE] [--quick]
"""

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import Contestants, Race, Result, Settings, compiler, main, relative_difference
from lora_edu import accel
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

CHUNK = 2**22
COPY = "a copy"
HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


def measure(settings: Settings) -> list[Result]:
    size, chunks = (512, 1) if settings.quick else (8192, 24)
    dtype = torch.float32 if settings.device.type == "cpu" else torch.bfloat16
    W = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(settings.device, dtype)
    compared = [compare_codes(dtype, chunks, settings.device) for dtype in (torch.float32, torch.bfloat16)]
    return [*quantize(W, settings), *dequantize(W, settings), *compared]


def quantize(W: Tensor, settings: Settings) -> list[Result]:
    """Codes and scales; torchao cannot but quantize its scales, one number in 64, too."""
    ours = {"plain": lambda: quantize_nf4(W), compiler(W.device): lambda: accel.quantize_nf4(W)}
    peers: Contestants = {"bitsandbytes": lambda: bnb_quantize(W)}
    if HAS_TORCHAO:
        peers["torchao"] = lambda: torchao_quantize(W)
    race = Race({**ours, **peers, COPY: copy(W)}, settings, unit_bytes=4 * W.numel())
    codes = {name: race.outputs[name][0].flatten() for name in (*ours, *peers)}
    agreement = {(mine, peer): same_codes(codes[mine], codes[peer]) for mine in ours for peer in peers}
    return results("quantize", race, ours, agreement)


def dequantize(W: Tensor, settings: Settings) -> list[Result]:
    """Into fresh memory, and into memory that is in use, which bitsandbytes cannot on a CPU."""
    packed, state = quantize_nf4(W)
    theirs, their_state = bnb_quantize(W)
    out = torch.empty_like(W)
    ours = {
        "plain": lambda: dequantize_nf4(packed, state),
        "plain, out=": lambda: dequantize_nf4(packed, state, out=out),
        f"{compiler(W.device)}, out=": lambda: accel.dequantize_nf4(packed, state, out=out),
    }
    peers: Contestants = {"bitsandbytes": lambda: bnb_dequantize(theirs, their_state)}
    if HAS_TORCHAO:
        peers["torchao"] = torchao_quantize(W)[1].get_original_weight
    race = Race({**ours, **peers, COPY: copy(W)}, settings, unit_bytes=4 * W.numel())
    values = race.outputs
    agreement = {(mine, peer): same_values(values[mine], values[peer]) for mine in ours for peer in peers}
    return results("dequantize", race, ours, agreement)


def results(
    case: str, race: Race, ours: Iterable[str], agreement: dict[tuple[str, str], str]
) -> list[Result]:
    """Each of ours against its peers, and against the copy."""
    pairs = agreement | {(mine, COPY): "moves as many bytes" for mine in ours}
    return [race.result(case, mine, peer, text) for (mine, peer), text in sorted(pairs.items())]


def copy(W: Tensor) -> Callable[[], Tensor]:
    """Read and write as many bytes as quantizing must: the weights, their codes, their scales. Nothing is faster."""
    moved = W.nbytes + W.numel() // 2 + 4 * W.numel() // 64
    source, target = torch.zeros(2, moved // 2, dtype=torch.uint8, device=W.device)
    return lambda: target.copy_(source)


def compare_codes(dtype: torch.dtype, chunks: int, device: torch.device) -> Result:
    """Count the codes and the scales that differ from bitsandbytes' in many random weights."""
    generator = torch.Generator().manual_seed(1)
    codes = scales = 0
    for _ in range(chunks):
        W = torch.randn(CHUNK, generator=generator).to(device, dtype)
        packed, state = quantize_nf4(W)
        theirs, their_state = bnb_quantize(W)
        codes += different_codes(packed, theirs.flatten())
        scales += int((state.absmax != their_state.absmax).sum())
    agreement = f"{codes:,} of {chunks * CHUNK:,} codes differ, {scales:,} scales"
    return Result(f"codes, {dtype}".replace("torch.", ""), "plain", "bitsandbytes", agreement)


def bnb_quantize(W: Tensor) -> tuple[Tensor, Any]:
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(W, quant_type="nf4", blocksize=64)


def bnb_dequantize(packed: Tensor, state: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(packed, state)


def torchao_quantize(W: Tensor) -> tuple[Tensor, Any]:
    from torchao.quantization import to_nf4

    nf4_tensor = to_nf4(W, 64, 256)
    return nf4_tensor.quantized_data, nf4_tensor


def different_codes(packed: Tensor, others: Tensor) -> int:
    """How many of the 4-bit halves differ."""
    differing = packed ^ others
    return int((differing >> 4).count_nonzero() + (differing & 15).count_nonzero())


def same_codes(packed: Tensor, others: Tensor) -> str:
    differing = different_codes(packed, others)
    return f"{differing:,} codes differ" if differing else "same bytes"


def same_values(ours: Tensor, theirs: Tensor) -> str:
    if torch.equal(ours, theirs):
        return "same bytes"
    return f"values {relative_difference(ours, theirs):.1%} apart"


if __name__ == "__main__":
    main("Quantize and dequantize NF4", measure)
