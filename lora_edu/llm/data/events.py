"""The capstone's data: sentences about an event, and what they say (see data/README.md).

Plain JSON Lines, so that any file of the same shape can take its place.
"""

import os
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

SPLITS = ("train", "fit", "validation", "test")
HELD_OUT_BEGINNINGS = ("Reminder: ", "Save the date! ", "Good news, the ", "From the notice board: ")
"""How the sentences of four patterns of the train split begin. No line of theirs is in the fit split."""


def load_events(split: str = "train", path: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Read event sentences and check every line.

    Parameters
    ----------
    split
        Of the course's data, unless `path` is given. ``"train"``: all 1,600 lines to learn from. ``"test"``: what is
        reported. While a setting is chosen, ``"fit"`` and ``"validation"`` stand in for these two. Both are taken from
        the train split by a fixed rule: validation has 100 lines of patterns that fit has, and 100 of four others.
    path
        A JSON Lines file of your own, in the same shape.

    Returns
    -------
    list of dict
        One dict a line: ``sentence`` (str); ``event``, a dict of `EVENT_FIELDS` with text copied from the
        sentence; in the splits to be asked, ``unseen_pattern`` (bool): no sentence learned from is built like it.

    Raises
    ------
    FileNotFoundError
        There is no such file, or the package was installed without the repository that holds the data.
    TypeError
        `path` is not a path.
    ValueError
        `split` is unknown, or a line breaks the rules; the message names the file and the line.
    """
    if path is not None:
        return read_lines(own_file(path), _parse_event)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    if split in ("train", "test"):
        return read_lines(course_file(f"events/{split}.jsonl"), _parse_event)
    fit, validation = _to_choose_settings(load_events("train"))
    return fit if split == "fit" else validation


def _to_choose_settings(train: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two parts of the train split, to learn from and to choose by; of each held-out pattern the first 25 lines."""
    held_out = [
        [line for line in train if line["sentence"].startswith(start)] for start in HELD_OUT_BEGINNINGS
    ]
    others = [line for line in train if not line["sentence"].startswith(HELD_OUT_BEGINNINGS)]
    seen = others[::14][:100]
    unseen = [line for lines in held_out for line in lines[:25]]
    validation = [line | {"unseen_pattern": False} for line in seen]
    validation += [line | {"unseen_pattern": True} for line in unseen]
    return [line for line in others if line not in seen], validation


def _parse_event(line: str, place: str) -> dict[str, Any]:
    return check_event(parse_json(line, place), place)


def check_event(record: Any, place: str) -> dict[str, Any]:
    """Return a line of the event data, or raise a ValueError that names `place` and what is wrong there."""
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
