"""Ask the model hub which commit each model of the course is at, and pin the course to it.

    python -m tools.pin_revisions            # needs a network
    python -m tools.pin_revisions --answers answers.json

Writes lora_edu/llm/base_model/revisions.py, which `load_base_model` reads. The second form takes the hub's answers from
a file: by the model's id, what https://huggingface.co/api/models/ID says.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from lora_edu.llm.base_model import TIERS
from lora_edu.llm.files import write_text

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "lora_edu" / "llm" / "base_model" / "revisions.py"
API = "https://huggingface.co/api/models/{name}"
SECONDS = 20


def from_the_hub(name: str) -> Any:
    """What the hub says of a model."""
    with urlopen(API.format(name=name), timeout=SECONDS) as answer:
        return json.load(answer)


def revision_in(name: str, answer: Any) -> str:
    """The commit in the hub's answer about a model.

    Raises
    ------
    ValueError
        The answer is about another model, names no commit, or a licence other than the recorded one.
    """
    answer = answer if isinstance(answer, Mapping) else {}
    found, commit = answer.get("id"), answer.get("sha")
    if found != name or not re.fullmatch(r"[0-9a-f]{40}", str(commit)):
        raise ValueError(
            f"the answer for {name} must hold its id and a commit of 40 digits, got {found!r}, {commit!r}"
        )
    licence = (answer.get("cardData") or {}).get("license")
    if licence is not None and licence.casefold() != TIERS[name].licence.casefold():
        raise ValueError(f"the licence of {name} must be {TIERS[name].licence}, as recorded, got {licence!r}")
    return str(commit)


def revisions(ask: Callable[[str], Any]) -> dict[str, str]:
    """The commit of each model of the course that a hub holds."""
    return {name: revision_in(name, ask(name)) for name, tier in TIERS.items() if tier.on_hub}


def pinned(source: str, found: Mapping[str, str]) -> str:
    """The source of revisions.py with these commits."""
    lines = "".join(f'    "{name}": "{commit}",\n' for name, commit in sorted(found.items()))
    start, _, _ = source.partition("REVISIONS: dict[str, str] = ")
    return f"{start}REVISIONS: dict[str, str] = {{\n{lines}}}\n"


def main(arguments: list[str] | None = None, target: Path = TARGET) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--answers", type=Path, help="a JSON file of the hub's answers, by the model's id")
    options = parser.parse_args(arguments)
    ask: Callable[[str], Any] = from_the_hub
    try:
        if options.answers:
            ask = json.loads(options.answers.read_text("utf-8")).get
        found = revisions(ask)
    except (URLError, TimeoutError, ConnectionError) as error:
        print(f"the model hub cannot be reached, so nothing was pinned: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"nothing was pinned: {error}", file=sys.stderr)
        return 1
    write_text(target, pinned(target.read_text("utf-8"), found))
    for name, commit in found.items():
        print(f"{name}: {commit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
