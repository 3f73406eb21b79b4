"""One output that holds a live widget and its static form."""

from __future__ import annotations

import html
import re

import ipywidgets
from IPython.display import display

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def to_html(text: str) -> str:
    """Escaped text; words between backticks in code type."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def show(widget: ipywidgets.Widget, static: dict, metadata: dict | None = None) -> None:
    """Display one output that holds the live widget and its static form, by MIME type."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display({WIDGET_VIEW: view, **static}, metadata=metadata, raw=True)
