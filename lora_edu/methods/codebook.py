r"""The numbers that a few bits can name: strictly ascending float32 levels in [-1, 1].

A block of weights is divided by its largest magnitude, so every weight falls in [-1, 1]. Each weight is then
replaced by the nearest level and stored as that level's index.
"""

from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from lora_edu.methods import _validate

# Dettmers et al. 2023, arXiv 2305.14314, appendix E: the sixteen levels of 4-bit NormalFloat.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def uniform_code(bits: int = 4) -> Float[Tensor, "levels"]:
    """``2**bits`` evenly spaced levels from -1 to 1; zero is not among them.

    Parameters
    ----------
    bits
        Width of an index, 1 … 8 bits.

    Raises
    ------
    TypeError, ValueError
        ``bits`` is no integer in 1 … 8.
    """
    _validate.integer("bits", bits, 1, 8)
    return torch.linspace(-1, 1, 2**bits, dtype=torch.float32)


def symmetric_int_code(bits: int = 4) -> Float[Tensor, "levels"]:
    """The integers ``-q … q`` over ``q = 2**(bits - 1) - 1``: for 4 bits (-7 … 7) / 7, fifteen levels.

    Parameters
    ----------
    bits
        Width of an index, 2 … 8 bits.

    Raises
    ------
    TypeError, ValueError
        ``bits`` is no integer in 2 … 8.
    """
    _validate.integer("bits", bits, 2, 8)
    q = 2 ** (bits - 1) - 1
    return torch.arange(-q, q + 1, dtype=torch.float32) / q


def nf4_code() -> Float[Tensor, "16"]:
    """4-bit NormalFloat as published: 7 negative levels, zero, 8 positive ones.

    References
    ----------
    Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, appendix E.
    """
    return torch.tensor(_NF4, dtype=torch.float32)


def derive_nf4_code() -> Float[Tensor, "16"]:
    """NF4 from the quantiles of N(0, 1): within 2e-7 of the published table.

    Each side is cut at evenly spaced probabilities between ``offset`` and one half, the half itself left out:
    8 levels on one side, 7 on the other, and zero; all are divided by the largest. ``offset`` is the mean of
    1 - 1/30 and 1 - 1/32. The paper's equation 4, taken literally, would ask for the quantile of 0, which is
    minus infinity; this construction is the one in its authors' code.

    References
    ----------
    Dettmers et al. 2023, arXiv 2305.14314, section 3, and ``create_normal_map`` in bitsandbytes.
    """
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    quantile = NormalDist().inv_cdf
    positive = [quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    negative = [-quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    levels = sorted([*negative, 0.0, *positive])
    return torch.tensor(levels, dtype=torch.float64).div(levels[-1]).float()


def fp4_code() -> Float[Tensor, "15"]:
    """4-bit floating point as bitsandbytes defines it: 0 and ± {1/192, 1/6, 1/4, 1/3, 1/2, 2/3, 1}.

    One sign bit, two exponent bits, one mantissa bit. Sixteen bit patterns name fifteen numbers, as zero has
    two. In the OCP format E2M1 the smallest level is 1/12 instead.
    """
    positive = torch.tensor([1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1])
    return torch.cat([-positive.flip(0), torch.zeros(1), positive])


def dynamic_code() -> Float[Tensor, "256"]:
    """The 8-bit map of bitsandbytes for scales: fine near zero, coarse near one.

    For each exponent e = -6 … 0 the interval [0.1, 1] * 10**e is cut into 2**(e + 6) equal parts, whose
    middles are levels, with both signs: the larger the number, the more bits are left for its fraction. Zero
    and one complete the 256.

    References
    ----------
    Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning", arXiv 1511.04561.
    """
    levels = [torch.tensor([0.0, 1.0])]
    for bits in range(7):
        edges = torch.linspace(0.1, 1, 2**bits + 1, dtype=torch.float32)
        middles = 10 ** (bits - 6) * ((edges[:-1] + edges[1:]) / 2)
        levels += [middles, -middles]
    return torch.cat(levels).sort().values
