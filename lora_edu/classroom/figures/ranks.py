"""What changes with the rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures._canvas import STYLE, Picture, median_and_range
from lora_edu.classroom.figures._marks import percent_ticks
from lora_edu.classroom.figures._sentences import over, percent, sentence
from lora_edu.classroom.figures.charts import lines
from lora_edu.classroom.language import label, numeral, say


def share_by_rank(
    shares: Mapping[str, ArrayLike],
    *,
    ranks: Sequence[int],
    alt: str | None = None,
    xlabel: str = "rank",
    ylabel: str = "",
    title: str = "",
    roles: Mapping[str, str] | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw shares (0 to 1) over a few ranks, evenly spaced whatever the ranks are.

    Parameters
    ----------
    shares : mapping of str to array
        Label to one share a rank; repeats as in `lines`. NaN leaves a gap.
    ranks : sequence of int
        The ranks, as the ticks name them.
    alt, xlabel, ylabel, title, roles, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit `ranks`.
    """
    positions = np.arange(len(ranks))
    picture = lines(
        shares, x=positions, xlabel=xlabel, ylabel=ylabel, title=title, roles=roles, alt=alt, ax=ax
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xticks(positions, [str(rank) for rank in ranks])
        picture.set_ylim(-0.03, 1.05)
        picture.yaxis.set_major_formatter(percent_ticks())
    picture.alt = alt or said_of_shares(shares, ranks, xlabel, ylabel)
    return picture


def said_of_shares(shares: Mapping[str, ArrayLike], ranks: Sequence[int], xlabel: str, ylabel: str) -> str:
    """For each line the share at the first and at the last rank that has one."""
    xlabel, ylabel = label(xlabel), label(ylabel)
    parts = [over(f"{ylabel[:1].upper()}{ylabel[1:]}", xlabel)] if ylabel else []
    for name, values in shares.items():
        middle, _, _ = median_and_range(values, name, len(ranks))
        known = np.flatnonzero(np.isfinite(middle))
        if len(known):
            first, last = known[0], known[-1]
            start, end = float(middle[first]), float(middle[last])
            told = say(
                "{start} at {first}, {end} at {last}",
                start=percent(start),
                first=numeral(f"{ranks[first]:,}"),
                end=percent(end),
                last=numeral(f"{ranks[last]:,}"),
            )
            parts.append(f"{label(name)}: {told}")
    return sentence(*parts)


def energy_by_rank(
    curves: Mapping[str, Sequence[float] | np.ndarray],
    *,
    alt: str | None = None,
    rank: int | None = None,
    title: str = "",
    roles: Mapping[str, str] | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw the share of energy (squared singular values, 0 to 1) that the first terms keep, and mark one rank.

    The axis of ranks is logarithmic: the small ranks, about which one asks, get most of the room.

    Parameters
    ----------
    curves : mapping of str to array
        Label to shares for rank 1, 2, 3, …, all of one length.
    rank : int, optional
        The rank to mark.
    alt, title, roles, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or the lengths differ.
    """
    mark = None if rank is None else {f"rank {rank}": (rank, None)}
    picture = lines(
        curves,
        xlabel="rank kept",
        ylabel="energy kept",
        title=title,
        roles=roles,
        mark=mark,
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.05)
        picture.yaxis.set_major_formatter(percent_ticks())
        doubled = [2**k for k in range(max(map(len, curves.values()), default=1).bit_length())]
        picture.set_xscale("log", base=2)
        picture.set_xticks(doubled, [str(tick) for tick in doubled])
        for line in picture.lines[: len(curves)]:
            line.set_markevery([tick - 1 for tick in doubled])
    return picture
