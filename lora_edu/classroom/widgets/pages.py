"""Sliders and predictions that live on a page without Python.

`make_pages_live` is all that a page writer calls, on a notebook with its outputs, before it is made into HTML::

    os.environ["LORA_EDU_FRAMES"] = "build/frames"    # then run the notebooks
    make_pages_live(notebook, Path("build/frames"), address="frames")

- Each `explore` whose film is in the folder becomes a slider that shows its pictures. Without JavaScript, and where
  there is no film, the start picture and its line of text stay.
- Each `predict` gets buttons: the answer opens after the choice. Without JavaScript it opens by a click, as on GitHub.
- Widget views, which show nothing without a kernel, are dropped.

The page links to script and style, `LINKED`, which lie beside this module. All works from file:// too.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from lora_edu.classroom.widgets._show import STYLE, WIDGET_VIEW
from lora_edu.classroom.widgets.frames import read_film

LINKED = tuple(Path(__file__).with_name(name) for name in ("page.css", "page.js"))
"""The style and the script that a page needs."""


def make_pages_live(notebook: Any, frames: Path, address: str = "frames") -> set[str]:
    """Give life, in place, to the sliders and predictions of a notebook that is to become a page.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        With outputs, executed or stored.
    frames : Path
        The folder that LORA_EDU_FRAMES named when the notebook ran.
    address : str
        Of that folder or a copy, seen from the page.

    Returns
    -------
    set of str
        Names of the pictures that the page shows.
    """
    pictures: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kept: list[Any] = []
            for output in cell.outputs:
                data = output.get("data", {})
                data.pop(WIDGET_VIEW, None)
                if output.output_type in ("display_data", "execute_result") and not data:
                    continue
                film = read_film(frames, _text(data, "text/plain")) if _is(data, "explore") else None
                if film is not None:
                    if kept and "image/png" in kept[-1].get("data", {}):
                        kept.pop()  # the start picture, which the slider shows itself
                    pictures |= {name for name, _ in film["frames"]}
                    data["text/html"] = static_slider(film, address)
                elif "text/html" in data:
                    data["text/html"] = _text(data, "text/html").replace(STYLE, "")
                kept.append(output)
            cell.outputs = kept
    return pictures


def explorer_texts(notebook: Any) -> list[str]:
    """The line of text below each slider's start picture, which names its film, in the notebook's order."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    datas = (output.get("data", {}) for output in outputs)
    return [_text(data, "text/plain") for data in datas if _is(data, "explore")]


def static_slider(film: dict, address: str = "frames") -> str:
    """HTML of a film: its sliders, the start picture and its line of text, and what page.js needs to change them."""
    frame = 0
    for texts, place in zip(film["labels"].values(), film["start"], strict=True):
        frame = frame * len(texts) + place
    source, text = film["frames"][frame]
    controls = "".join(
        f'<div><label><span>{html.escape(name.replace("_", " "))}</span> <input type="range" min="0" '
        f'max="{len(texts) - 1}" value="{place}" disabled> <output>{html.escape(texts[place])}</output></label></div>'
        for (name, texts), place in zip(film["labels"].items(), film["start"], strict=True)
    )
    content = json.dumps(
        {"labels": list(film["labels"].values()), "frames": film["frames"], "address": address}
    )
    content = content.replace("<", "\\u003c")  # nothing in it may end the script
    return (
        f'<figure class="lora-edu-film">{controls}<img src="{html.escape(f"{address}/{source}")}" '
        f'width="{film["width"]}" alt="{html.escape(text)}"><figcaption aria-live="polite">{html.escape(text)}'
        f'</figcaption><script type="application/json">{content}</script></figure>'
    )


def _is(data: dict, kind: str) -> bool:
    return re.search(rf'class="[^"]*\blora-edu-{kind}"', _text(data, "text/html")) is not None


def _text(data: dict, kind: str) -> str:
    """Of an output, as one string, whether its file stores it as one or as lines."""
    stored = data.get(kind, "")
    return stored if isinstance(stored, str) else "".join(stored)
