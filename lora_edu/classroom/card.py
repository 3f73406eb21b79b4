"""Show a sentence as a small card in a notebook, and as plain text everywhere else.

One output holds both forms and no display id: what is stored in a notebook is the same at each run. The text is the
same in both, so that it can be read aloud, searched and copied.
"""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from lora_edu.classroom.language import label
from lora_edu.classroom.widgets._show import to_html

CARDS = {  # sign and colour of each word; the colours are told apart by the colour-blind, too
    "pass": ("&#10003;", "#009E73"),
    "hint": ("&#10140;", "#E69F00"),
    "not attempted": ("&#9675;", "#888888"),
    "progress": ("&#9776;", "#0072B2"),
}


def show(text: str, kind: str) -> None:
    """Display `text` as a card of a kind of `CARDS` where a notebook can show one; print it where none can."""
    if not in_notebook():
        print(text)
        return
    display({"text/plain": text, "text/html": card(text, kind)}, raw=True)


def in_notebook() -> bool:
    """Whether the code runs in a kernel; a terminal's IPython has none."""
    return InteractiveShell.initialized() and hasattr(InteractiveShell.instance(), "kernel")


def card(text: str, kind: str) -> str:
    """The card as HTML: a coloured edge, a sign, and the text. It takes the page's own colours, light or dark."""
    sign, colour = CARDS[kind]
    style = f"border-left: 4px solid {colour}; padding: 4px 12px; max-width: 46em; white-space: pre-wrap"
    return (
        f'<div style="{style}"><span aria-hidden="true" style="color: {colour}">{sign} </span>'
        f"{_bold(label(kind), to_html(text))}</div>"
    )


def _bold(word: str, text: str) -> str:
    """The text with its first `word`, the verdict, in bold."""
    return text.replace(f" {word}.", f" <b>{word}</b>.", 1)
