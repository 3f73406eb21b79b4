"""Which padded batches a fine-tune captures as CUDA graphs.

A graph replays fixed kernels over fixed memory, so each padded length is a graph of its own. A few lengths are chosen
from the training rows: with more of them less is padded, but each must be captured once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

MOST_LENGTHS = 4
"""So many graphs at most. They share one pool of memory, as large as the largest needs."""

CANDIDATES = 64
"""Lengths that are looked at, evenly spaced up to the longest row."""

WORTH = 0.05
"""A further length must save this fraction of the tokens of an average batch."""

CAPTURE = 20
"""And in all more than so many batches: a capture takes as long as replaying those, longer if they are small."""


@dataclass(frozen=True)
class GraphShape:
    """A padded batch.

    Attributes
    ----------
    rows
        Sequences.
    tokens
        Of each, padding included.
    scored
        The most tokens of such a batch that a loss is computed of.
    """

    rows: int
    tokens: int
    scored: int


def graph_shapes(examples: Sequence[dict[str, list[int]]], rows: int, batches: int) -> tuple[GraphShape, ...]:
    """Return the padded batches for these examples, `rows` at once, the shortest first.

    Parameters
    ----------
    examples
        Dicts of ``input_ids`` and ``labels``, -100 where nothing is scored.
    batches
        How many the training has, at most: with few, a further length takes longer to capture than it saves.
    """
    sizes = [len(example["input_ids"]) for example in examples]
    scored = [scored_tokens(example) for example in examples]
    shapes = []
    for tokens in choose_lengths(sizes, rows, worth=max(WORTH, CAPTURE / max(1, batches))):
        fitting = sorted(count for size, count in zip(sizes, scored, strict=True) if size <= tokens)
        shapes.append(GraphShape(rows, tokens, max(1, sum(fitting[-rows:]))))
    return tuple(shapes)


def scored_tokens(example: dict[str, list[int]]) -> int:
    """Return of how many tokens a loss is computed; the first of a row is predicted by nothing."""
    return sum(label != -100 for label in example["labels"][1:])


def padded_length(longest: int) -> int:
    """Return the length that a batch with the longest row of all, of so many tokens, is padded to."""
    return _rounded_up(longest, _grain(longest))


def choose_lengths(
    sizes: Sequence[int], rows: int, most: int = MOST_LENGTHS, worth: float = WORTH
) -> tuple[int, ...]:
    """Return the padded lengths, ascending, at most `most`, that pad random batches of `rows` rows least.

    Parameters
    ----------
    sizes
        Tokens of each row, at least 1.
    worth
        What fraction of the tokens each must save over one length fewer.

    Returns
    -------
    tuple of int
        Multiples of 8; the last holds the longest row.
    """
    lengths, chances = _longest_of_a_batch(sizes, rows)
    costs = _padded_tokens(lengths, chances, min(most, len(lengths)))
    count = 1
    while count < len(costs) and costs[count][0] < (1 - worth) * costs[count - 1][0]:
        count += 1
    return costs[count - 1][1]


def _longest_of_a_batch(sizes: Sequence[int], rows: int) -> tuple[list[int], list[float]]:
    """Return candidate lengths, and how likely each is the one that the longest row of a batch needs."""
    grain = _grain(max(sizes))
    needed = Counter(_rounded_up(size, grain) for size in sizes)
    lengths = sorted(needed)
    below = [(total / len(sizes)) ** rows for total in accumulate(needed[length] for length in lengths)]
    return lengths, [at_most - less for at_most, less in zip(below, [0.0, *below[:-1]], strict=True)]


def _grain(longest: int) -> int:
    return 8 * max(1, -(-longest // (8 * CANDIDATES)))


def _rounded_up(size: int, grain: int) -> int:
    return -(-size // grain) * grain


def _padded_tokens(
    lengths: list[int], chances: list[float], most: int
) -> list[tuple[float, tuple[int, ...]]]:
    """Return for 1 … `most` lengths the fewest tokens a row on average, and the lengths, by dynamic programming."""
    upto = [0.0, *accumulate(chances)]
    # best[i]: batches that need at most lengths[i], with lengths[i] chosen.
    best: list[tuple[float, tuple[int, ...]]] = [
        (upto[i + 1] * length, (length,)) for i, length in enumerate(lengths)
    ]
    found = [best[-1]]
    for _ in range(most - 1):
        best = [
            min(
                [best[i]]
                + [
                    (best[j][0] + (upto[i + 1] - upto[j + 1]) * length, (*best[j][1], length))
                    for j in range(i)
                ]
            )
            for i, length in enumerate(lengths)
        ]
        found.append(best[-1])
    return found
