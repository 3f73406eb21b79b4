"""Canvas and house style that all figures share."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
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

    def __init__(self, figure: Figure, position: SubplotSpec):
        super().__init__(figure, position)  # pyright: ignore[reportArgumentType] (its stubs lack SubplotSpec)
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
        grid = figure.add_gridspec(1, panels)  # one grid for all, so that labels of one keep off the other
        pictures = [Picture(figure, grid[0, index]) for index in range(panels)]
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


def is_cut_off(picture: Picture) -> bool:
    """Whether something of the last drawing, such as a label, reaches out of the figure."""
    figure = picture.canvas.figure
    with mpl.rc_context(STYLE):
        drawn = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) < 0


def png_output(png: bytes, alt: str) -> tuple[dict, dict]:
    """Data and metadata of an output that shows a picture."""
    return {"image/png": base64.b64encode(png).decode("ascii")}, {"image/png": {"alt": alt}}


def text_output(text: str) -> dict:
    """Data of an output that shows a line of text."""
    return {"text/html": f"<p>{html.escape(text)}</p>", "text/plain": text}


@contextmanager
def drawing(alt: str, ax: Picture | None) -> Iterator[Picture]:
    """Axes to draw on in the house style; `alt` belongs to what was drawn."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say in a sentence what the figure shows, got {alt!r}")
    with mpl.rc_context(STYLE):
        picture = new_pictures()[0] if ax is None else ax
        picture.clear()
        yield picture
    picture.alt = alt


def median_and_range(values: ArrayLike, name: str, length: int | None) -> tuple[np.ndarray, ...]:
    """Median, lowest and highest over repeats, for one row of numbers or a row for each repeat (seed)."""
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    if rows.ndim != 2 or rows.size == 0 or length not in (None, rows.shape[1]):
        wanted = "(n,) or (repeats, n)" if length is None else f"({length},) or (repeats, {length})"
        raise ValueError(f"{name} must have shape {wanted}, got {np.shape(values)}")
    return np.median(rows, axis=0), rows.min(axis=0), rows.max(axis=0)


def matrix_of(values: ArrayLike, name: str) -> np.ndarray:
    """A matrix with entries, as float64."""
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must have shape (rows, columns), got {matrix.shape}")
    return matrix


def label(ax: Axes, xlabel: str, ylabel: str, title: str, legend: bool) -> None:
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if legend:
        ax.legend()
