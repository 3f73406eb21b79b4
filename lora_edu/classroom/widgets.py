"""What a learner clicks and drags.

Each widget can be seen without a kernel (GitHub, HTML): it publishes text or a picture beside the widget
view, and every front end shows the richest form that it can. Only core widgets: ipywidgets 7.7 has them too.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import ipywidgets
from IPython.display import display

from lora_edu.classroom import figures

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def _to_html(text: str) -> str:
    """Escaped text; words between backticks in code type."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _show(widget: ipywidgets.Widget, static: dict, metadata: dict | None = None) -> None:
    """Display one output that holds the live widget and its static form, by MIME type."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display({WIDGET_VIEW: view, **static}, metadata=metadata, raw=True)


# ---------------------------------------------------------------- predict


class Prediction:
    """A question whose answer opens after the learner has committed to one; see `predict`."""

    def __init__(self, question: str, choices: Sequence[str], answer: str, why: str):
        self.question, self.choices, self.answer, self.why = question, list(choices), answer, why
        layout = ipywidgets.Layout(width="auto")
        self.buttons = [ipywidgets.Button(description=choice, layout=layout) for choice in choices]
        for button in self.buttons:
            button.on_click(self._commit)
        self.feedback = ipywidgets.HTML()
        self.widget = ipywidgets.VBox(
            [ipywidgets.HTML(f"<b>{_to_html(question)}</b>"), ipywidgets.HBox(self.buttons), self.feedback]
        )
        self.widget.children[1].layout.flex_flow = "row wrap"

    def _commit(self, chosen: ipywidgets.Button) -> None:
        for button in self.buttons:
            button.disabled = True
            if button.description == self.answer:
                button.icon = "check"
        right = chosen.description == self.answer
        chosen.button_style = "success" if right else "warning"
        verdict = "Right." if right else f"You said: {chosen.description}. The answer: {self.answer}."
        self.feedback.value = f'<div role="status">{_to_html(f"{verdict} {self.why}".rstrip())}</div>'

    def to_html(self) -> str:
        """The static form: question, choices, and the answer behind a click."""
        choices = "".join(f"<li>{_to_html(choice)}</li>" for choice in self.choices)
        answer = _to_html(f"{self.answer}. {self.why}".rstrip())
        return (
            f"<p><b>{_to_html(self.question)}</b></p><ul>{choices}</ul>"
            f"<details><summary>Decide first, then open the answer</summary>{answer}</details>"
        )

    def __repr__(self) -> str:
        return "\n".join([self.question, *(f"  - {choice}" for choice in self.choices)])

    def _ipython_display_(self) -> None:
        _show(self.widget, {"text/html": self.to_html(), "text/plain": repr(self)})


def predict(question: str, choices: Sequence[str], answer: str, why: str = "") -> Prediction:
    """Ask before the experiment; the answer opens once the learner has chosen.

    Parameters
    ----------
    question : str
        Ends in "?". Words between backticks are shown as code.
    choices : sequence of str
        At least two, all different; one button each.
    answer : str
        The right one of `choices`.
    why : str
        One sentence, shown with the answer.

    Returns
    -------
    Prediction
        Shows itself as the last value of a cell.

    Raises
    ------
    ValueError
        If there are fewer than two choices, two are equal, or `answer` is none of them.
    """
    if len(choices) < 2 or len(set(choices)) != len(choices):
        raise ValueError(f"choices must be at least two different texts, got {list(choices)}")
    if answer not in choices:
        raise ValueError(f"answer must be one of {list(choices)}, got {answer!r}")
    return Prediction(question, choices, answer, why)


# ---------------------------------------------------------------- compare


class Comparison:
    """Results side by side; see `compare`."""

    def __init__(self, columns: dict[str, list[str]]):
        self.columns = columns

    def _repr_html_(self) -> str:
        def row(tag: str, cells: Sequence[str]) -> str:
            return (
                "<tr>" + "".join(f'<{tag} style="text-align:left">{cell}</{tag}>' for cell in cells) + "</tr>"
            )

        head = row("th", [_to_html(name) for name in self.columns])
        body = [
            row("td", [_to_html(text) for text in texts])
            for texts in zip(*self.columns.values(), strict=True)
        ]
        return f"<table>{head}{''.join(body)}</table>"

    def __repr__(self) -> str:
        width = max(map(len, self.columns))
        rows = zip(*self.columns.values(), strict=True)
        return "\n\n".join(
            "\n".join(f"{name:<{width}}  {text}" for name, text in zip(self.columns, texts, strict=True))
            for texts in rows
        )


def compare(**columns: str | Sequence[object]) -> Comparison:
    """Set two or more results side by side, such as the answers before and after training.

    Parameters
    ----------
    **columns
        Heading and cells of each column: one text, or a sequence with one item a row. Items are shown by
        ``str``. An underscore in a heading becomes a space.

    Returns
    -------
    Comparison
        Shows itself as the last value of a cell, as a table or as text.

    Raises
    ------
    ValueError
        If there are fewer than two columns, or their lengths differ.
    """
    cells = {
        name.replace("_", " "): [texts] if isinstance(texts, str) else [str(text) for text in texts]
        for name, texts in columns.items()
    }
    lengths = {name: len(texts) for name, texts in cells.items()}
    if len(cells) < 2 or len(set(lengths.values())) != 1:
        raise ValueError(f"columns must be at least two, of equal length, got lengths {lengths}")
    return Comparison(cells)


# ---------------------------------------------------------------- explore


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
        self.caption = ipywidgets.HTML(value=_to_html(text))  # a Label would not wrap
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
        self.image.value, self.caption.value = png, _to_html(text)

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
        _show(self.widget, *figures.png_output(png, text))
        _show(self.caption, figures.text_output(text))


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


# ---------------------------------------------------------------- chat


class Chat:
    """A conversation whose speaker may change from turn to turn; see `chat`."""

    def __init__(
        self,
        reply: Callable[[str, list[dict[str, str]]], str],
        speakers: Sequence[str],
        opening: Iterable[tuple[str, str]],
    ):
        self._reply = reply
        self.turns: list[tuple[str, str, str]] = []
        self.speaker = ipywidgets.ToggleButtons(options=list(speakers), description="Who answers?")
        self.message = ipywidgets.Text(placeholder="Write here, then press Send")
        self.send = ipywidgets.Button(description="Send", button_style="primary")
        self.status = ipywidgets.HTML()
        self.transcript = ipywidgets.HTML()
        for speaker, message in opening:
            self.say(speaker, message)
        self.send.on_click(self._send)
        self.widget = ipywidgets.VBox(
            [self.transcript, self.speaker, ipywidgets.HBox([self.message, self.send]), self.status]
        )

    def say(self, speaker: str, message: str) -> str:
        """Put a message to a speaker; return the reply, which is in the transcript then."""
        messages = [
            {"role": role, "content": text}
            for _, question, answer in self.turns
            for role, text in (("user", question), ("assistant", answer))
        ]
        reply = self._reply(speaker, [*messages, {"role": "user", "content": message}])
        self.turns.append((speaker, message, reply))
        self.transcript.value = self.to_html()
        return reply

    def _send(self, _: object) -> None:
        speaker, message = str(self.speaker.value), self.message.value.strip()
        if not message:
            return
        self.send.disabled = True
        self._tell(f"The {speaker} is thinking ...")
        try:
            self.say(speaker, message)
            self.message.value = ""
            self._tell("")
        except Exception as error:  # an exception in a callback is shown nowhere
            self._tell(f"No reply: {type(error).__name__}: {error}")
        finally:
            self.send.disabled = False

    def _tell(self, text: str) -> None:
        self.status.value = f'<div role="status">{_to_html(text)}</div>'

    def to_html(self) -> str:
        """The conversation so far, each reply under the name of its speaker."""
        turns = [
            f"<p><b>you:</b> {_to_html(message)}<br><b>{_to_html(speaker)}:</b> {_to_html(reply)}</p>"
            for speaker, message, reply in self.turns
        ]
        return f'<div role="log">{"".join(turns)}</div>'

    def __repr__(self) -> str:
        return "\n".join(f"you: {message}\n{speaker}: {reply}" for speaker, message, reply in self.turns)

    def _ipython_display_(self) -> None:
        _show(self.widget, {"text/html": self.to_html(), "text/plain": repr(self)})


def chat(
    reply: Callable[[str, list[dict[str, str]]], str],
    speakers: Sequence[str],
    opening: Iterable[tuple[str, str]] = (),
) -> Chat:
    """Talk with a model, and change who answers between turns.

    Without a kernel, the transcript of the opening remains.

    Parameters
    ----------
    reply : callable
        ``reply(speaker, messages)`` returns the next turn as text; ``messages`` is the conversation so far, dicts
        of ``role`` and ``content``, and ends with what the learner wrote.
    speakers : sequence of str
        Who can answer, at least two, all different; one button each.
    opening : iterable of (speaker, message)
        Messages that are sent at once.

    Returns
    -------
    Chat
        Shows itself as the last value of a cell; ``.turns`` holds (speaker, message, reply).

    Raises
    ------
    ValueError
        If there are fewer than two speakers, two are equal, or the opening names another one.
    """
    speakers, opening = list(speakers), list(opening)
    if len(speakers) < 2 or len(set(speakers)) != len(speakers):
        raise ValueError(f"speakers must be at least two different names, got {speakers}")
    for speaker, _ in opening:
        if speaker not in speakers:
            raise ValueError(f"opening must name speakers among {speakers}, got {speaker!r}")
    return Chat(reply, speakers, opening)
