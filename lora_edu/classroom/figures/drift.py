"""How far a weight drifts when updates are added and subtracted again and again."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike

from lora_edu.classroom.figures import _sentences as say
from lora_edu.classroom.figures._canvas import STYLE, Picture
from lora_edu.classroom.figures.charts import lines

LIMITS = 1e-10, 3.0


def drift(
    errors: Mapping[str, ArrayLike],
    *,
    update: float,
    title: str = "",
    alt: str | None = None,
    ax: Picture | None = None,
) -> Picture:
    """Draw relative errors of a weight over swaps, both axes logarithmic, beside the size of the update.

    Parameters
    ----------
    errors : mapping of str to array
        Label to |W now - W| / |W| after 1, 2, 3, … swaps, above 0, all of one length.
    update : float
        The size of an update, relative to W; it is marked.
    title, alt, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or the lengths differ.
    """
    mark = {f"an update: {say.number(100 * update)} % of W": (None, update)}
    axes = {"xlabel": "swaps", "ylabel": "error, as a share of W", "ylim": LIMITS}
    picture = lines(errors, log_y=True, mark=mark, title=title, alt=alt, ax=ax, **axes)  # pyright: ignore[reportArgumentType]
    swaps = max(len(np.asarray(values)) for values in errors.values())
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log")
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000) if tick <= swaps]
        picture.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        picture.set_yticks([1e-9, 1e-6, 1e-3, 1], ["1e-9", "1e-6", "0.1 %", "100 %"])
        picture.minorticks_off()
        for line in picture.lines[: len(errors)]:
            line.set_markevery([tick - 1 for tick in ticks])
    ends = [f"{name} {100 * float(np.asarray(values)[-1]):.2g} %" for name, values in errors.items()]
    text = f"Updates of {say.number(100 * update)} % of W. Error of W after {swaps} swaps: {say.listed(ends)}"
    picture.alt = alt or say.sentence(text)
    return picture
