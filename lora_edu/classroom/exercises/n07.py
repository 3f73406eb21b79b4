"""Exercises of notebook 07; 07.1 has a file of its own."""

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises import n07_floats
from lora_edu.methods.blockwise import nearest_level
from lora_edu.methods.codebook import symmetric_int_code, uniform_code

# ---------------------------------------------------------------- 07.2 nearest_index(x, code)


def nearest_index(x: float, code: Tensor) -> int:
    """Index, from 0, of the level of the code that is nearest to x."""
    return int((x - code).abs().argmin())


def _counted_from_one(x, code):
    return nearest_index(x, code) + 1


def _level_itself(x, code):
    return code[nearest_index(x, code)].item()


def _level_below(x, code):
    return max(0, int((code <= x).sum()) - 1)


def _level_above(x, code):
    return min(len(code) - 1, int((code < x).sum()))


def _largest_difference_down(x, code):
    return int((x - code).argmin())


def _largest_difference_up(x, code):
    return int((code - x).argmin())


def _farthest(x, code):
    return int((x - code).abs().argmax())


def _as_if_even(x, code):
    return round((x + 1) / 2 * (len(code) - 1))


def _values_and_codes():
    uneven = torch.tensor([-1.0, -0.3, -0.1, 0.0, 0.25, 1.0])
    even, symmetric = uniform_code(4), symmetric_int_code(4)
    return [
        (0.23456, even),
        (0.31, even),
        (0.0, symmetric),
        (-0.95, symmetric),
        (-0.6, uneven),
        (0.5, uneven),
        (0.7, uneven),
    ]


# ---------------------------------------------------------------- 07.3 quantize_blocks(W, code, blocksize)


def quantize_blocks(W: Tensor, code: Tensor, blocksize: int) -> tuple[Tensor, Tensor]:
    """Index of each weight, in W's shape, and the absmax of each block; blocksize divides W.numel()."""
    blocks = W.view(-1, blocksize)
    absmax = blocks.abs().amax(1)
    return nearest_level(blocks / absmax[:, None], code).view(W.shape), absmax


def _one_absmax(W, code, blocksize):
    absmax = W.abs().max()
    return nearest_level(W / absmax, code), absmax.expand(W.numel() // blocksize)


def _one_absmax_as_number(W, code, blocksize):
    absmax = W.abs().max()
    return nearest_level(W / absmax, code), absmax


def _one_absmax_in_a_list(W, code, blocksize):
    absmax = W.abs().max()
    return nearest_level(W / absmax, code), absmax[None]


def _one_absmax_for_the_indices(W, code, blocksize):
    return nearest_level(W / W.abs().max(), code), W.view(-1, blocksize).abs().amax(1)


def _absmax_of_places(W, code, blocksize):
    blocks = W.view(-1, blocksize)
    absmax = blocks.abs().amax(0)
    return nearest_level(blocks / absmax, code).view(W.shape), absmax


def _absmax_of_rows(W, code, blocksize):
    absmax = W.abs().amax(-1)
    return nearest_level(W / absmax[..., None], code), absmax


def _swapped(W, code, blocksize):
    return quantize_blocks(W, code, blocksize)[::-1]


def _largest_without_sign(W, code, blocksize):
    blocks = W.view(-1, blocksize)
    largest = blocks.amax(1)
    return nearest_level(blocks / largest[:, None], code).view(W.shape), largest


def _mean_magnitude(W, code, blocksize):
    blocks = W.view(-1, blocksize)
    mean = blocks.abs().mean(1)
    return nearest_level(blocks / mean[:, None], code).view(W.shape), mean


def _not_scaled(W, code, blocksize):
    return nearest_level(W, code), W.view(-1, blocksize).abs().amax(1)


def _multiplied(W, code, blocksize):
    blocks = W.view(-1, blocksize)
    absmax = blocks.abs().amax(1)
    return nearest_level(blocks * absmax[:, None], code).view(W.shape), absmax


def _strided_blocks(W, code, blocksize):
    blocks = W.reshape(blocksize, -1)
    absmax = blocks.abs().amax(0)
    return nearest_level(blocks / absmax, code).view(W.shape), absmax


def _blocksize_as_count(W, code, blocksize):
    return quantize_blocks(W, code, W.numel() // blocksize)


def _blocks_left_as_rows(W, code, blocksize):
    indices, absmax = quantize_blocks(W, code, blocksize)
    return indices.view(-1, blocksize), absmax


def _levels(W, code, blocksize):
    indices, absmax = quantize_blocks(W, code, blocksize)
    return code[indices], absmax


def _read_back(W, code, blocksize):
    levels, absmax = _levels(W, code, blocksize)
    return (levels.view(-1, blocksize) * absmax[:, None]).view(W.shape), absmax


def _weights_in_blocks():
    W = torch.randn(
        8, 12, generator=torch.Generator().manual_seed(63)
    )  # no weight lies near the middle of two levels
    W[2, 3] = -20.0
    return [(W, symmetric_int_code(4), 16), (W, uniform_code(3), 4), (W.flatten(), uniform_code(4), 12)]


# ------------------------------------------- 07.4 bits_per_parameter(bits, blocksize, constant_bits)


def bits_per_parameter(bits: int, blocksize: int, constant_bits: int) -> float:
    """Bits of one weight: its index, and its share of the constants of its block."""
    return bits + constant_bits / blocksize


def _no_constants(bits, blocksize, constant_bits):
    return float(bits)


def _whole_constant(bits, blocksize, constant_bits):
    return bits + constant_bits


def _rounded_down(bits, blocksize, constant_bits):
    return bits + constant_bits // blocksize


def _index_shared(bits, blocksize, constant_bits):
    return (bits + constant_bits) / blocksize


def _bits_of_a_block(bits, blocksize, constant_bits):
    return bits * blocksize + constant_bits


def _upside_down(bits, blocksize, constant_bits):
    return bits + blocksize / constant_bits


def _constants_in_bytes(bits, blocksize, constant_bits):
    return bits + constant_bits / 8 / blocksize


def _always_32(bits, blocksize, constant_bits):
    return bits + 32 / blocksize


def _in_bytes(bits, blocksize, constant_bits):
    return (bits + constant_bits / blocksize) / 8


def _settings():
    return [(4, 64, 32), (4, 8, 32), (8, 4096, 32), (3, 128, 16), (4, 64, 8), (5, 32, 32)]


EXERCISES = {
    "07.1": n07_floats.EXERCISE,
    "07.2": Exercise(
        solution=nearest_index,
        cases=_values_and_codes,
        wrong_answers=(
            WrongAnswer(
                _counted_from_one,
                "You count levels from 1. An index counts from 0, or four bits could not hold the last one.",
            ),
            WrongAnswer(_level_itself, "That is the level. What is stored is where it stands in the code."),
            WrongAnswer(_level_below, "You round down always. The level above may be nearer."),
            WrongAnswer(_level_above, "You round up always. The level below may be nearer."),
            WrongAnswer(
                _largest_difference_down,
                "You look for the smallest difference with its sign: the most negative one. How far is a distance?",
            ),
            WrongAnswer(
                _largest_difference_up,
                "You look for the smallest of code - x, sign and all: that is always the first level.",
            ),
            WrongAnswer(_farthest, "That is the level farthest away."),
            WrongAnswer(
                _as_if_even,
                "Right for even levels alone. A code may have levels at uneven distances: compare with each.",
            ),
        ),
    ),
    "07.3": Exercise(
        solution=quantize_blocks,
        cases=_weights_in_blocks,
        wrong_answers=(
            WrongAnswer(
                _one_absmax,
                "You scale all blocks by the largest weight of the whole tensor: the outlier still rules everywhere.",
                (_one_absmax_as_number, _one_absmax_in_a_list),
            ),
            WrongAnswer(
                _one_absmax_for_the_indices,
                "You return the absmax of each block, but your indices come from the absmax of the whole tensor.",
            ),
            WrongAnswer(
                _absmax_of_places,
                "amax(0) is the largest at each place, over all blocks. With a block a row, amax(1) is one a block.",
            ),
            WrongAnswer(
                _absmax_of_rows,
                "You take one absmax a row of W. A block is a run of `blocksize` weights, whatever the rows are.",
            ),
            WrongAnswer(
                _swapped, "Both are right, in the other order. Return the indices first, then the absmax."
            ),
            WrongAnswer(
                _largest_without_sign,
                "You take the largest weight, not the largest magnitude. A block's outlier may be negative.",
            ),
            WrongAnswer(
                _mean_magnitude,
                "You scale by the mean magnitude. Then weights above it leave [-1, 1] and are cut off.",
            ),
            WrongAnswer(
                _not_scaled,
                "You return the scales, but look up the weights unscaled. The levels lie in [-1, 1].",
            ),
            WrongAnswer(_multiplied, "You multiply by absmax. That moves weights away from [-1, 1]."),
            WrongAnswer(
                _strided_blocks,
                "Your blocks take every so-many-th weight. A block is a run of neighbours in row-major order.",
            ),
            WrongAnswer(
                _blocksize_as_count,
                "You make as many blocks as `blocksize` says. It is the number of weights in a block.",
            ),
            WrongAnswer(
                _blocks_left_as_rows, "The indices have the shape of the blocks. Give them that of W."
            ),
            WrongAnswer(_levels, "You return levels. What is stored are their indices."),
            WrongAnswer(
                _read_back, "You return the weights as they are read back. Store indices; scales go apart."
            ),
        ),
    ),
    "07.4": Exercise(
        solution=bits_per_parameter,
        cases=_settings,
        wrong_answers=(
            WrongAnswer(_no_constants, "You count the indices alone. Each block stores constants as well."),
            WrongAnswer(_whole_constant, "You give every weight constants of its own. A block shares them."),
            WrongAnswer(
                _rounded_down, "You round down with `//`. A weight's share may be a fraction of a bit."
            ),
            WrongAnswer(_index_shared, "You share the index too. Every weight has an index of its own."),
            WrongAnswer(_bits_of_a_block, "Those are the bits of a whole block. Return those of one weight."),
            WrongAnswer(
                _upside_down,
                "Your weights cost more when blocks grow. More weights share the constants then, so each pays less.",
            ),
            WrongAnswer(_constants_in_bytes, "You add bytes to bits: the constants come in bits already."),
            WrongAnswer(_always_32, "You take 32 bits of constants, whatever `constant_bits` says."),
            WrongAnswer(_in_bytes, "That is in bytes. Return bits."),
        ),
    ),
}
