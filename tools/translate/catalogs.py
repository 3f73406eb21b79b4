"""Read, refresh and write the .po files of a language."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polib

from lora_edu.llm.files import write_text
from tools.translate.guard import TranslationError, faults
from tools.translate.texts import PACKAGE, ROOT, Entry, entries

LANGUAGE = re.compile(r"[a-z]{2}")
SIMILAR = 0.6
"""From here on a vanished text is taken for an older form of a new one."""
WIDTH = 100
TEXT_LINE = re.compile(r'(#[~|] ?)*(msg\w|")')
WHOLE_LINE = re.compile(r'(#[~|] ?)*(msg\w+(\[\d\])? )?"([^"\\]|\\.)*"\s*')


class Count(NamedTuple):
    """How much of a catalog is done."""

    translated: int
    fuzzy: int
    total: int

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means all."""
        return 100 * self.translated // self.total


def path_of(language: str, catalog: str, root: Path = ROOT) -> Path:
    return root / "translations" / language / f"{catalog}.po"


def present(language: str, root: Path = ROOT) -> list[str]:
    """The catalogs that a language has, without `PACKAGE`."""
    return sorted(path.stem for path in path_of(language, PACKAGE, root).parent.glob("[0-9]*.po"))


def present_languages(root: Path = ROOT) -> list[str]:
    """The languages that have catalogs."""
    return sorted(path.parent.name for path in (root / "translations").glob(f"*/{PACKAGE}.po"))


def checked_language(language: str) -> str:
    """The same code.

    Raises
    ------
    TranslationError
        If it is no code of two small letters, or English.
    """
    if not LANGUAGE.fullmatch(language) or language == "en":
        raise TranslationError(f"LANG must be a code such as de or fr, not en, got {language!r}")
    return language


def read(path: Path) -> polib.POFile:
    """A catalog.

    Raises
    ------
    TranslationError
        If there is none, or it is no .po file, or holds an entry twice.
    """
    name = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    if not path.is_file():
        raise TranslationError(
            f"{name} is not there: python -m tools.translate extract {path.parent.name} {path.stem}"
        )
    try:
        _check_quotes(path.read_text(encoding="utf-8"))
        catalog = polib.pofile(str(path), wrapwidth=WIDTH, encoding="utf-8")
    except (OSError, UnicodeError, ValueError) as error:
        raise TranslationError(f"{name} cannot be read: {error}") from error
    seen = set()
    for entry in catalog:
        if (key := _key(entry)) in seen and not entry.obsolete:
            raise TranslationError(
                f"{name}, line {entry.linenum}: the entry {_named(entry)} stands there twice"
            )
        seen.add(key)
    return catalog


def _check_quotes(content: str) -> None:
    """Refuse a text without its closing quote, of which polib would cut the last letter."""
    for number, line in enumerate(content.splitlines(), start=1):
        if TEXT_LINE.match(line) and not WHOLE_LINE.fullmatch(line):
            raise ValueError(f"line {number}: {line!r} is not one text between quotes")


def translations(language: str, catalog: str, root: Path = ROOT) -> dict[tuple[str, str], str]:
    """Translation of each text that has one, by context and English text; fuzzy ones and old texts are left out.

    Raises
    ------
    TranslationError
        If the file cannot be read, or a translation lost something; it names file and entry.
    """
    path = path_of(language, catalog, root)
    wanted = {(entry.context, entry.english) for entry in entries(catalog, root)}
    kept = {}
    for entry in read(path):
        if entry.obsolete or entry.fuzzy or not entry.msgstr or _key(entry) not in wanted:
            continue
        if found := list(faults(entry.msgctxt, entry.msgid, entry.msgstr)):
            name = path.relative_to(root).as_posix()
            raise TranslationError(f"{name}, line {entry.linenum}, {_named(entry)}: {'; '.join(found)}")
        kept[_key(entry)] = entry.msgstr
    return kept


def count(language: str, catalog: str, root: Path = ROOT) -> Count:
    """How much of a catalog is translated."""
    wanted = {(entry.context, entry.english) for entry in entries(catalog, root)}
    found = [
        entry
        for entry in read(path_of(language, catalog, root))
        if _key(entry) in wanted and not entry.obsolete
    ]
    done = sum(bool(entry.msgstr) and not entry.fuzzy for entry in found)
    return Count(done, sum(entry.fuzzy for entry in found), len(wanted))


def extract(language: str, catalog: str, root: Path = ROOT) -> Path:
    """Write a catalog with all texts of today; what was translated stays, and is fuzzy where its text has changed."""
    path = path_of(language, catalog, root)
    file = read(path) if path.exists() else polib.POFile()
    old = list(file)
    texts = entries(catalog, root)
    known = {_key(entry): entry for entry in old}
    gone = [
        entry for entry in old if _key(entry) not in {(e.context, e.english) for e in texts} and entry.msgstr
    ]
    made = polib.POFile(wrapwidth=WIDTH)
    made.header = file.header
    made.metadata = {
        **file.metadata,  # such as the translator's name
        "Project-Id-Version": "lora_edu",
        "Language": language,
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=UTF-8",
        "Content-Transfer-Encoding": "8bit",
    }
    for text in texts:
        entry = polib.POEntry(
            msgctxt=text.context, msgid=text.english, comment=text.note, occurrences=[(text.place, "")]
        )
        if before := known.get((text.context, text.english)):
            entry.msgstr, entry.tcomment = before.msgstr, before.tcomment
            entry.flags = ["fuzzy"] * before.fuzzy
            entry.previous_msgid = before.previous_msgid if before.fuzzy else None
        elif before := _older_form(text, gone):
            entry.msgstr, entry.tcomment = before.msgstr, before.tcomment
            if before.fuzzy or before.msgid != text.english:
                entry.flags, entry.previous_msgid = ["fuzzy"], before.previous_msgid or before.msgid
            gone.remove(before)
        made.append(entry)
    for entry in gone:  # a text may come back
        entry.obsolete = True
        made.append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, f"{made.__unicode__().rstrip()}\n")


def _older_form(text: Entry, gone: Sequence[polib.POEntry]) -> polib.POEntry | None:
    """Of the vanished entries the one that is most like a new text; the same text in another context first."""
    same = [entry for entry in gone if entry.msgid == text.english]
    if same:
        return same[0]
    alike = [(_likeness(text, entry), place) for place, entry in enumerate(gone)]
    best, place = max(alike, default=(0.0, 0))
    return gone[place] if best >= SIMILAR else None


def _likeness(text: Entry, entry: polib.POEntry) -> float:
    if _kind(text.context) != _kind(entry.msgctxt):
        return 0.0
    return difflib.SequenceMatcher(None, text.english, entry.msgid, autojunk=False).ratio()


def _kind(context: str | None) -> str:
    """What a text is: a context without its number."""
    return re.sub(r"\d.*?(?= |$)", "", context or "")


def _key(entry: polib.POEntry) -> tuple[str, str]:
    return entry.msgctxt or "", entry.msgid


def _named(entry: polib.POEntry) -> str:
    beginning = " ".join(entry.msgid.split())
    return f"{entry.msgctxt!r} ({beginning[:50]}{'...' if len(beginning) > 50 else ''})"


def chosen(language: str, numbers: Iterable[str], root: Path = ROOT) -> Iterator[str]:
    """The catalogs that are named; all that are there if none is."""
    yield from numbers or present(language, root)
