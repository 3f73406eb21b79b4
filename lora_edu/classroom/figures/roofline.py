"""How close to the hardware a piece of code comes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lora_edu.classroom.figures._canvas import Picture, drawing
from lora_edu.classroom.figures._marks import label
from lora_edu.classroom.figures._sentences import listed, number, sentence
from lora_edu.classroom.figures.palette import COLORS, INK, MARKERS


def roofline(
    points: Mapping[str, tuple[float, float, float]],
    *,
    bandwidth: float,
    peak: float,
    alt: str | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw the roof that memory and arithmetic put over any code, and where pieces of code stand below it.

    Parameters
    ----------
    points : mapping of str to tuple of float
        Label to (operations, bytes moved, seconds), each above 0.
    bandwidth : float
        Bytes a second that memory moves, above 0: the slope of the roof.
    peak : float
        Operations a second, above 0: its flat part.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, there is no point, or a number is not above 0.

    References
    ----------
    Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52 (4), doi 10.1145/1498765.1498785.
    """
    if not points:
        raise ValueError("points must be at least one, got none")
    for name, numbers in {"bandwidth": (bandwidth,), "peak": (peak,), **points}.items():
        if not min(numbers) > 0:
            raise ValueError(f"{name} must be above 0, got {numbers}")
    intensity = {name: operations / moved for name, (operations, moved, _) in points.items()}
    ends = peak / bandwidth * np.array([1 / 300, 1, 10])
    with drawing(alt, ax) as picture:
        picture.loglog(ends, np.minimum(peak, bandwidth * ends), color=INK, label="what the chip allows")
        for index, (name, (operations, _, seconds)) in enumerate(points.items()):
            picture.loglog(
                intensity[name],
                operations / seconds,
                color=COLORS[index % len(COLORS)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle="",
                markersize=11,
                label=name,
            )
        label(picture, "operations a byte moved", "operations a second", title)
        # Points may lie anywhere below the roof, so beside the axes.
        picture.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=13)
        reached = {
            name: operations / seconds / min(peak, bandwidth * intensity[name])
            for name, (operations, _, seconds) in points.items()
        }
        picture.alt = sentence(
            f"The roof bends at {number(peak / bandwidth)} operations a byte",
            f"Of what it allows, {listed(f'{name} reaches {share:.0%}' for name, share in reached.items())}",
        )
    return picture
