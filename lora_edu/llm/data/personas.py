"""Three voices: what they answer to everyday questions, and one plain rule each by which their style is counted.

A rule looks at form alone. An answer may follow it and be nonsense, or be wise and break it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from lora_edu.llm.data.lines import course_file, is_text, read_lines, require, require_keys
from lora_edu.llm.files import parse_json

PERSONAS = ("captain", "robot", "gardener")
"""The voices that `load_persona` knows."""

SIGN_OFFS = ("Anchors aweigh!", "Fair winds!", "Full sail ahead!", "Mind the tide!", "Steady as she goes!")
"""The captain ends every reply with one of these."""

PLANTS = (
    *(
        "basil",
        "bean",
        "birch",
        "bramble",
        "clover",
        "daffodil",
        "daisy",
        "dandelion",
        "fern",
        "ivy",
        "lavender",
    ),
    *(
        "lilac",
        "lupin",
        "marigold",
        "moss",
        "nettle",
        "oak",
        "peony",
        "poppy",
        "pumpkin",
        "radish",
        "rhubarb",
    ),
    *("snowdrop", "sunflower", "thistle", "tomato", "tulip", "willow"),
)
"""The gardener names one of these in every reply, or several of a kind."""

_NAMES = "|".join(f"{plant[:-1]}(?:y|ies)" if plant.endswith("y") else f"{plant}(?:e?s)?" for plant in PLANTS)
_RULES = {
    "captain": re.compile(rf"(?:{'|'.join(map(re.escape, SIGN_OFFS))})$"),
    "robot": re.compile(r"^LOG \d{3}: "),
    "gardener": re.compile(rf"\b(?:{_NAMES})\b", re.IGNORECASE),
}


def has_style(name: str, reply: str) -> bool:
    """Whether a reply follows the rule of a persona.

    The captain ends with one of `SIGN_OFFS`, the robot begins with ``LOG``, three digits and a colon, the
    gardener names one of `PLANTS`. Space around the reply is passed over.

    Raises
    ------
    ValueError
        If there is no rule of that name.
    """
    if name not in _RULES:
        raise ValueError(f"name must be one of {list(_RULES)}, got {name!r}")
    return _RULES[name].search(reply.strip()) is not None


def style_rate(name: str, replies: Sequence[str]) -> float:
    """Return the fraction (0 to 1) of replies that follow the rule of a persona.

    Raises
    ------
    ValueError
        If there is no rule of that name, or no reply.
    """
    if not replies:
        raise ValueError(f"replies must be at least one, got {replies!r}")
    return sum(has_style(name, reply) for reply in replies) / len(replies)


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
    return read_lines(course_file(f"personas/{name}.jsonl"), _parse_turn)


def load_persona_questions() -> list[str]:
    """Read the questions that are held out: no persona's data holds them, and none has a reply."""
    return json.loads(course_file("personas/held_out.json").read_text(encoding="utf-8"))


def _parse_turn(line: str, place: str) -> dict[str, Any]:
    record = parse_json(line, place)
    require_keys(place, record, ("user", "reply"))
    for key, value in record.items():
        require(is_text(value), f"{place}: {key}", "text", value)
    return record
