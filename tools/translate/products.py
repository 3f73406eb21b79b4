"""Build a language: what the package looks up, and the notebooks with their solutions."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode

from lora_edu.llm.files import write_text
from tools import build_notebooks
from tools.set_repo import present_slug
from tools.translate import catalogs
from tools.translate.guard import CODE, LINK, TranslationError
from tools.translate.texts import PACKAGE, ROOT, source_of
from tools.words import Words

ON_PAGES = re.compile(r"page|\d\d[a-z]?-\S+")
"""Contexts that only a built notebook needs; all others are looked up while it runs."""
LINK_OR_CODE = re.compile(f"{CODE.pattern}|{LINK.pattern}")
"""Code may hold what looks like a link: ``layers[0](x)``."""


class Translation(Words):
    """A language's words, for a notebook in one folder.

    Parameters
    ----------
    language : str
        Such as ``"de"``.
    folder : str
        Where the notebook lies, ``"notebooks/de"`` or ``"notebooks/de/solutions"``.
    root : Path
        The repository.
    """

    def __init__(self, language: str, folder: str, root: Path = ROOT):
        self.notebooks = catalogs.present(language, root)
        self.language, self.folder = language, folder
        self.texts = {
            key: translation
            for catalog in [PACKAGE, *self.notebooks]
            for key, translation in catalogs.translations(language, catalog, root).items()
        }
        self.titles = {
            english.partition("\n")[0]: translation.partition("\n")[0]
            for (_, english), translation in self.texts.items()
            if english.startswith("# ")
        }

    def cell(self, key: str, english: str) -> str:
        translated = self.texts.get((key, english), english)
        return LINK_OR_CODE.sub(
            lambda found: f"]({self.link(found[1])})" if found[1] else found[0], translated
        )

    def title(self, first_cell: str) -> str:
        english = super().title(first_cell)
        return self.titles.get(english, english)

    def phrase(self, english: str, **values: object) -> str:
        return super().phrase(self.texts.get(("page", english), english), **values)

    def notice(self) -> str:
        return self.phrase(
            "In Colab, first run a cell of your own with `%env LORA_EDU_LANGUAGE={language}`.",
            language=self.language,
        )

    def number(self, written: str) -> str:
        return written.replace(".", self.phrase("."))

    def link(self, target: str) -> str:
        if re.match(r"[a-z]+:|#", target):
            return target
        if target.endswith(".ipynb") and target.split("_")[0] in self.notebooks:
            return target  # its neighbour is translated, too
        home = "notebooks/solutions" if self.folder.endswith("/solutions") else "notebooks"
        return posixpath.relpath(posixpath.normpath(posixpath.join(home, target)), self.folder)


def products(language: str, source: Path, root: Path = ROOT) -> list[Path]:
    """The learner's notebook and the solutions of a source."""
    folder = root / "notebooks" / language
    return [folder / f"{source.stem}.ipynb", folder / "solutions" / f"{source.stem}.ipynb"]


def words_of(language: str, target: Path, root: Path = ROOT) -> Translation:
    """The words of the notebook that lies at `target`."""
    return Translation(language, target.parent.relative_to(root).as_posix(), root)


def composed(language: str, target: Path, root: Path = ROOT) -> NotebookNode:
    """The notebook that belongs at `target`, not executed."""
    source = source_of(target.stem.split("_")[0], root)
    path = target.relative_to(root).as_posix()
    return build_notebooks.compose(source, path, present_slug(root), words_of(language, target, root))


def looked_up(language: str, root: Path = ROOT) -> str:
    """The JSON of all texts that the package looks up while a notebook runs; see `lora_edu.classroom.language`.

    Raises
    ------
    TranslationError
        If two catalogs translate one text in one context differently, or a prediction has two equal choices.
    """
    found: dict[str, dict[str, str]] = {}
    for catalog in [PACKAGE, *catalogs.present(language, root)]:
        name = catalogs.path_of(language, catalog, root).relative_to(root).as_posix()
        for (context, english), translation in catalogs.translations(language, catalog, root).items():
            if ON_PAGES.fullmatch(context):
                continue
            before = found.setdefault(context, {}).setdefault(english, translation)
            if before != translation:
                raise TranslationError(
                    f"{name}, {context!r} ({english}): {translation!r}, but another file says {before!r}"
                )
        for context, pairs in found.items():
            if context.endswith(" choice") and len(set(pairs.values())) < len(pairs):
                raise TranslationError(
                    f"{name}, {context!r}: two choices read the same, {list(pairs.values())}"
                )
    return json.dumps(found, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def lookup_file(language: str, root: Path = ROOT) -> Path:
    return root / "lora_edu" / "classroom" / "languages" / f"{language}.json"


def build(language: str, numbers: Sequence[str], root: Path = ROOT, force: bool = False) -> None:
    """Write what is looked up, then bring the notebooks up to date; say what was done.

    They are executed where their cells have changed; all that are asked for, where what is looked up has changed.
    """
    text, file = looked_up(language, root), lookup_file(language, root)
    changed = not file.is_file() or file.read_text(encoding="utf-8") != text
    if changed:
        file.parent.mkdir(exist_ok=True)
        write_text(file, text)
        print(f"{file.relative_to(root)}: written")
    for number in catalogs.chosen(language, numbers, root):
        source = source_of(number, root)
        for target in products(language, source, root):
            words = words_of(language, target, root)
            executed = build_notebooks.build(source, target, root, force or changed, words)
            print(f"{target.relative_to(root)}: {'built' if executed else 'up to date'}")


def check(language: str, root: Path = ROOT) -> list[str]:
    """One line for each product that is not what the catalogs say."""
    file = lookup_file(language, root)
    is_same = file.is_file() and file.read_text(encoding="utf-8") == looked_up(language, root)
    problems = [] if is_same else [f"{file.relative_to(root)}: it is not what the .po files say"]
    for number in catalogs.present(language, root):
        for target in products(language, source_of(number, root), root):
            notebook = composed(language, target, root)
            if difference := build_notebooks.differences(build_notebooks.read_notebook(target), notebook):
                problems.append(f"{target.relative_to(root)}: {difference}")
    return problems
