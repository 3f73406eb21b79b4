"""Which checks a learner has passed: kept in one small file beside the working copies, and sent nowhere.

The file is ``progress.json`` in ``work/``, where `make lab` puts the learner's notebooks. Elsewhere nothing is
kept, unless the environment variable ``LORA_EDU_PROGRESS`` names a file: so builds and tests write none.
`forget_progress` deletes it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from lora_edu.classroom.card import show
from lora_edu.classroom.language import say
from lora_edu.llm.files import write_json

CHECKS = {
    **{"00": 1, "01": 6, "02": 3, "03": 5, "04": 5, "05": 3, "05b": 3},
    **{"06": 3, "07": 6, "08": 6, "09": 5, "10": 3, "11": 4, "12": 4, "13": 3},
}
"""How many checks each notebook has. (To ask the exercises would load them all.)

They are numbered from 1; a second half, such as 05b, goes on where the first ended.
"""

WORKING_COPIES = ".copied.json"
"""The file by which `tools/working_copies.py` marks its folder."""

PASSED, TRIED = "passed", "tried"


def progress_file() -> Path | None:
    """Where progress is kept; None where it is not."""
    if named := os.environ.get("LORA_EDU_PROGRESS"):
        return Path(named).expanduser()
    return Path("progress.json") if Path(WORKING_COPIES).exists() else None


def read_progress() -> dict[str, str]:
    """For each check that was tried, by its id, ``"passed"`` or ``"tried"``; empty if nothing can be read."""
    file = progress_file()
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):  # not there yet, or damaged: every check counts as open
        return {}
    return kept if isinstance(kept, dict) else {}


def keep_progress(exercise_id: str, passed: bool) -> None:
    """Note a check that was tried or passed. Once passed, it stays so.

    A file that cannot be written is left as it is: a check never fails for it.
    """
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home for a path with ~
        file, kept = progress_file(), read_progress()
        if file and kept.get(exercise_id) != PASSED:
            kept[exercise_id] = PASSED if passed else TRIED
            write_json(file, dict(sorted(kept.items())))


def forget_progress() -> None:
    """Delete the file in which progress is kept."""
    if file := progress_file():
        file.unlink(missing_ok=True)


def progress(notebook: str | None = None) -> None:
    """Show how many checks are passed, tried and open: of one notebook (``"04"``), or of all.

    Where no progress is kept, it says how many checks there are.

    Raises
    ------
    ValueError
        There is no notebook of that number.
    """
    if notebook is not None and notebook not in CHECKS:
        raise ValueError(f"notebook must be one of {', '.join(CHECKS)}, or None for all; got {notebook!r}")
    kept = read_progress()
    if notebook is not None:
        show(say("Notebook {counts}.", counts=_line(notebook, kept)), "progress")
        return
    everything = [check for number in CHECKS for check in _checks(number)]
    total = say("All notebooks: {counts}.", counts=_counts(everything, kept))
    lines = [f"{_line(number, kept)}" for number in CHECKS] if kept else []
    show("\n".join([total, *lines]), "progress")


def _checks(notebook: str) -> list[str]:
    number = notebook[:2]
    before = CHECKS[number] if notebook != number else 0
    return [f"{number}.{place}" for place in range(before + 1, before + CHECKS[notebook] + 1)]


def _line(notebook: str, kept: dict[str, str]) -> str:
    return f"{notebook}: {_counts(_checks(notebook), kept)}"


def _counts(checks: list[str], kept: dict[str, str]) -> str:
    states = [kept.get(check) for check in checks]
    of_all = say("{count} checks", count=len(checks)) if len(checks) > 1 else say("1 check")
    if not kept:
        return of_all
    passed, tried = states.count(PASSED), states.count(TRIED)
    return say(
        "{of_all}, {passed} passed, {tried} tried, {left} open",
        of_all=of_all,
        passed=passed,
        tried=tried,
        left=len(checks) - passed - tried,
    )
