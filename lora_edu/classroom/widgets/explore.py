"""A picture that its sliders redraw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from lora_edu.classroom import figures
from lora_edu.classroom.language import label
from lora_edu.classroom.widgets import frames
from lora_edu.classroom.widgets._show import show, to_html
from lora_edu.classroom.widgets.ahead import DRAWING, Ahead, neighbours

PLAY_MILLISECONDS = 700


Encode = Callable[[figures.Picture], bytes]


class Explorer:
    """A picture that its sliders redraw; see `explore`."""

    def __init__(
        self,
        draw: Callable[..., object],
        controls: Mapping[str, Sequence],
        start: Mapping[str, object],
        panels: int,
    ):
        self.controls = {name: list(values) for name, values in controls.items()}
        self.start = {name: start.get(name, values[0]) for name, values in self.controls.items()}
        self._draw = draw
        self._pictures = figures.new_pictures(panels)
        self._frames: dict[tuple, tuple[bytes, str]] = {}
        self._live = Ahead(self._quick_frame, is_over=lambda: self.widget.comm is None)
        self.sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(_label(value), value) for value in values],
                value=self.start[name],
                description=label(name.replace("_", " ")),
                style={"description_width": "initial"},
                layout=ipywidgets.Layout(width=_width(values)),
            )
            for name, values in self.controls.items()
        }
        png, text = self.frame(**self.start)
        self._width = figures.png_output(png, text)[1]["image/png"].get("width") or _pixels(png)
        # Its own size: stretched to the cell's width it would be larger than the other figures.
        layout = ipywidgets.Layout(align_self="flex-start", width=f"{self._width}px", max_width="100%")
        self.image = ipywidgets.Image(value=png, format="png", layout=layout)
        self.caption = ipywidgets.HTML(value=to_html(text))  # a Label would not wrap
        self.widget = ipywidgets.VBox([*map(_with_play, self.sliders.values()), self.image, self.caption])
        for slider in self.sliders.values():
            slider.observe(self._redraw, names="index")

    def frame(self, **values: object) -> tuple[bytes, str]:
        """The PNG and the line of text for one value of each control, kept once drawn."""
        key = tuple(values[name] for name in self.controls)
        if key not in self._frames:
            self._frames[key] = self._render(values, figures.to_png)
        return self._frames[key]

    def _quick_frame(self, places: tuple[int, ...]) -> tuple[bytes, str]:
        values = {name: self.controls[name][p] for name, p in zip(self.controls, places, strict=True)}
        if tuple(values.values()) in self._frames:  # such as the start, or all after a `sweep`
            return self.frame(**values)
        return self._render(values, figures.to_quick_png)

    def _render(self, values: Mapping[str, object], encode: Encode) -> tuple[bytes, str]:
        png, text = self._drawn(self._pictures, values, encode)
        figures.freeze_layout(self._pictures[0])
        if figures.is_cut_off(self._pictures[0]):  # longer labels than at first: a layout of its own
            return self._drawn(figures.new_pictures(len(self._pictures)), values, encode)
        return png, text

    def _drawn(
        self, pictures: Sequence[figures.Picture], values: Mapping[str, object], encode: Encode
    ) -> tuple[bytes, str]:
        self._draw(*pictures, **values)
        return encode(pictures[0]), " ".join(picture.alt for picture in pictures)

    def _redraw(self, change: Mapping[str, Any]) -> None:
        with DRAWING:  # to the end: a move that came in later, in another thread, is also shown later
            places = tuple(slider.index for slider in self.sliders.values())
            png, text = self._live(places)
            self.image.value, self.caption.value = png, to_html(text)
        moved = list(self.sliders.values()).index(change["owner"])
        step = 1 if change["new"] > change["old"] else -1
        sizes = [len(values) for values in self.controls.values()]
        self._live.plan(neighbours(sizes, places, moved, step))

    def sweep(self) -> list[tuple[dict, str]]:
        """Draw every value of every control, the others at their start: all values and lines of text.

        Tests call it, since no notebook runner moves a slider. Before a demonstration it fills the cache.
        """
        return [
            (values, self.frame(**values)[1])
            for name, choices in self.controls.items()
            for values in ({**self.start, name: choice} for choice in choices)
        ]

    def write_film(self, folder: Path) -> Path:
        """Write the pictures of all combinations of values for pages without Python; see `frames.write_film`."""
        labels = {name: [_label(value) for value in values] for name, values in self.controls.items()}
        start = [values.index(self.start[name]) for name, values in self.controls.items()]
        combinations = itertools.product(*self.controls.values())
        pictures = (self.frame(**dict(zip(self.controls, values, strict=True))) for values in combinations)
        return frames.write_film(folder, labels, start, pictures, self._width)

    def _ipython_display_(self) -> None:
        if folder := frames.frames_folder():
            self.write_film(folder)  # now: later cells may change what `draw` looks at
        png, text = self.frame(**self.start)
        show(self.widget, "explore", figures.png_output(png, text), (figures.text_output(text), {}))


def _with_play(slider: ipywidgets.SelectionSlider) -> ipywidgets.Widget:
    """The slider, behind a play button if its values are numbers: words have no order to run through."""
    labels, values = zip(*slider.options, strict=True)
    if len(values) < 3 or not all(isinstance(value, int | float) for value in values):
        return slider
    play = ipywidgets.Play(max=len(labels) - 1, value=slider.index, interval=PLAY_MILLISECONDS)
    ipywidgets.link((play, "value"), (slider, "index"))
    return ipywidgets.HBox([slider, play])


def _width(values: Iterable[object]) -> str | None:
    """Of a slider: its own width, or more where a value is a few words, which would be cut off."""
    longest = max(len(_label(value)) for value in values)
    return None if longest <= 10 else "36em"


def _pixels(png: bytes) -> int:
    """Width of a picture, where every PNG says it."""
    return int.from_bytes(png[16:20], "big")


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else label(str(value))


def explore(
    draw: Callable[..., object],
    /,
    *,
    start: Mapping[str, object] | None = None,
    panels: int = 1,
    **controls: Iterable,
) -> Explorer:
    """Show a picture with one slider a control; moving a slider redraws the same figure.

    Without a kernel, the picture and the line of text for the start values remain. Where the environment variable
    LORA_EDU_FRAMES names a folder, every picture goes there too, for pages on which no Python runs (`pages`).

    Parameters
    ----------
    draw : callable
        ``draw(ax, **values)`` draws with functions of `figures`, passing them ``ax``, and changes nothing else: after
        a move the neighbours are drawn ahead (`ahead`). The ``alt`` it gives is the line of text below the picture,
        so it should state the numbers. With `panels` above 1, it gets as many axes: ``draw(left, right, **values)``.
    start : mapping, optional
        Value that a control has at first, by name; its first one if left out.
    panels : int
        Number of axes side by side.
    **controls : range or list
        The values a slider takes, at least two.

    Returns
    -------
    Explorer
        Shows itself as the last value of a cell; ``.sweep()`` draws every value.

    Raises
    ------
    ValueError
        If there is no control, one has fewer than two values, or `start` names an unknown control or value.
    """
    choices = {name: list(values) for name, values in controls.items()}
    if not choices or min(map(len, choices.values())) < 2:
        raise ValueError(f"controls must be at least one, each with two or more values, got {choices}")
    for name, value in (start or {}).items():
        if value not in choices.get(name, []):
            raise ValueError(f"start must name values of {choices}, got {name}={value!r}")
    return Explorer(draw, choices, start or {}, panels)
