"""A conversation with a model whose speaker may change from turn to turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import ipywidgets

from lora_edu.classroom.widgets._show import show, to_html

Reply = Callable[[str, list[dict[str, str]]], str | Iterable[str]]
"""What answers: speaker and messages in, the next turn out, whole or while it grows."""


class Chat:
    """A conversation whose speaker may change from turn to turn; see `chat`."""

    def __init__(
        self,
        reply: Reply,
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
        """Put a message to a speaker; return the reply. The transcript shows it, and while it grows what there is."""
        messages = [
            {"role": role, "content": text}
            for _, question, answer in self.turns
            for role, text in (("user", question), ("assistant", answer))
        ]
        reply = self._reply(speaker, [*messages, {"role": "user", "content": message}])
        text = None
        try:
            for text in [reply] if isinstance(reply, str) else reply:
                self.transcript.value = _to_html([*self.turns, (speaker, message, text)], growing=True)
            if text is None:
                raise ValueError("reply must return text or yield some, got nothing")
            self.turns.append((speaker, message, text))
        finally:  # a reply that broke off is not part of the conversation
            self.transcript.value = self.to_html()
        return text

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
        self.status.value = f'<div role="status">{to_html(text)}</div>'

    def to_html(self) -> str:
        """The conversation so far, each reply under the name of its speaker."""
        return _to_html(self.turns)

    def __repr__(self) -> str:
        return "\n".join(f"you: {message}\n{speaker}: {reply}" for speaker, message, reply in self.turns)

    def _ipython_display_(self) -> None:
        show(self.widget, "chat", ({"text/html": self.to_html(), "text/plain": repr(self)}, {}))


def _to_html(turns: Sequence[tuple[str, str, str]], growing: bool = False) -> str:
    lines = [
        f"<p><b>you:</b> {to_html(message)}<br><b>{to_html(speaker)}:</b> {to_html(reply)}</p>"
        for speaker, message, reply in turns
    ]
    busy = ' aria-busy="true"' if growing else ""  # a screen reader waits for the whole reply
    return f'<div role="log"{busy}>{"".join(lines)}</div>'


def chat(
    reply: Reply,
    speakers: Sequence[str],
    opening: Iterable[tuple[str, str]] = (),
) -> Chat:
    """Talk with a model, and change who answers between turns.

    Without a kernel, the transcript of the opening remains.

    Parameters
    ----------
    reply : callable
        ``reply(speaker, messages)`` returns the next turn as text, or yields it while it grows, the whole of it last
        (such as `lora_edu.llm.data.extraction.stream_turn`); ``messages`` is the conversation so far, dicts of ``role``
        and ``content``, and ends with what the learner wrote.
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
