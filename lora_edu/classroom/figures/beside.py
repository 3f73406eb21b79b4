"""Pictures side by side, for what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lora_edu.classroom.figures._canvas import Picture, new_pictures

Panels = Picture
"""The first of several panels: it shows itself with all of them."""


def beside(draw: Callable[..., object], **values: Sequence[object]) -> Panels:
    """Draw one panel for each value of a setting, in one figure.

    Parameters
    ----------
    draw
        As for `widgets.explore`: ``draw(ax, setting=value)`` draws on `ax`.
    **values
        One setting and its values, in the order of the panels.

    Raises
    ------
    ValueError
        If there is not exactly one setting, or it has no values.
    """
    if len(values) != 1 or not all(values.values()):
        raise ValueError(f"values must be one setting with its values, got {values}")
    [(name, settings)] = values.items()
    pictures = new_pictures(len(settings))
    for picture, setting in zip(pictures, settings, strict=True):
        draw(picture, **{name: setting})
    pictures[0].alt = " ".join(picture.alt for picture in pictures)
    return pictures[0]
