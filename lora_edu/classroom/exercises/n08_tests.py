"""Exercises 08.5 and 08.6: a test that storing twice is storing once, and one scale in 256 that comes back wrong."""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises.n08 import EXERCISES as EARLIER
from lora_edu.classroom.written_tests import chosen, written_test
from lora_edu.methods.blockwise import dequantize_blockwise, nearest_level, quantize_blockwise
from lora_edu.methods.codebook import nf4_code, uniform_code
from lora_edu.methods.nf4 import dequantize_nf4, quantize_nf4

# ---------------------------------------------------------------- 08.5 loses_once(round_trip)


def loses_once(round_trip: Callable) -> bool:
    """Whether what was stored and read back stays as it is when it is stored again, up to rounding."""
    once = round_trip(torch.randn(640))
    return torch.allclose(round_trip(once), once, atol=1e-5)


def _nf4(W):
    return dequantize_nf4(*quantize_nf4(W))


def _even_levels(W):
    code = uniform_code(4)
    return dequantize_blockwise(*quantize_blockwise(W, code, 32), code, 32)


def _symmetric_int4(W):
    """Seven steps of a rounded seventh of absmax: absmax again, but for its last bit."""
    blocks = W.reshape(-1, 16)
    step = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) * (1 / 7)
    return ((blocks / step).round() * step).view(W.shape)


def _packed_by(pack: Callable) -> Callable:
    """NF4 whose bytes are made by an answer to 08.3, and read as bitsandbytes reads them."""

    def round_trip(W):
        indices, absmax = quantize_blockwise(W.flatten(), nf4_code())
        packed = pack(indices)
        halves = torch.stack([packed >> 4, packed & 15], 1).flatten()
        return dequantize_blockwise(halves, absmax, nf4_code()).view(W.shape)

    return round_trip


def _with_levels_of(derive: Callable) -> Callable:
    """Blocks of 64 over their absmax, to the nearest level of an answer to 08.1."""

    def round_trip(W):
        code, blocks = derive(0.9677083).float(), W.reshape(-1, 64)
        absmax = blocks.abs().amax(1, keepdim=True)
        return (code[nearest_level(blocks / absmax, code)] * absmax).view(W.shape)

    return round_trip


def _block_by_block(minmax: Callable) -> Callable:
    """Blocks of 32 by an answer to 08.2."""
    return lambda W: torch.cat([minmax(block) for block in W.flatten().split(32)]).view(W.shape)


def _lose_twice() -> tuple[WrongAnswer, ...]:
    bytes_of = chosen(EARLIER["08.3"], "_low_half_first", "_decimal", "_fifteen", "_overlaid", "_halves")
    levels = chosen(EARLIER["08.1"], "_not_divided", "_not_sorted", "_paper_literally")
    blocks = chosen(EARLIER["08.2"], "_rounded_down")
    makers = [*[_packed_by] * len(bytes_of), *[_with_levels_of] * len(levels), _block_by_block]
    answers = (*bytes_of, *levels, *blocks)
    return tuple(WrongAnswer(make(a.function), a.hint) for make, a in zip(makers, answers, strict=True))


def _to_the_last_bit(round_trip):
    once = round_trip(torch.randn(640))
    return torch.equal(round_trip(once), once)


def _zeros(round_trip):
    once = round_trip(torch.zeros(640))
    return torch.equal(round_trip(once), once)


def _all_alike(round_trip):
    once = round_trip(torch.ones(640))
    return torch.allclose(round_trip(once), once, atol=1e-5)


def _lengths(round_trip):
    once = round_trip(torch.randn(640))
    return torch.allclose(round_trip(once).norm(), once.norm())


def _sorted(round_trip):
    once = round_trip(torch.randn(640))
    return torch.allclose(round_trip(once).sort().values, once.sort().values, atol=1e-5)


# ---------------------------------------------------------------- 08.6 scales_in_8_bits(absmax, blocksize)


def planted_scales(absmax: Tensor, blocksize: int) -> Tensor:
    """The scales as 8-bit codes give them back, with a fault."""
    mean = absmax.mean()
    blocks = (absmax - mean).view(-1, blocksize)
    largest = blocks.abs().amax(1, keepdim=True)
    codes = (128 * blocks / largest).round().int()
    stored = codes.to(torch.int8)
    return (stored / 128 * largest + mean).flatten()


def scales_in_8_bits(absmax: Tensor, blocksize: int) -> Tensor:
    """The scales as 8-bit codes give them back: even steps, the largest deviation at code 127 or -127."""
    return _in_steps(absmax, blocksize, 127, 127)


def _in_steps(absmax, blocksize, write, read, store=lambda codes: codes.to(torch.int8)):
    mean = absmax.mean()
    blocks = (absmax - mean).view(-1, blocksize)
    largest = blocks.abs().amax(1, keepdim=True)
    codes = (write * blocks / largest).round().int()
    return (store(codes) / read * largest + mean).flatten()


def _cut_off(absmax, blocksize):
    return _in_steps(absmax, blocksize, 128, 128, lambda codes: codes.clamp(max=127))


def _wider(absmax, blocksize):
    return _in_steps(absmax, blocksize, 128, 128, lambda codes: codes.to(torch.int16))


def _of_either_sign(absmax, blocksize):
    """256 codes, of which each block turns the 128 below the mean to where its largest deviation is."""
    mean = absmax.mean()
    blocks = (absmax - mean).view(-1, blocksize)
    largest = -blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    codes = (128 * blocks / largest).round().clamp(-128, 127)
    return (codes / 128 * largest + mean).flatten()


def _without_sign(absmax, blocksize):
    return _in_steps(absmax, blocksize, 128, 128, lambda codes: codes.to(torch.uint8))


def _written_in_others(absmax, blocksize):
    return _in_steps(absmax, blocksize, 127, 128)


def _read_in_others(absmax, blocksize):
    return _in_steps(absmax, blocksize, 128, 127)


def _scales():
    for seed, blocksize in ((0, 16), (1, 64), (2, 32)):
        weights = torch.randn(128, 64, generator=torch.Generator().manual_seed(seed))
        yield weights.abs().amax(1), blocksize


EXERCISES = {
    "08.5": written_test(
        solution=loses_once,
        right=(_nf4, _even_levels, _symmetric_int4),
        wrong=_lose_twice(),
        weak=(
            WrongAnswer(
                _to_the_last_bit,
                "You ask for equality to the last bit. A right format may round its scale when it divides by it.",
            ),
            WrongAnswer(_zeros, "All your weights are zero. Then codes and scales hardly matter."),
            WrongAnswer(_all_alike, "All your weights are alike. Whoever mixes them up is not found."),
            WrongAnswer(
                _lengths,
                "You compare one number of all weights. It stays where two weights change places.",
                (_sorted,),
            ),
        ),
    ),
    "08.6": Exercise(
        solution=scales_in_8_bits,
        cases=_scales,
        wrong_answers=(
            WrongAnswer(
                _cut_off,
                "Now the largest scale of a block is cut off, and comes back one step too small. It may lose nothing.",
            ),
            WrongAnswer(
                _wider,
                "Your steps are a 128th of the largest. From -128 to 128 there are 257 codes, and 8 bits name 256: "
                "with as many above the mean as below, which is the largest code?",
                (_of_either_sign,),
            ),
            WrongAnswer(_without_sign, "uint8 has room for 128, and none for what lies below the mean."),
            WrongAnswer(
                _written_in_others,
                "You write in steps of 1/127 and read in steps of 1/128: all come back too near to the mean.",
            ),
            WrongAnswer(
                _read_in_others,
                "You read in other steps than you write, and the code that is wrong is still there.",
            ),
        ),
        planted=planted_scales,
        symptom="one scale of each block still comes back far too small.",
    ),
}
