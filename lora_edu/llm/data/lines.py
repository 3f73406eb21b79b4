"""Files of JSON Lines, read and checked: what the course's own data and a learner's have in common."""

import codecs
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_edu.llm.files import shown

DATA = Path(__file__).parents[3] / "data"
"""The repository's data; not part of an installed package."""


def course_file(path: str) -> Path:
    file = DATA / path
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: the data is part of the repository, not of the installed package. Clone the "
            "repository and install it with `pip install -e .`"
        )
    return file


def own_file(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {path!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must be an existing JSON Lines file, got {str(path)!r}")
    return Path(path)


def read_text(file: Path) -> str:
    """Return the UTF-8 text of a file, each line ended by a newline alone.

    Raises
    ------
    ValueError
        The file holds other bytes; the message names the first such line.
    """
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            f"{file} must be UTF-8 text, got other bytes: it begins as UTF-16 does. Save it as UTF-8"
        )
    try:
        text = content.decode("utf-8-sig")  # some editors on Windows start a file with a mark
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{file} must be UTF-8 text, got other bytes in line {line} ({error})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered_lines(file: Path) -> list[tuple[str, str]]:
    """Return each line that is not blank, and a text that names file and number."""
    # split, not splitlines: a JSON string may hold line separators other than the newline.
    numbered = enumerate(read_text(file).split("\n"), start=1)
    lines = [(line, f"{file}, line {number}") for number, line in numbered if line.strip()]
    if not lines:
        raise ValueError(f"{file} must hold at least one line, got none")
    return lines


def read_lines(file: Path, parse: Callable[[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what `parse` makes of each line; it gets the line and a text that names file and number."""
    return [parse(line, place) for line, place in numbered_lines(file)]


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def require_keys(name: str, value: Any, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    require(isinstance(value, dict), name, "a JSON object", value)
    allowed = f"a JSON object with the keys {', '.join(keys)}"
    if optional:
        allowed += f" and, if wanted, {', '.join(optional)}"
    require(set(keys) <= value.keys() <= {*keys, *optional}, name, allowed, value)


def require(condition: bool, name: str, allowed: str, given: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {shown(given)}")
