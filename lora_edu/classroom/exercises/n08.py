"""Exercises of notebook 08."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, Law, WrongAnswer
from lora_edu.classroom.experiments.four_bit_formats import normal_code

# ---------------------------------------- 08.1 derive_nf4(offset)


def _quantiles(start: float, count: int) -> Tensor:
    """Quantiles at `count` even probabilities from `start` towards one half, the half itself left out."""
    return torch.special.ndtri(torch.linspace(start, 0.5, count + 1, dtype=torch.float64)[:-1])


def _scaled(*parts: Tensor) -> Tensor:
    levels = torch.cat(parts).sort().values
    return levels / levels[-1]


def _sides_swapped(offset):
    return -normal_code(offset).flip(0)


def _no_zero(offset):
    return _scaled(-_quantiles(offset, 8), _quantiles(offset, 8))


def _zero_twice(offset):
    half = torch.linspace(offset, 0.5, 8, dtype=torch.float64)
    return _scaled(-torch.special.ndtri(half), torch.special.ndtri(half))


def _zero_three_times(offset):
    sides = (torch.linspace(offset, 0.5, n, dtype=torch.float64) for n in (7, 8))
    negative, positive = map(torch.special.ndtri, sides)
    return _scaled(-negative, torch.zeros(1), positive)


def _seven_each(offset):
    return _scaled(-_quantiles(offset, 7), torch.zeros(1), _quantiles(offset, 7))


def _not_divided(offset):
    return normal_code(offset) * torch.special.ndtri(torch.tensor(offset, dtype=torch.float64))


def _not_sorted(offset):
    largest = _quantiles(offset, 8)[0]
    return torch.cat([_quantiles(offset, 8), torch.zeros(1), -_quantiles(offset, 7)]) / largest


def _even_values(offset):
    return torch.cat([torch.linspace(-1, 0, 8), torch.linspace(0, 1, 9)[1:]]).double()


def _paper_literally(offset):
    i = torch.arange(16, dtype=torch.float64)
    return (torch.special.ndtri(i / 17) + torch.special.ndtri((i + 1) / 17)) / 2


def _in_float64_throughout(function, offset) -> bool:
    levels = function(offset)
    return levels.dtype == torch.float64 and bool(((levels - normal_code(offset)).abs() < 1e-10).all())


def _offset_cases():
    return [(0.9677083,), (0.95,), (0.99,)]


# ---------------------------------------- 08.2 minmax_int4(block)


def minmax_int4(block: Tensor) -> Tensor:
    """The block as sixteen even levels from its smallest to its largest weight give it back."""
    low, high = block.min(), block.max()
    step = (high - low) / 15
    return low + step * ((block - low) / step).round()


def _sixteen_steps(block):
    low = block.min()
    step = (block.max() - low) / 16
    return low + step * ((block - low) / step).round()


def _rounded_down(block):
    low = block.min()
    step = (block.max() - low) / 15
    return low + step * ((block - low) / step).floor()


def _indices(block):
    low = block.min()
    return ((block - low) * 15 / (block.max() - low)).round()


def _low_forgotten(block):
    return minmax_int4(block) - block.min()


def _low_not_taken(block):
    step = (block.max() - block.min()) / 15
    return step * (block / step).round()


def _absmax(block):
    largest = block.abs().max()
    return minmax_int4(torch.cat([block, largest[None], -largest[None]]))[:-2]


def _blocks():
    generator = torch.Generator().manual_seed(0)
    for size in (8, 64):
        yield (torch.randn(size, generator=generator, dtype=torch.float64),)
    yield (torch.tensor([1.0, 1.85, 3.25, 4.0, 2.45], dtype=torch.float64),)


# ---------------------------------------- 08.3 pack(indices)


def pack(indices: Tensor) -> Tensor:
    """Two 4-bit indices a byte, the even element in the high half; an even number of them."""
    return 16 * indices[::2] + indices[1::2]


def _low_half_first(indices):
    return indices[::2] + 16 * indices[1::2]


def _decimal(indices):
    return 10 * indices[::2] + indices[1::2]


def _fifteen(indices):
    return 15 * indices[::2] + indices[1::2]


def _eight_bits_up(indices):
    return indices[::2].int() * 256 + indices[1::2]


def _overlaid(indices):
    return indices[::2] + indices[1::2]


def _halves(indices):
    first, second = indices.chunk(2)
    return 16 * first + second


def _makes_bytes(function, indices) -> bool:
    return function(indices).dtype == torch.uint8


def _index_lists():
    generator = torch.Generator().manual_seed(1)
    yield (torch.tensor([15, 0, 7, 8], dtype=torch.uint8),)
    yield (torch.randint(16, (10,), generator=generator, dtype=torch.uint8),)


# ---------------------------------------- 08.4 bits_per_weight(blocksize, nested_blocksize)


def bits_per_weight(blocksize: int, nested_blocksize: int) -> float:
    """Bits for each weight under double quantization: code, 8-bit scale, 32-bit scale of scales."""
    return 4 + 8 / blocksize + 32 / (blocksize * nested_blocksize)


EXERCISES = {
    "08.1": Exercise(
        normal_code,
        _offset_cases,
        (
            WrongAnswer(_sides_swapped, "Eight levels are on your negative side. The extra one is positive."),
            WrongAnswer(
                _no_zero,
                "No level is zero: a weight that is exactly zero would be read back as something else.",
            ),
            WrongAnswer(
                _zero_twice,
                "Zero is there twice, since the quantile of one half is zero: a code is wasted.",
            ),
            WrongAnswer(
                _zero_three_times,
                "Zero is there three times. The quantile of one half is zero already: leave the half out.",
            ),
            WrongAnswer(_seven_each, "That is 15 levels. Four bits can name 16: one side takes one more."),
            WrongAnswer(
                _not_divided, "These are standard deviations. A block over its absmax ends at -1 and 1."
            ),
            WrongAnswer(_not_sorted, "The right numbers, in the wrong order: a code ascends."),
            WrongAnswer(
                _even_values,
                "Your values are evenly spaced. Space the probabilities evenly, then ask for their quantiles.",
            ),
            WrongAnswer(
                _paper_literally,
                "That is the printed formula: its first level is minus infinity, and it uses no offset.",
            ),
        ),
        (
            Law(
                "the levels are float64, and were at every step: float32 on the way leaves errors of 1e-8.",
                _in_float64_throughout,
            ),
        ),
    ),
    "08.2": Exercise(
        minmax_int4,
        _blocks,
        (
            WrongAnswer(
                _sixteen_steps, "Sixteen levels have fifteen gaps between them; you made seventeen levels."
            ),
            WrongAnswer(_rounded_down, "You always take the level below. The nearest one may be above."),
            WrongAnswer(_indices, "These are indices, 0 to 15. Turn them back into weights."),
            WrongAnswer(
                _low_forgotten, "Every weight is shifted by the same amount. Where do the levels start?"
            ),
            WrongAnswer(
                _low_not_taken,
                "Your levels are multiples of the step. They should start at the smallest weight.",
            ),
            WrongAnswer(
                _absmax,
                "Your levels run from -absmax to absmax. Where a block reaches less far, some are wasted.",
            ),
        ),
    ),
    "08.3": Exercise(
        pack,
        _index_lists,
        (
            WrongAnswer(
                _low_half_first, "Your even elements are in the low half. bitsandbytes puts them in the high."
            ),
            WrongAnswer(_decimal, "You shift by one decimal digit. A 4-bit number has how many values?"),
            WrongAnswer(
                _fifteen, "15 is the largest index, not the number of indices: two pairs can share a byte."
            ),
            WrongAnswer(_eight_bits_up, "You shift by a whole byte. A 4-bit number needs half of one."),
            WrongAnswer(_overlaid, "You add without shifting, so the two cannot be told apart again."),
            WrongAnswer(_halves, "You pair the first half with the second. Pair neighbours."),
        ),
        (Law("each pair takes one byte: the result is uint8. An int64 takes eight.", _makes_bytes),),
    ),
    "08.4": Exercise(
        bits_per_weight,
        lambda: [(64, 256), (128, 256), (64, 64), (32, 128)],
        (
            WrongAnswer(
                lambda blocksize, nested_blocksize: 4 + 32 / blocksize,
                "That is without double quantization: your scales are still 32-bit.",
            ),
            WrongAnswer(
                lambda blocksize, nested_blocksize: 4 + 8 / blocksize,
                "The 8-bit scales have a scale of their own. It costs little, but not nothing.",
            ),
            WrongAnswer(
                lambda blocksize, nested_blocksize: 4 + 8 / blocksize + 32 / nested_blocksize,
                "A second-level scale is shared by that many scales, and each of those by a block of weights.",
            ),
            WrongAnswer(
                lambda blocksize, nested_blocksize: 4 + 8 / blocksize + 8 / (blocksize * nested_blocksize),
                "Both levels are 8-bit in your count. The second level stays in float32.",
            ),
            WrongAnswer(
                lambda blocksize, nested_blocksize: 4 + 40 / blocksize + 32 / (blocksize * nested_blocksize),
                "You count the 32-bit scales and their 8-bit codes. The codes replace them.",
            ),
            WrongAnswer(
                lambda blocksize, nested_blocksize: 8 / blocksize + 32 / (blocksize * nested_blocksize),
                "Those are the constants. The weight's own code takes bits too.",
            ),
            WrongAnswer(
                lambda blocksize, nested_blocksize: 0.5 + 1 / blocksize + 4 / (blocksize * nested_blocksize),
                "That is in bytes. Give bits.",
            ),
        ),
    ),
}
