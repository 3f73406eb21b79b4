"""What collides in a drawn picture: texts with each other, with the card's edge, with whiskers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import matplotlib as mpl
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

from lora_edu.classroom.figures._canvas import STYLE, Picture

SLACK = 1.5  # dots: a letter's box has an empty rim


def collisions(picture: Picture) -> list[str]:
    """Say in words what collides in the whole figure that a picture lies in, as it was drawn last.

    Parameters
    ----------
    picture : Picture
        Drawn already, by `to_png` or by showing it.

    Returns
    -------
    list of str
        One line a collision: two texts, a text and the card's edge, or a text and an error bar's whisker.
    """
    figure = picture.canvas.figure
    with mpl.rc_context(STYLE):
        texts = [
            (text.get_text(), inner(text.get_window_extent()))
            for axes in figure.axes
            for text in texts_of(axes)
        ]
        bars = [inner(box, 0) for axes in figure.axes for box in whiskers_of(axes)]
    edge = figure.bbox
    found = [f"{a!r} meets {b!r}" for (a, one), (b, other) in combinations(texts, 2) if one.overlaps(other)]
    found += [f"{a!r} leaves the card" for a, box in texts if not inside(box, edge)]
    return found + [f"{a!r} stands on a whisker" for a, box in texts for bar in bars if box.overlaps(bar)]


def texts_of(axes: object) -> Iterator[Text]:
    """Every text of some axes that is seen."""
    assert isinstance(axes, Picture)
    texts = [axes.title, *axes.texts]
    if axes.axison:
        for axis in (axes.xaxis, axes.yaxis):
            texts += [axis.label, axis.get_offset_text()]
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label1 for tick in ticks]
    legend = axes.get_legend()
    texts += legend.get_texts() if legend else []
    return (text for text in texts if text.get_visible() and text.get_text().strip())


def whiskers_of(axes: object) -> Iterator[Bbox]:
    """The boxes of error bars' upright strokes."""
    assert isinstance(axes, Picture)
    for container in axes.containers:
        if not isinstance(container, ErrorbarContainer):
            continue
        for stroke in container.lines[2]:
            for segment in stroke.get_segments():
                yield Bbox(axes.transData.transform(segment)).padded(1.0)


def inner(box: Bbox, slack: float = SLACK) -> Bbox:
    return Bbox.from_extents(box.x0 + slack, box.y0 + slack, box.x1 - slack, box.y1 - slack)


def inside(box: Bbox, edge: BboxBase) -> bool:
    return edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1
