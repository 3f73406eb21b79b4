"""The course's own data: sentences about an event, and turns of three personas (see data/README.md).

Plain JSON Lines, so that any file of the same shape can take its place.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENT_FIELDS = ("who", "what", "where", "day", "time")
"""The keys of an event, in the order in which the data and the answers have them."""

PERSONAS = ("captain", "robot", "gardener")
"""The voices that `load_persona` knows."""

DATA = Path(__file__).parents[2] / "data"


def load_events(split: str = "train", path: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Read event sentences and check every line.

    Parameters
    ----------
    split
        ``"train"`` or ``"test"`` of the course's data. Not looked at when `path` is given.
    path
        A JSON Lines file of your own, in the same shape.

    Returns
    -------
    list of dict
        One dict a line: ``sentence`` (str); ``event``, a dict of `EVENT_FIELDS` with text copied from the
        sentence; in the test split ``unseen_pattern`` (bool): no train sentence is built like this one.

    Raises
    ------
    FileNotFoundError
        There is no such file, or the package was installed without the repository that holds the data.
    TypeError
        `path` is not a path.
    ValueError
        `split` is unknown, or a line breaks the rules; the message names the file and the line.
    """
    file = _course_events(split) if path is None else _own_file(path)
    return _read_lines(file, _parse_event)


def load_persona(name: str) -> list[dict[str, str]]:
    """Read what a persona answers to everyday questions, and check every line.

    Parameters
    ----------
    name
        One of `PERSONAS`.

    Returns
    -------
    list of dict
        One dict a line: ``user``, the question, and ``reply``, the persona's answer.

    Raises
    ------
    FileNotFoundError
        The package was installed without the repository that holds the data.
    ValueError
        `name` is unknown, or a line breaks the rules; the message names the file and the line.
    """
    if name not in PERSONAS:
        raise ValueError(f"name must be one of {', '.join(map(repr, PERSONAS))}, got {name!r}")
    return _read_lines(_course_file(f"personas/{name}.jsonl"), _parse_turn)


def load_persona_questions() -> list[str]:
    """Read the questions that are held out: no persona's data holds them, and none has a reply."""
    return json.loads(_course_file("personas/held_out.json").read_text(encoding="utf-8"))


def _course_events(split: str) -> Path:
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return _course_file(f"events/{split}.jsonl")


def _course_file(path: str) -> Path:
    file = DATA / path
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: the data is part of the repository, not of the installed package. Clone the "
            "repository and install it with `pip install -e .`"
        )
    return file


def _own_file(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {path!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must be an existing JSON Lines file, got {str(path)!r}")
    return Path(path)


def _read_lines(file: Path, parse: Callable[[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what `parse` makes of each line; it gets the line and a text that names file and number."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors on Windows start a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be UTF-8 text, got other bytes ({error})") from error
    # split, not splitlines: a JSON string may hold line separators other than the newline.
    numbered = enumerate(text.split("\n"), start=1)
    records = [parse(line, f"{file}, line {number}") for number, line in numbered if line.strip()]
    if not records:
        raise ValueError(f"{file} must hold at least one line, got none")
    return records


def _parse_turn(line: str, place: str) -> dict[str, Any]:
    record = _parse_json(line, place)
    _require_keys(place, record, ("user", "reply"))
    for key, value in record.items():
        _require(_is_text(value), f"{place}: {key}", "text", value)
    return record


def _parse_event(line: str, place: str) -> dict[str, Any]:
    record = _parse_json(line, place)
    _require_keys(place, record, ("sentence", "event"), optional=("unseen_pattern",))
    sentence, event = record["sentence"], record["event"]
    _require(_is_text(sentence), f"{place}: sentence", "text", sentence)
    _require_keys(f"{place}: event", event, EVENT_FIELDS)
    for field, value in event.items():
        copied = _is_text(value) and value in sentence
        _require(copied, f"{place}: {field}", f"copied from the sentence {sentence!r}", value)
    unseen = record.get("unseen_pattern", False)
    _require(isinstance(unseen, bool), f"{place}: unseen_pattern", "true or false", unseen)
    return record


def _parse_json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} must be one JSON object, got {line!r} ({error})") from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _require_keys(name: str, value: Any, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    _require(isinstance(value, dict), name, "a JSON object", value)
    allowed = f"a JSON object with the keys {', '.join(keys)}"
    if optional:
        allowed += f" and, if wanted, {', '.join(optional)}"
    _require(set(keys) <= value.keys() <= {*keys, *optional}, name, allowed, value)


def _require(condition: bool, name: str, allowed: str, given: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {given!r}")
