"""Run sheets for teachers, written from one plan and the sources of the notebooks.

    python -m tools.teaching [--check | --minutes]

``docs/teaching/plan.toml`` says which section takes how many minutes, and what to say there. From it and from
``notebooks/src/`` comes ``docs/teaching/run_sheets.md``: headings, links, polls and sums are looked up, never typed.
``--check`` writes nothing and fails when the page is not what the plan says. ``--minutes`` prints what the course
itself reckons for each section (the rule of tools/reading_time.py), to plan by.

In the plan "04 § 3" is the section of notebook 04 whose heading begins with "3."; "10 § Your own data" names a heading
without a number. A row that names no section is a break, or the class on its own.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbformat import NotebookNode

from lora_edu.llm.console import say
from lora_edu.llm.files import write_text
from tools import build_notebooks, reading_time

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "src"
TEACHING = ROOT / "docs" / "teaching"
PLAN, PAGE = TEACHING / "plan.toml", TEACHING / "run_sheets.md"
PAGES = ("teaching", "run_sheets", "notes", "test", "grading", "server", "kit", "adopting")
"""Of docs/teaching/, in the order of the book; the first leads to the others."""
REFERENCE = re.compile(r"(\d\db?) § (.+)")
HEADING = re.compile(r"(#{2,3}) (.*)")
UNBROKEN = "\u2011"
"""A hyphen at which no line ends."""
EXERCISE = re.compile(r"Exercise (\d\d\.\d+) · (.*?) \(")


class PlanError(ValueError):
    """A plan that does not fit the notebooks, or itself."""


class Part(NamedTuple):
    """A piece of a section: an exercise up to its check, what stands below a smaller heading, or the rest.

    ``name`` is the exercise's id, the smaller heading, or empty.
    """

    name: str
    minutes: float
    polls: tuple[str, ...]


class Row(NamedTuple):
    """A row of a sheet. ``parts`` are what is done of a section; a row without a section has none."""

    start: int
    end: int
    what: str
    tell: str
    do: str
    parts: tuple[Part, ...]


# ---------------------------------------------------------------- the notebooks


def source_of(notebook: str, folder: Path = SOURCES) -> Path:
    """The source of a notebook such as ``"05b"``."""
    found = next(folder.glob(f"{notebook}_*.py"), None)
    if found is None:
        raise PlanError(f"there is no notebook {notebook}")
    return found


@functools.cache
def sections_of(source: Path) -> dict[str, tuple[Part, ...]]:
    """The parts of each section by its heading, in the order of the notebook.

    What follows an exercise's check belongs to the section again.
    """
    cells = build_notebooks.read_source(source)
    set_up = next(cell for cell in cells if cell.cell_type == "code")
    found: dict[str, dict[str, Part]] = {}
    section, name, outer = "", "", ""
    for cell in cells:
        if cell is set_up:
            continue
        for heading, level, piece in _pieces(cell):
            if level == 2:
                section, name, outer = heading, "", ""
            elif level == 3:
                exercise = EXERCISE.match(heading)
                name = exercise[1] if exercise else heading
                outer = outer if exercise else heading
            parts = found.setdefault(section, {})
            _, minutes, polls = parts.get(name, Part(name, 0.0, ()))
            asked = tuple(re.findall(r'^predict\("(\d\d\.\d+)"', piece.source, re.M))
            parts[name] = Part(name, minutes + reading_time.cell_minutes(piece), polls + asked)
            if f'check("{name}"' in piece.source:
                name = outer
    return {heading: tuple(parts.values()) for heading, parts in found.items() if heading}


def _pieces(cell: NotebookNode) -> Iterator[tuple[str, int, NotebookNode]]:
    """A cell cut at its headings: heading and level (empty and 0 for what goes on), and the piece."""
    is_text = cell.cell_type == "markdown" and "hint" not in reading_time.tags_of(cell)
    for text in re.split(r"^(?=#{2,3} )", cell.source, flags=re.M) if is_text else [cell.source]:
        heading = HEADING.match(text) if is_text else None
        piece = NotebookNode(cell, source=text)
        yield (heading[2], len(heading[1]), piece) if heading else ("", 0, piece)


def find(reference: str, folder: Path = SOURCES) -> tuple[Path, str]:
    """Source and exact heading of a section such as ``"04 § 3"``.

    Raises
    ------
    PlanError
        If the notebook has no such section.
    """
    notebook, _, place = reference.partition(" § ")
    source = source_of(notebook, folder)
    for heading in sections_of(source):
        if heading == place or heading.startswith((f"{place}.", f"{place}:")):
            return source, heading
    raise PlanError(f"{source.name} has no section {place!r}, only {list(sections_of(source))}")


def link(source: Path, heading: str, up: str = "../../") -> str:
    """A link to a section, with the words of its heading."""
    number = source.name.partition("_")[0]
    return f"[{number} · {heading}]({up}notebooks/{source.stem}.ipynb#{slug(heading)})"


def slug(heading: str) -> str:
    """The place of a heading on its page, as GitHub and the book name it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


# ---------------------------------------------------------------- the plan


def rows_of(sheet: Mapping[str, Any], plan: Mapping[str, Any], folder: Path = SOURCES) -> list[Row]:
    """The rows of a sheet.

    Raises
    ------
    PlanError
        If a section or an exercise is not in its notebook, nothing is said of a section, the minutes do not add up
        to the sheet's, or a row has too few.
    """
    rows, start = [], 0
    for planned in sheet["rows"]:
        row = _row(planned, plan, start, folder)
        least = plan["least"] * sum(part.minutes for part in row.parts)
        if planned["min"] < least:
            raise PlanError(f"{sheet['title']}: {planned['at']} needs at least {least:.1f} minutes")
        rows.append(row)
        start = row.end
    if start != sheet["minutes"]:
        raise PlanError(f"{sheet['title']}: the rows take {start} minutes, not {sheet['minutes']}")
    return rows


def _row(planned: Mapping[str, Any], plan: Mapping[str, Any], start: int, folder: Path) -> Row:
    at, end = planned["at"], start + planned["min"]
    if not REFERENCE.fullmatch(at):
        return Row(start, end, at, planned.get("say", ""), planned.get("note", ""), ())
    source, heading = find(at, folder)
    parts = sections_of(source)[heading]
    wanted, skipped = planned.get("do", []), planned.get("skip", [])
    if unknown := {*wanted, *skipped} - {part.name for part in parts}:
        raise PlanError(f"{at} has no part {sorted(unknown)}, only {[part.name for part in parts]}")
    done = tuple(part for part in parts if part.name in wanted or not _is_left_out(part.name, skipped))
    number = source.name.partition("_")[0]
    said = planned.get("say") or plan["say"].get(number, {}).get(heading)
    if not said:
        raise PlanError(f"the plan says nothing of {heading!r} in notebook {number}")
    return Row(start, end, link(source, heading), said, _to_do(planned, done, parts), done)


def _is_left_out(name: str, skipped: Sequence[str]) -> bool:
    return name in skipped or bool(re.fullmatch(r"\d\d\.\d+", name))


def _to_do(planned: Mapping[str, Any], done: Sequence[Part], parts: Sequence[Part]) -> str:
    """Polls, exercises, what is skipped, and the plan's own note."""
    polls = [poll for part in done for poll in part.polls]
    left = [part.name for part in parts if part not in done]
    exercises, texts = (
        [name for name in left if bool(re.match(r"\d", name)) == wanted] for wanted in (True, False)
    )
    skips = [*(f'"{name}"' for name in texts), *(f"exercise {name}" for name in exercises)]
    sentences = [
        f"Poll **{', '.join(polls)}**." if polls else "",
        f"Exercise **{', '.join(planned['do'])}**." if planned.get("do") else "",
        planned.get("note", ""),
        f"Skip {', '.join(skips)}." if skips else "",
    ]
    return " ".join(filter(None, sentences))


# ---------------------------------------------------------------- the page


def page(plan: Mapping[str, Any], folder: Path = SOURCES) -> str:
    """The run sheets in Markdown.

    Raises
    ------
    PlanError
        As in `rows_of`.
    """
    parts = [f"# Run sheets\n\n{plan['opening'].strip()}"]
    for sheet in plan["sheets"]:
        parts.append(f"{'###' if sheet.get('part') else '##'} {sheet['title']}\n\n{sheet['for'].strip()}")
        if sheet.get("rows"):
            parts.append(_table(rows_of(sheet, plan, folder)))
        if home := sheet.get("home"):
            parts.append(
                "**At home:** " + "; ".join(_homework(reference, folder) for reference in home) + "."
            )
    return "\n\n".join([*parts, plan["closing"].strip()]) + "\n"


def _table(rows: Sequence[Row]) -> str:
    lines = [f"| {row.start}{UNBROKEN}{row.end} | {row.what} | {row.tell} | {row.do} |" for row in rows]
    return "\n".join(["| min | section | say | do |", "|---|---|---|---|", *lines])


def _homework(reference: str, folder: Path) -> str:
    source, heading = find(reference, folder)
    minutes = sum(part.minutes for part in sections_of(source)[heading])
    return f"{link(source, heading)} (about {5 * max(1, round(minutes / 5))} minutes)"


def read_plan(path: Path = PLAN) -> dict[str, Any]:
    """The plan."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def minutes_table(folder: Path = SOURCES) -> str:
    """What ``--minutes`` prints: each section, and its parts, with the course's own minutes."""
    lines = []
    for source in sorted(folder.glob(build_notebooks.SOURCES)):
        for heading, parts in sections_of(source).items():
            shown = ", ".join(
                f"{part.name or 'text'} {part.minutes:.1f} {' '.join(part.polls)}" for part in parts
            )
            lines.append(f"{source.name.partition('_')[0]:<4}{heading:<64} {shown}")
    return "\n".join(lines)


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Write docs/teaching/run_sheets.md from its plan.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--check", action="store_true", help="write nothing; fail if the page is not as planned"
    )
    choice.add_argument("--minutes", action="store_true", help="print the course's minutes for each section")
    options = parser.parse_args()
    if options.minutes:
        say(minutes_table())
        return
    text = page(read_plan())
    if options.check:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else f"{PAGE.name} is not what the plan says")
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
