"""A picture that its sliders redraw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import ipywidgets

from lora_edu.classroom import figures
from lora_edu.classroom.widgets._show import show, to_html


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
        self.sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(_label(value), value) for value in values],
                value=self.start[name],
                description=name.replace("_", " "),
                style={"description_width": "initial"},
                layout=ipywidgets.Layout(width=_width(values)),
            )
            for name, values in self.controls.items()
        }
        png, text = self.frame(**self.start)
        # Its own size: stretched to the cell's width it would be larger than the other figures.
        layout = ipywidgets.Layout(align_self="flex-start", max_width="100%")
        self.image = ipywidgets.Image(value=png, format="png", layout=layout)
        self.caption = ipywidgets.HTML(value=to_html(text))  # a Label would not wrap
        self.widget = ipywidgets.VBox([*self.sliders.values(), self.image])
        for slider in self.sliders.values():
            slider.observe(self._redraw, names="value")

    def frame(self, **values: object) -> tuple[bytes, str]:
        """The PNG and the line of text for one value of each control, kept once drawn."""
        key = tuple(values[name] for name in self.controls)
        if key not in self._frames:
            self._frames[key] = self._render(values)
        return self._frames[key]

    def _render(self, values: Mapping[str, object]) -> tuple[bytes, str]:
        png, text = self._drawn(self._pictures, values)
        figures.freeze_layout(self._pictures[0])
        if figures.is_cut_off(self._pictures[0]):  # longer labels than at first: a layout of its own
            return self._drawn(figures.new_pictures(len(self._pictures)), values)
        return png, text

    def _drawn(self, pictures: Sequence[figures.Picture], values: Mapping[str, object]) -> tuple[bytes, str]:
        self._draw(*pictures, **values)
        return figures.to_png(pictures[0]), " ".join(picture.alt for picture in pictures)

    def _redraw(self, _: object) -> None:
        values = {name: slider.value for name, slider in self.sliders.items()}
        png, text = self.frame(**values)
        self.image.value, self.caption.value = png, to_html(text)

    def sweep(self) -> list[tuple[dict, str]]:
        """Draw every value of every control, the others at their start: all values and lines of text.

        Tests call it, since no notebook runner moves a slider. Before a demonstration it fills the cache.
        """
        return [
            (values, self.frame(**values)[1])
            for name, choices in self.controls.items()
            for values in ({**self.start, name: choice} for choice in choices)
        ]

    def _ipython_display_(self) -> None:
        png, text = self.frame(**self.start)
        show(self.widget, *figures.png_output(png, text))
        show(self.caption, figures.text_output(text))


def _width(values: Iterable[object]) -> str | None:
    """Of a slider: its own width, or more where a value is a few words, which would be cut off."""
    longest = max(len(_label(value)) for value in values)
    return None if longest <= 10 else "36em"


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def explore(
    draw: Callable[..., object],
    /,
    *,
    start: Mapping[str, object] | None = None,
    panels: int = 1,
    **controls: Iterable,
) -> Explorer:
    """Show a picture with one slider a control; moving a slider redraws the same figure.

    Without a kernel, the picture and the line of text for the start values remain.

    Parameters
    ----------
    draw : callable
        ``draw(ax, **values)`` draws with functions of `figures`, passing them ``ax``; the ``alt`` it gives
        is the line of text below the picture, so it should state the numbers. With `panels` above 1, it
        gets as many axes: ``draw(left, right, **values)``.
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
