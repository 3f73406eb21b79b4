"""Results side by side, as a table or as text."""

from __future__ import annotations

from collections.abc import Sequence

from lora_edu.classroom.language import label
from lora_edu.classroom.widgets._show import to_html


class Comparison:
    """Results side by side; see `compare`."""

    def __init__(self, columns: dict[str, list[str]]):
        self.columns = columns

    def _repr_html_(self) -> str:
        def row(tag: str, cells: Sequence[str]) -> str:
            return (
                "<tr>" + "".join(f'<{tag} style="text-align:left">{cell}</{tag}>' for cell in cells) + "</tr>"
            )

        head = row("th", [to_html(name) for name in self.columns])
        body = [
            row("td", [to_html(text) for text in texts]) for texts in zip(*self.columns.values(), strict=True)
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
        label(name.replace("_", " ")): [texts] if isinstance(texts, str) else [str(text) for text in texts]
        for name, texts in columns.items()
    }
    lengths = {name: len(texts) for name, texts in cells.items()}
    if len(cells) < 2 or len(set(lengths.values())) != 1:
        raise ValueError(f"columns must be at least two, of equal length, got lengths {lengths}")
    return Comparison(cells)
