"""The course's figures: arrays in, axes out, one house style.

A figure is the value of its cell and shows itself: a PNG, then its `alt` as a line of text. JupyterLab and
GitHub ignore the alternative text of an output's picture, so it stands below as well, where every screen
reader finds it. Every function requires `alt`: one sentence that says what there is to see. With `ax` given,
a function clears it and draws there; so `widgets.explore` redraws in place.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers tell apart; line
styles, markers and hatches repeat what the colour says.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--")
PANEL_INCHES = (7.2, 4.2)
STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "font.size": 14,  # legible from the last row
    "axes.titlesize": 15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "legend.edgecolor": "none",
}


class Picture(Axes):
    """Axes that a notebook shows as a PNG and a line of text."""

    alt = ""

    def __init__(self, figure: Figure, *position: int):
        super().__init__(figure, *position)
        self.canvas = FigureCanvasAgg(figure)

    def _ipython_display_(self) -> None:
        data, metadata = png_output(to_png(self), self.alt)
        display(data, metadata=metadata, raw=True)
        display(text_output(self.alt), raw=True)


def new_pictures(panels: int = 1) -> list[Picture]:
    """Empty axes side by side in one new figure.

    The figure is not registered with pyplot: nothing displays it a second time, or keeps it alive.
    """
    with mpl.rc_context(STYLE):
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * (1 + 0.5 * (panels - 1)), height), layout="constrained")
        pictures = [Picture(figure, 1, panels, index + 1) for index in range(panels)]
        for picture in pictures:
            figure.add_subplot(picture)
    return pictures


def to_png(picture: Picture) -> bytes:
    """The whole figure that a picture lies in."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # ticks are made only now
        # Not savefig, which draws twice. Without matplotlib's version in it, the file is the same everywhere.
        picture.canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def freeze_layout(picture: Picture) -> None:
    """Keep the axes where the last drawing put them: faster, and they stand still while a slider moves."""
    picture.canvas.figure.set_layout_engine("none")


def png_output(png: bytes, alt: str) -> tuple[dict, dict]:
    """Data and metadata of an output that shows a picture."""
    return {"image/png": base64.b64encode(png).decode("ascii")}, {"image/png": {"alt": alt}}


def text_output(text: str) -> dict:
    """Data of an output that shows a line of text."""
    return {"text/html": f"<p>{html.escape(text)}</p>", "text/plain": text}


@contextmanager
def _drawing(alt: str, ax: Picture | None) -> Iterator[Picture]:
    """Axes to draw on in the house style; `alt` belongs to what was drawn."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say in a sentence what the figure shows, got {alt!r}")
    with mpl.rc_context(STYLE):
        picture = new_pictures()[0] if ax is None else ax
        picture.clear()
        yield picture
    picture.alt = alt


def _median_and_range(values: ArrayLike, name: str, length: int | None) -> tuple[np.ndarray, ...]:
    """Median, lowest and highest over repeats, for one row of numbers or a row for each repeat (seed)."""
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    if rows.ndim != 2 or rows.size == 0 or length not in (None, rows.shape[1]):
        wanted = "(n,) or (repeats, n)" if length is None else f"({length},) or (repeats, {length})"
        raise ValueError(f"{name} must have shape {wanted}, got {np.shape(values)}")
    return np.median(rows, axis=0), rows.min(axis=0), rows.max(axis=0)


def _matrix(values: ArrayLike, name: str) -> np.ndarray:
    """A matrix with entries, as float64."""
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must have shape (rows, columns), got {matrix.shape}")
    return matrix


def _label(ax: Axes, xlabel: str, ylabel: str, title: str, legend: bool) -> None:
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if legend:
        ax.legend()


def lines(
    series: Mapping[str, ArrayLike],
    *,
    alt: str,
    x: ArrayLike | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log_y: bool = False,
    ax: Picture | None = None,
) -> Picture:
    """Draw one line a series; repeats become their median and a band from lowest to highest.

    Parameters
    ----------
    series : mapping of str to array
        Label to values, each of shape (n,) or (repeats, n).
    alt : str
        What there is to see, in a sentence; shown below the picture too.
    x : array, optional
        Shape (n,), shared by all series; 1 ... n if left out.
    xlabel, ylabel, title : str
        Texts, with units where there are any.
    log_y : bool
        Logarithmic y axis.
    ax : Picture, optional
        Where to draw; a new figure if left out.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    positions = None if x is None else np.asarray(x)
    with _drawing(alt, ax) as picture:
        for index, (name, values) in enumerate(series.items()):
            length = None if positions is None else len(positions)
            middle, low, high = _median_and_range(values, name, length)
            steps = np.arange(1, len(middle) + 1) if positions is None else positions
            color = COLORS[index % len(COLORS)]
            picture.plot(
                steps,
                middle,
                color=color,
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                marker=MARKERS[index % len(MARKERS)],
                markevery=max(1, len(middle) // 10),
                label=name,
            )
            if np.any(low < high):
                picture.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        picture.set_yscale("log" if log_y else "linear")
        _label(picture, xlabel, ylabel, title, legend=len(series) > 1)
    return picture


def loss_curve(
    losses: Mapping[str, ArrayLike],
    *,
    alt: str,
    steps: ArrayLike | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw training losses (nats a token) over optimizer steps; parameters as in `lines`."""
    return lines(losses, x=steps, xlabel="optimizer step", ylabel="loss", title=title, alt=alt, ax=ax)


def bars(
    series: Mapping[str, ArrayLike],
    *,
    groups: Sequence[str],
    alt: str,
    ylabel: str = "",
    title: str = "",
    number_format: str = "{:.3g}",
    ax: Picture | None = None,
) -> Picture:
    """Draw bars in groups; repeats become their median with a whisker from lowest to highest.

    Parameters
    ----------
    series : mapping of str to array
        Label to one value a group, each of shape (groups,) or (repeats, groups).
    groups : sequence of str
        Names of the groups, along the x axis.
    alt, ylabel, title, ax
        As in `lines`.
    number_format : str
        How the number over a bar is written.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    positions, width = np.arange(len(groups)), 0.8 / max(1, len(series))
    with _drawing(alt, ax) as picture:
        for index, (name, values) in enumerate(series.items()):
            middle, low, high = _median_and_range(values, name, len(groups))
            container = picture.bar(
                positions + (index - (len(series) - 1) / 2) * width,
                middle,
                width,
                yerr=[middle - low, high - middle] if np.any(low < high) else None,
                capsize=4,
                color=COLORS[index % len(COLORS)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor="white",
                label=name,
            )
            picture.bar_label(container, fmt=number_format.format, padding=2)
        picture.set_xticks(positions, groups)
        picture.grid(axis="x", visible=False)
        picture.margins(y=0.15)
        _label(picture, "", ylabel, title, legend=len(series) > 1)
    return picture


def before_after(
    before: ArrayLike,
    after: ArrayLike,
    *,
    groups: Sequence[str],
    alt: str,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw the exact match (fractions, 0 to 1) of each group before and after training, as in `bars`."""
    picture = bars(
        {"before": before, "after": after},
        groups=groups,
        ylabel="exact match",
        title=title,
        number_format="{:.0%}",
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.15)
        picture.set_yticks(np.linspace(0, 1, 6))
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return picture


def image(
    values: ArrayLike,
    *,
    alt: str,
    limits: tuple[float, float] = (0, 1),
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw a matrix as grey levels, one pixel an entry.

    Parameters
    ----------
    values : array
        Shape (height, width).
    limits : tuple of float
        The values that are black and white; what lies beyond is cut off.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or `values` is not two-dimensional.
    """
    pixels = _matrix(values, "values")
    with _drawing(alt, ax) as picture:
        picture.imshow(pixels, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        picture.set(xticks=[], yticks=[])  # hidden ticks would still be made, for the title's place
        picture.set_axis_off()
        picture.set_title(title)
    return picture


def product(
    left: ArrayLike,
    right: ArrayLike,
    *,
    alt: str,
    names: tuple[str, str] = ("B", "A"),
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw a small matrix product as on paper: `right` above the result, `left` beside it.

    Each entry of the result stands in the row of `left` and the column of `right` that it is made of.

    Parameters
    ----------
    left, right : array
        Shapes (m, r) and (r, n).
    names : tuple of str
        What the two are called.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, a factor is not two-dimensional, or the shapes do not chain.
    """
    B, A = _matrix(left, "left"), _matrix(right, "right")
    if B.shape[1] != A.shape[0]:
        raise ValueError(f"left and right must chain, (m, r) and (r, n), got {B.shape} and {A.shape}")
    result, corner = B @ A, B.shape[1] + 1.5  # where the result begins, in cells
    blocks = [
        (names[0], B, 0.0, corner),
        (names[1], A, corner, 0.0),
        ("".join(names), result, corner, corner),
    ]
    strongest = 1.6 * max(np.abs(block).max() for _, block, _, _ in blocks)  # pale enough for black digits
    with _drawing(alt, ax) as picture:
        for name, block, x, y in blocks:
            rows, columns = block.shape
            picture.imshow(
                block,
                cmap="PuOr",
                vmin=-strongest,
                vmax=strongest,
                extent=(x, x + columns, y + rows, y),
            )
            for (row, column), value in np.ndenumerate(block):
                picture.text(x + column + 0.5, y + row + 0.5, f"{value:g}", ha="center", va="center")
            picture.text(x + columns / 2, y - 0.45, f"{name}: {rows} × {columns}", ha="center", va="center")
        picture.set(xlim=(-0.5, corner + A.shape[1] + 0.5), ylim=(corner + B.shape[0] + 0.5, -1))
        picture.set_axis_off()
        picture.set_title(title)
    return picture


def rank_error(
    curves: Mapping[str, ArrayLike],
    *,
    alt: str,
    rank: int | None = None,
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw relative errors (0 to 1) over the rank that is kept, and mark one rank.

    Parameters
    ----------
    curves : mapping of str to array
        Label to errors for rank 0, 1, 2, …, all of one length; repeats as in `lines`.
    rank : int, optional
        The rank to mark.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty, the lengths differ, or `rank` lies outside them.
    """
    count = max(np.shape(errors)[-1] for errors in curves.values())
    if rank is not None and not 0 <= rank < count:
        raise ValueError(f"rank must be in 0 … {count - 1}, got {rank}")
    picture = lines(
        curves,
        x=np.arange(count),
        xlabel="rank kept",
        ylabel="relative error",
        title=title,
        alt=alt,
        ax=ax,
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_ylim(0, 1.05)
        picture.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        if rank is not None:
            picture.axvline(rank, color="black", linewidth=1.5)
    return picture


def running_time(
    seconds: Mapping[str, ArrayLike],
    *,
    sizes: ArrayLike,
    alt: str,
    xlabel: str = "size",
    title: str = "",
    ax: Picture | None = None,
) -> Picture:
    """Draw seconds over problem sizes, both axes logarithmic, so that a power law is a straight line.

    Parameters
    ----------
    seconds : mapping of str to array
        Label to one time a size; repeats as in `lines`.
    sizes : array
        Shape (n,).
    xlabel : str
        What the sizes count.
    alt, title, ax
        As in `lines`.

    Raises
    ------
    ValueError
        If `alt` is empty or a shape does not fit.
    """
    picture = lines(
        seconds, x=sizes, xlabel=xlabel, ylabel="seconds", title=title, log_y=True, alt=alt, ax=ax
    )
    with mpl.rc_context(STYLE):  # new ticks
        picture.set_xscale("log", base=2)
        picture.set_xticks(np.asarray(sizes), [f"{size:g}" for size in np.asarray(sizes)])
    return picture
