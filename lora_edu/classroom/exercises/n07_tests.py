"""Exercises 07.5 and 07.6: a test of the bound on errors, and an error that depends on the order of two calls."""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_edu.classroom.checks import Exercise, WrongAnswer
from lora_edu.classroom.exercises.n07 import EXERCISES as EARLIER
from lora_edu.classroom.exercises.n07 import quantize_blocks
from lora_edu.classroom.written_tests import chosen, written_test
from lora_edu.methods import blockwise
from lora_edu.methods.codebook import symmetric_int_code, uniform_code

# ---------------------------------------------------------------- 07.5 keeps_the_bound(quantize)

UNEVEN = torch.tensor([-1.0, -0.3, -0.1, 0.0, 0.25, 1.0])


def _weights(*shape: int) -> Tensor:
    """Normal weights, of which one is a negative outlier."""
    W = torch.randn(shape)
    W.view(-1)[13] = -20.0
    return W


def _errors(quantize: Callable, W: Tensor, code: Tensor, blocksize: int) -> Tensor:
    """The error of each weight as it is read back, a block a row."""
    indices, absmax = quantize(W, code, blocksize)
    return (code[indices].view(-1, blocksize) * absmax[:, None] - W.view(-1, blocksize)).abs()


def _limit(W: Tensor, code: Tensor, blocksize: int) -> Tensor:
    """Half the widest gap, times the absmax of each block."""
    return W.view(-1, blocksize).abs().amax(1, keepdim=True) * code.diff().max() / 2


def _keeps(quantize, W, code, blocksize) -> bool:
    return bool((_errors(quantize, W, code, blocksize) <= 1.0001 * _limit(W, code, blocksize)).all())


def keeps_the_bound(quantize: Callable) -> bool:
    """Whether each weight is read back within half the widest gap, times the absmax of its block."""
    return _keeps(quantize, _weights(30, 10), UNEVEN, 4)


def _by_reciprocal(W, code, blocksize):
    blocks = W.reshape(-1, blocksize)
    absmax = blocks.abs().amax(1)
    return blockwise.nearest_level(blocks * (1 / absmax)[:, None], code).reshape(W.shape), absmax


def _in_units_of_the_weights(W, code, blocksize):
    middles, blocks = (code[1:] + code[:-1]) / 2, W.reshape(-1, blocksize)
    absmax = blocks.abs().amax(1)
    indices = [
        torch.bucketize(block, largest * middles) for block, largest in zip(blocks, absmax, strict=True)
    ]
    return torch.stack(indices).reshape(W.shape), absmax


def _smaller_scales(W, code, blocksize):
    """Other scales and other indices, within the bound: a quarter of a gap is cut off the largest weights."""
    blocks = W.reshape(-1, blocksize)
    scales = blocks.abs().amax(1) * (1 - code.diff().max() / 4)
    return blockwise.nearest_level((blocks / scales[:, None]).clamp(-1, 1), code).reshape(W.shape), scales


def _rounded_by(nearest: Callable) -> Callable:
    """A quantizer that finds each index by an answer to 07.2."""

    def quantize(W, code, blocksize):
        blocks = W.reshape(-1, blocksize)
        absmax = blocks.abs().amax(1)
        indices = [nearest(x, code) for x in (blocks / absmax[:, None]).flatten().tolist()]
        return torch.tensor(indices).view(W.shape), absmax

    return quantize


def _break_the_bound() -> tuple[WrongAnswer, ...]:
    scaled = chosen(
        EARLIER["07.3"],
        "_one_absmax",
        "_one_absmax_for_the_indices",
        "_absmax_of_places",
        "_absmax_of_rows",
        "_largest_without_sign",
        "_mean_magnitude",
        "_not_scaled",
        "_multiplied",
        "_strided_blocks",
        "_blocksize_as_count",
    )
    rounded = chosen(EARLIER["07.2"], "_level_below", "_level_above", "_as_if_even")
    return *scaled, *(WrongAnswer(_rounded_by(answer.function), answer.hint) for answer in rounded)


def _shapes_alone(quantize):
    indices, absmax = quantize(_weights(30, 10), UNEVEN, 4)
    return indices.shape == (30, 10) and absmax.shape == (75,)


def _a_single_block(quantize):
    return _keeps(quantize, _weights(64), UNEVEN, 64)


def _blocks_are_rows(quantize):
    return _keeps(quantize, _weights(30, 10), UNEVEN, 10)


def _as_many_blocks_as_rows_and_columns(quantize):
    return _keeps(quantize, _weights(12, 12), UNEVEN, 12)


def _no_negative_weight(quantize):
    return _keeps(quantize, _weights(30, 10).abs(), UNEVEN, 4)


def _even_levels(quantize):
    return _keeps(quantize, _weights(30, 10), uniform_code(4), 4)


def _symmetric_levels(quantize):
    return _keeps(quantize, _weights(30, 10), symmetric_int_code(4), 4)


def _absmax_as_returned(quantize):
    W = _weights(30, 10)
    _, absmax = quantize(W, UNEVEN, 4)
    limit = absmax[:, None] * UNEVEN.diff().max() / 2
    return bool((_errors(quantize, W, UNEVEN, 4) <= 1.0001 * limit).all())


def _largest_of_all(quantize):
    W = _weights(30, 10)
    limit = W.abs().max() * UNEVEN.diff().max() / 2
    return bool((_errors(quantize, W, UNEVEN, 4) <= limit).all())


def _a_whole_gap(quantize):
    W = _weights(30, 10)
    return bool((_errors(quantize, W, UNEVEN, 4) <= 2 * _limit(W, UNEVEN, 4)).all())


def _as_my_own(quantize):
    W = _weights(30, 10)
    return all(map(torch.equal, quantize(W, UNEVEN, 4), quantize_blocks(W, UNEVEN, 4)))


# ---------------------------------------------------------------- 07.6 error_by_size(W, code, sizes)


def planted_errors(W: Tensor, code: Tensor, sizes: list[int]) -> list[float]:
    """The relative error of W in blocks of each size, with a fault."""
    length, errors = W.norm(), []
    for size in sizes:
        blocks = W.view(-1, size)
        absmax = blocks.abs().amax(1, keepdim=True)
        blocks /= absmax
        lost = (blocks - code[blockwise.nearest_level(blocks, code)]) * absmax
        errors.append((lost.norm() / length).item())
    return errors


def error_by_size(W: Tensor, code: Tensor, sizes: list[int]) -> list[float]:
    """The relative error of W in blocks of each size."""
    length, errors = W.norm(), []
    for size in sizes:
        blocks = W.view(-1, size)
        absmax = blocks.abs().amax(1, keepdim=True)
        x = blocks / absmax
        lost = (x - code[blockwise.nearest_level(x, code)]) * absmax
        errors.append((lost.norm() / length).item())
    return errors


def _in_one_order(W, code, sizes):
    errors = dict(zip(sorted(sizes), planted_errors(W, code, sorted(sizes)), strict=True))
    return [errors[size] for size in sizes]


def _length_of_what_is_left(W, code, sizes):
    return [planted_errors(W, code, [size])[0] for size in sizes]


def _in_units_of_absmax(W, code, sizes):
    errors = []
    for size in sizes:
        blocks = W.view(-1, size)
        x = blocks / blocks.abs().amax(1, keepdim=True)
        errors.append(((x - code[blockwise.nearest_level(x, code)]).norm() / W.norm()).item())
    return errors


def _weights_and_sizes():
    generator = torch.Generator().manual_seed(3)
    W, small, flat = (torch.randn(shape, generator=generator) for shape in ((16, 24), (8, 48), (384,)))
    code = symmetric_int_code(4)
    return [(W, code, [64, 16]), (small / 20, code, [8, 96, 24]), (flat, uniform_code(3), [32])]


EXERCISES = {
    "07.5": written_test(
        solution=keeps_the_bound,
        right=(quantize_blocks, _by_reciprocal, _in_units_of_the_weights, _smaller_scales),
        wrong=_break_the_bound(),
        weak=(
            WrongAnswer(_shapes_alone, "You look at shapes alone. No weight is read back."),
            WrongAnswer(
                _a_single_block,
                "In your example there is one block: its absmax and the largest of the tensor are the same.",
            ),
            WrongAnswer(
                _blocks_are_rows, "In your example each block is a row. Let blocks end inside of rows."
            ),
            WrongAnswer(
                _as_many_blocks_as_rows_and_columns,
                "In your example rows, columns, blocks and weights in a block are all as many. Take four numbers.",
            ),
            WrongAnswer(
                _no_negative_weight,
                "The largest weights of your blocks are all positive. What of a block whose outlier is negative?",
            ),
            WrongAnswer(
                _even_levels,
                "Your levels are evenly spaced. The law holds for any code.",
                (_symmetric_levels,),
            ),
            WrongAnswer(
                _absmax_as_returned,
                "Your limit comes from the absmax that the function returns. One too large allows itself any error.",
            ),
            WrongAnswer(
                _largest_of_all,
                "Your limit comes from the largest weight of the tensor. The law speaks of each block's own.",
            ),
            WrongAnswer(
                _a_whole_gap, "You allow a whole gap. To the nearest level it is half of one at most."
            ),
            WrongAnswer(
                _as_my_own,
                "You ask for the indices and scales of 07.3. Others keep the law too: test the law alone.",
            ),
        ),
    ),
    "07.6": Exercise(
        solution=error_by_size,
        cases=_weights_and_sizes,
        wrong_answers=(
            WrongAnswer(
                _in_one_order,
                "You fix the order of the sizes. Each still finds what the one before it has left.",
            ),
            WrongAnswer(
                _length_of_what_is_left,
                "You measure the length anew for each size. By then it is the length of other weights.",
            ),
            WrongAnswer(
                _in_units_of_absmax,
                "Your errors are those of weights over their absmax. Multiplied by it, they are in W's own units.",
            ),
        ),
        planted=planted_errors,
        symptom="the error of a size still depends on the sizes that come before it.",
    ),
}
