"""How fast is a matrix turned into NF4 and back, and are the bytes bitsandbytes' own?

python -m benchmarks.nf4 [--device cuda] [--json FILE] [--quick]
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from benchmarks._harness import Contestants, Race, Result, Settings, main, relative_difference
from lora_edu import accel
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

CHUNK = 2**22
HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


def measure(settings: Settings) -> list[Result]:
    size, chunks = (512, 1) if settings.quick else (8192, 24)
    dtype = torch.float32 if settings.device.type == "cpu" else torch.bfloat16
    W = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(settings.device, dtype)
    compared = [compare_codes(dtype, chunks, settings.device) for dtype in (torch.float32, torch.bfloat16)]
    return [*quantize(W, settings), *dequantize(W, settings), *compared]


def quantize(W: Tensor, settings: Settings) -> list[Result]:
    """Codes and scales; torchao cannot but quantize its scales, one number in 64, too."""
    ours = {"plain": lambda: quantize_nf4(W), compiler(W): lambda: accel.quantize_nf4(W)}
    peers: Contestants = {"bitsandbytes": lambda: bnb_quantize(W)}
    if HAS_TORCHAO:
        peers["torchao"] = lambda: torchao_quantize(W)
    race = Race({**ours, **peers}, settings, unit_bytes=4 * W.numel())
    codes = {name: output[0].flatten() for name, output in race.outputs.items()}
    return [
        race.result("quantize", mine, peer, same_codes(codes[mine], codes[peer]))
        for mine in ours
        for peer in peers
    ]


def dequantize(W: Tensor, settings: Settings) -> list[Result]:
    """Into fresh memory, and into memory that is in use, which bitsandbytes cannot on a CPU."""
    packed, state = quantize_nf4(W)
    theirs, their_state = bnb_quantize(W)
    out = torch.empty_like(W)
    ours = {
        "plain": lambda: dequantize_nf4(packed, state),
        "plain, out=": lambda: dequantize_nf4(packed, state, out=out),
        f"{compiler(W)}, out=": lambda: accel.dequantize_nf4(packed, state, out=out),
    }
    peers: Contestants = {"bitsandbytes": lambda: bnb_dequantize(theirs, their_state)}
    if HAS_TORCHAO:
        peers["torchao"] = torchao_quantize(W)[1].get_original_weight
    race = Race({**ours, **peers}, settings, unit_bytes=4 * W.numel())
    return [
        race.result("dequantize", mine, peer, same_values(race.outputs[mine], race.outputs[peer]))
        for mine in ours
        for peer in peers
    ]


def compiler(W: Tensor) -> str:
    """What makes the fast path of ``lora_edu.accel`` for weights that lie there."""
    return "numba" if W.device.type == "cpu" else "triton"


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
