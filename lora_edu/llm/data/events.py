"""The capstone's data: sentences about an event, and what they say (see data/README.md).

Plain JSON Lines, so that any file of the same shape can take its place.
"""

import os
from pathlib import Path
from typing import Any

from lora_edu.llm.data.lines import (
    course_file,
    is_text,
    own_file,
    read_lines,
    require,
    require_keys,
)
from lora_edu.llm.files import parse_json

EVENT_FIELDS = ("who", "what", "where", "day", "time")
"""The keys of an event, in the order in which the data and the answers have them."""


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
    file = _course_events(split) if path is None else own_file(path)
    return read_lines(file, _parse_event)


def _course_events(split: str) -> Path:
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return course_file(f"events/{split}.jsonl")


def _parse_event(line: str, place: str) -> dict[str, Any]:
    record = parse_json(line, place)
    require_keys(place, record, ("sentence", "event"), optional=("unseen_pattern",))
    sentence, event = record["sentence"], record["event"]
    require(is_text(sentence), f"{place}: sentence", "text", sentence)
    require_keys(f"{place}: event", event, EVENT_FIELDS)
    for field, value in event.items():
        copied = is_text(value) and value in sentence
        require(copied, f"{place}: {field}", f"copied from the sentence {sentence!r}", value)
    unseen = record.get("unseen_pattern", False)
    require(isinstance(unseen, bool), f"{place}: unseen_pattern", "true or false", unseen)
    return record
