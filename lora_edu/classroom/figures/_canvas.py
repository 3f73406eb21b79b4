"""Canvas and house style that all figures share.

A picture is a light card with round corners. A shade carries a value in many pictures, so its ground must not
change with the page: on a dark page the card stays light. Outside the corners the file is transparent.
"""

from __future__ import annotations

import base64
import html
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import matplotlib as mpl
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.text import Text
from numpy.typing import ArrayLike
from PIL import Image

from lora_edu.classroom.figures.palette import EDGE, GRID, INK, PAPER, SOFT
from lora_edu.classroom.figures.quick_png import quick_png
from lora_edu.classroom.language import label

PANEL_INCHES = (7.2, 4.2)
DENSITY = 2  # dots of the file for each dot on the page
PAD = 0.2  # inches between the card's edge and what stands on it
TITLE_SIZE, TITLE_LEADING = 15, 1.28
TRANSPARENT = 255  # its place in the palette of a file
STYLE: dict[Any, Any] = {
    "figure.dpi": 100 * DENSITY,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 14,  # legible from the last row
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.4,
    "lines.markersize": 7,
    "lines.markeredgecolor": PAPER,
    "hatch.color": PAPER,
    "hatch.linewidth": 1.2,
    "legend.edgecolor": "none",
    "legend.framealpha": 0,
}


class Picture(Axes):
    """Axes that a notebook shows as a PNG and a line of text."""

    alt = ""
    is_sheet = False  # laid out by itself with every drawing: see `schematic.sheet`

    def __init__(self, figure: Figure, position: SubplotSpec):
        super().__init__(figure, position)  # pyright: ignore[reportArgumentType] (its stubs lack SubplotSpec)
        self.canvas = FigureCanvasAgg(figure)
        self.before_drawing: list[Callable[[], object]] = []  # what can be placed only once the axes stand

    def clear(self) -> None:
        super().clear()
        self.before_drawing = []

    def add_patch(self, p: Patch) -> Any:
        """Add a patch; its extent is not asked for where the limits are set already: that takes a millisecond."""
        return super().add_patch(p) if self.get_autoscale_on() else self.add_artist(p)

    def get_tightbbox(self, *args: Any, **options: Any) -> Any:
        """The room that the axes and their labels take; the title has its own, at the top of the card."""
        shown = self.title.get_visible()
        self.title.set_visible(False)
        try:
            return super().get_tightbbox(*args, **options)
        finally:
            self.title.set_visible(shown)

    def draw(self, renderer: Any) -> None:
        _ = self.get_xlim(), self.get_ylim()  # asking scales the axes to what was drawn since
        for place in self.before_drawing:
            place()
        super().draw(renderer)

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
        lay_card(figure)
        grid = figure.add_gridspec(1, panels)  # one grid for all, so that labels of one keep off the other
        pictures = [Picture(figure, grid[0, index]) for index in range(panels)]
        for picture in pictures:
            figure.add_subplot(picture)
    return pictures


def lay_card(figure: Figure) -> None:
    """Lay the card that a figure's pictures stand on, as large as the figure is now."""
    for old in list(figure.artists):
        old.remove()
    width, height = figure.get_size_inches()
    card = FancyBboxPatch(
        (0.01, 0.01),
        width - 0.02,
        height - 0.02,
        boxstyle="round,pad=0,rounding_size=0.12",
        transform=figure.dpi_scale_trans,
        facecolor=PAPER,
        edgecolor=EDGE,
        linewidth=1,
        zorder=-10,
    )
    card.set_in_layout(False)
    figure.add_artist(card)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=PAD, h_pad=PAD, wspace=0.04)


def to_png(picture: Picture) -> bytes:
    """The whole figure that a picture lies in, with twice as many dots as it takes on the page.

    A palette of 256 colours keeps the file small enough for a notebook, and the same everywhere: without
    matplotlib's version in it.
    """
    return _saved(in_palette(_pixels(picture)), compress_level=6, transparency=TRANSPARENT)


def to_quick_png(picture: Picture) -> bytes:
    """The same picture sooner, and a larger file: for a slider that moves, which nobody stores."""
    return quick_png(_pixels(picture))


def _pixels(picture: Picture) -> np.ndarray:
    with mpl.rc_context(STYLE):  # ticks are made only now
        picture.canvas.draw()
    return np.asarray(picture.canvas.buffer_rgba())


def _saved(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def in_palette(pixels: np.ndarray) -> Image.Image:
    """Pixels (height, width, 4) in their 255 most frequent colours, and one for what is transparent.

    Areas keep their exact shade, which means a number; only the softened edges of letters and lines are moved.
    """
    sample = np.ascontiguousarray(pixels[::2, ::2]).view(np.uint32)
    colors, counts = np.unique(sample, return_counts=True)
    frequent = colors[np.argsort(-counts, kind="stable")[:TRANSPARENT]]
    palette = Image.new("P", (1, 1))
    colors_used = np.full((256, 3), [round(255 * part) for part in to_rgb(PAPER)], dtype=np.uint8)
    colors_used[: len(frequent)] = frequent.view(np.uint8).reshape(-1, 4)[:, :3]
    palette.putpalette(colors_used.tobytes())
    places = _nearest(Image.fromarray(pixels).convert("RGB"), palette)
    packed = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
    itself = _nearest(Image.fromarray(frequent.view(np.uint8).reshape(1, -1, 4)).convert("RGB"), palette)[0]
    for place in np.flatnonzero(itself != np.arange(len(frequent)))[
        :64
    ]:  # Pillow looks up four levels as one
        places[packed == frequent[place]] = place
    places[pixels[..., 3] < 128] = TRANSPARENT
    image = Image.fromarray(places, mode="P")
    image.putpalette(palette.getpalette() or [])
    return image


def _nearest(image: Image.Image, palette: Image.Image) -> np.ndarray:
    return np.array(image.quantize(palette=palette, dither=Image.Dither.NONE))


def freeze_layout(picture: Picture) -> None:
    """Keep the axes where the last drawing put them: faster, and they stand still while a slider moves."""
    picture.canvas.figure.set_layout_engine("none")


def is_cut_off(picture: Picture) -> bool:
    """Whether something of the last drawing reaches out of the figure, or a title runs into its axes.

    Measuring it takes 20 ms and more. A schematic, whose sheet is as large as what stands on it, is not measured.
    """
    if picture.is_sheet:
        return False
    figure = picture.canvas.figure
    with mpl.rc_context(STYLE):
        drawn = figure.get_tightbbox()
        titles = [axes.title.get_window_extent().y0 < axes.bbox.y1 for axes in figure.axes if axes.axison]
    width, height = figure.get_size_inches()
    return min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) < 0 or any(titles)


def png_output(png: bytes, alt: str) -> tuple[dict, dict]:
    """Data and metadata of an output that shows a picture at its size on the page."""
    width, height = struct.unpack(">II", png[16:24])  # where every PNG says it
    size = {"width": width // DENSITY, "height": height // DENSITY}
    return {"image/png": base64.b64encode(png).decode("ascii")}, {"image/png": {"alt": alt, **size}}


def text_output(text: str) -> dict:
    """Data of an output that shows a line of text."""
    return {"text/html": f"<p>{html.escape(text)}</p>", "text/plain": text}


@contextmanager
def drawing(alt: str | None, ax: Picture | None) -> Iterator[Picture]:
    """Axes to draw on in the house style; `alt`, if given, replaces the sentence that the figure makes itself."""
    if alt is not None and (not isinstance(alt, str) or not alt.strip()):
        raise ValueError(f"alt must say in a sentence what the figure shows, or be left out, got {alt!r}")
    with mpl.rc_context(STYLE):
        picture = new_pictures()[0] if ax is None else ax
        picture.clear()
        picture.alt, picture.is_sheet = "", False
        yield picture
    picture.alt = label(alt) if alt else picture.alt


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


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal", family: str | None = None) -> float:
    """Inches that a line of text takes."""
    font = FontProperties(size=size, weight=weight, family=family)
    renderer = _measuring_renderer()
    return renderer.get_text_width_height_descent(text, font, ismath=False)[0] / renderer.dpi


@lru_cache(maxsize=1)
def _measuring_renderer() -> Any:
    return FigureCanvasAgg(Figure(figsize=(1, 1), dpi=200)).get_renderer()


def wrapped(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """Text in lines that are no wider than `inches`."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size, weight) > inches:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def set_title(picture: Picture, title: str) -> None:
    """Write a title over the picture, from its left edge, in as many lines as it takes; it states a finding."""
    figure, spec = picture.canvas.figure, picture.get_subplotspec()
    assert spec is not None  # every Picture is made with one
    columns = spec.get_gridspec().ncols
    width, height = figure.get_size_inches()
    slot = width / columns
    left = spec.colspan.start * slot + PAD
    text: Text = picture.title
    text.set(
        text=wrapped(label(title), slot - 2 * PAD, TITLE_SIZE, "bold"),
        transform=figure.dpi_scale_trans,
        position=(left, height - PAD),
        horizontalalignment="left",
        verticalalignment="top",
        fontsize=TITLE_SIZE,
        fontweight="bold",
        linespacing=TITLE_LEADING,
        parse_math=False,
    )
    picture._autotitlepos = False  # pyright: ignore[reportAttributeAccessIssue] (it would move the title to the axes)
    _make_room_for_titles(figure)


def _make_room_for_titles(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine):
        return
    lines = max((len(axes.title.get_text().splitlines()) for axes in figure.axes), default=0)
    height = figure.get_size_inches()[1]
    taken = (lines * TITLE_SIZE * TITLE_LEADING / 72 + (0.1 if lines else 0)) / height
    engine.set(rect=(0, 0, 1, 1 - taken))
