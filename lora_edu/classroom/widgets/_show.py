"""A live widget, and the static form that stands in its place where no kernel answers."""

from __future__ import annotations

import html
import re
import sys

import ipywidgets
from IPython.display import display

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
LIVE, STATIC = "lora-edu-live", "lora-edu-static"


def _style() -> str:
    """Rules for JupyterLab, Notebook 7 and the classic notebook: one of the two forms is seen.

    The live form is an output of its own, the static one the next output or the next two. While the live one is
    there, the static one is hidden. In a notebook that was saved and opened again its model is gone: "model not found"
    stands as bare text where any other output has an element, and that output is hidden then.
    """
    output = ":is(.jp-OutputArea-child,.output_area)"
    live, static = f"{output}:has(.{LIVE})", f"{output}:has(.{STATIC})"
    dead = f"{output}:not(:has(>:is(.jp-OutputArea-output,.output_subarea)>*))"
    hidden = [
        f"{live}+{static}",
        f"{live}+{output}:has(+{output} .{STATIC})",
        f"{live}+{output}:not(:has(.{STATIC}))+{static}",
        f"{dead}:has(+{output} .{STATIC})",
        f"{dead}:has(+{output}+{output} .{STATIC})",
    ]
    return f"<style>{','.join(hidden)}{{display:none}}</style>"


STYLE = _style()


def to_html(text: str) -> str:
    """Escaped text; words between backticks in code type."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def show(widget: ipywidgets.DOMWidget, kind: str, *static: tuple[dict, dict]) -> None:
    """Display the live widget, then its static form, of which a front end shows one.

    Parameters
    ----------
    widget : ipywidgets.DOMWidget
    kind : str
        Of the widget; the static form's HTML gets the class ``lora-edu-<kind>``, by which pages find it.
    *static : (data, metadata)
        One or two outputs by MIME type, the last with "text/html".
    """
    view = {WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}
    if "google.colab" in sys.modules:  # it keeps the live form in the file, and has elements of its own
        data, metadata = static[0]
        display({**view, **data}, metadata=metadata, raw=True)
        return
    widget.add_class(LIVE)
    display(view, raw=True)
    *pictures, (text, metadata) = static
    for data, of_picture in pictures:
        display(data, metadata=of_picture, raw=True)
    marked = f'<div class="{STATIC} lora-edu-{kind}">{STYLE}{text["text/html"]}</div>'
    display({**text, "text/html": marked}, metadata=metadata, raw=True)
