"""What there is to translate, collected from sources, predictions, exercises and the package's code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lora_edu.classroom.predictions import load_predictions
from tools import build_notebooks

ROOT = build_notebooks.ROOT
PACKAGE = "package"
"""The catalog of what all notebooks share."""

TITLES = {"title", "xlabel", "ylabel", "alt"}
DRAWING = {"figures", "explore", "compare"}
NO_NAMES = TITLES | {"role", "way"}
"""Keys of dictionaries that hold no names of what is drawn."""
NO_CONTROLS = {"start", "panels"}


class Entry(NamedTuple):
    """One text.

    Attributes
    ----------
    context : str
        What it is; see the package's docstring.
    english : str
        The text.
    place : str
        The file that holds it.
    note : str
        For the translator.
    """

    context: str
    english: str
    place: str
    note: str = ""


def entries(catalog: str, root: Path = ROOT) -> list[Entry]:
    """The texts of a catalog, each once, in the order in which a learner meets them.

    Parameters
    ----------
    catalog : str
        ``"04"``, or `PACKAGE`.
    root : Path
        The repository.
    """
    found = _of_package(root) if catalog == PACKAGE else _of_notebook(catalog, root)
    return list({(entry.context, entry.english): entry for entry in reversed(list(found))}.values())[::-1]


def source_of(notebook: str, root: Path = ROOT) -> Path:
    """The source of a notebook.

    Raises
    ------
    BuildError
        There is none of that number.
    """
    [source] = build_notebooks.selected_sources([notebook], root)
    return source


def _of_notebook(notebook: str, root: Path) -> Iterator[Entry]:
    source = source_of(notebook, root)
    yield from _cells(source, root)
    shared = {entry.english for entry in _of_package(root) if entry.context == "label"}
    yield from (entry for entry in _labels(source, root) if entry.english not in shared)
    place = f"lora_edu/classroom/predictions/n{notebook}.py"
    for key, question in load_predictions(notebook).items():
        yield Entry(f"prediction {key} question", question.text, place)
        yield from (Entry(f"prediction {key} choice", choice, place) for choice in question.choices)
        if question.why:
            note = "Shown with the answer: " + question.answer
            yield Entry(f"prediction {key} why", question.why, place, note)
    yield from _hints(notebook)


def _cells(source: Path, root: Path) -> Iterator[Entry]:
    place = source.relative_to(root).as_posix()
    cells = list(build_notebooks.product_cells(build_notebooks.read_source(source), solutions=False))
    build_notebooks.add_ids(cells, source.stem.split("_")[0])
    for cell in cells:
        if cell.cell_type == "markdown":
            folded = build_notebooks.FOLDED_TEXT.fullmatch(cell.source)
            if folded is None:
                yield Entry(cell.id, cell.source, place)
            elif folded[1] == "Hint":
                yield Entry(cell.id, folded[2], place, "A hint, folded.")


def _hints(notebook: str) -> Iterator[Entry]:
    for more in ("", "_tests"):
        name = f"lora_edu.classroom.exercises.n{notebook}{more}"
        if importlib.util.find_spec(name) is None:
            continue
        place = f"{name.replace('.', '/')}.py"
        for key, exercise in importlib.import_module(name).EXERCISES.items():
            for wrong in exercise.wrong_answers:
                yield Entry(f"exercise {key} hint", wrong.hint, place)
            for law in exercise.laws:
                yield Entry(f"exercise {key} law", law.statement, place, "A property that must hold.")
            if exercise.symptom:
                yield Entry(f"exercise {key} symptom", exercise.symptom, place, "How the fault is seen.")


# ---------------------------------------------------------------- texts in code


@cache
def _of_package(root: Path) -> tuple[Entry, ...]:
    """The package's texts; its code does not change while this runs."""
    return (*_said(root), *_on_pages(root))


def _said(root: Path) -> Iterator[Entry]:
    for path in sorted((root / "lora_edu" / "classroom").rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        if "say(" in code or "to_translate(" in code:
            place = path.relative_to(root).as_posix()
            tree = ast.parse(code)
            says = "say" in _imported(tree)
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call):
                    continue
                if ast.unparse(node.func) == "say.say" or (says and ast.unparse(node.func) == "say"):
                    yield Entry("say", _written_out(node, place), place)
                elif _called(node) == "to_translate":
                    yield from (Entry("label", text, place) for text in _strings(node.args))


def _on_pages(root: Path) -> Iterator[Entry]:
    for place in ("tools/build_notebooks.py", "tools/translate/products.py"):
        for node in ast.walk(ast.parse((root / place).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("words.phrase", "self.phrase"):
                yield Entry("page", _written_out(node, place), place)


def _imported(tree: ast.Module) -> set[str]:
    """What a module has from `language`; another `say` prints to a terminal."""
    froms = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {
        name.name for node in froms if node.module == "lora_edu.classroom.language" for name in node.names
    }


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _written_out(node: ast.Call, place: str) -> str:
    match node.args:
        case [ast.Constant(value=str(text)), *_]:
            return text
    raise ValueError(
        f"{place}, line {node.lineno}: a text to translate must be written out, got {ast.unparse(node)}"
    )


def _labels(source: Path, root: Path) -> Iterator[Entry]:
    """Texts in a notebook's cells that a figure, a slider or a table shows.

    They are the titles; and, where a cell draws, the names of what is drawn (keys of dictionaries), the texts in
    lists, and the names of sliders and columns.
    """
    place = source.relative_to(root).as_posix()
    for cell in build_notebooks.read_source(source):
        if cell.cell_type != "code":
            continue
        for node in ast.walk(_without_starts(ast.parse(cell.source))):
            for text in _of_node(node):
                if any(letter.isalpha() for letter in text):
                    yield Entry("label", text, place, "A name or a title in a picture, a slider or a table.")


def _without_starts(tree: ast.Module) -> ast.Module:
    """The code without arguments that name no new control."""
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.Call):
            node.keywords = [word for word in node.keywords if word.arg not in NO_CONTROLS]
    return tree


def _of_node(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Dict(keys=keys, values=values):
            named = [
                (key.value, value)
                for key, value in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant)
            ]
            yield from _strings(value for name, value in named if name in TITLES)
            if not {name for name, _ in named} & NO_NAMES:
                yield from (name for name, _ in named if isinstance(name, str))
        case ast.Call(keywords=keywords):
            yield from _strings(word.value for word in keywords if word.arg in TITLES)
            if ast.unparse(node.func).split(".")[0] in DRAWING:
                yield from _of_drawing(node)


def _of_drawing(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name):  # explore, compare: keywords are shown
        for word in node.keywords:
            if word.arg:
                yield word.arg.replace("_", " ")
    for value in [*node.args, *(word.value for word in node.keywords)]:
        if isinstance(value, ast.List | ast.Tuple):
            yield from _strings(value.elts)


def _strings(nodes: Iterable[ast.expr]) -> Iterator[str]:
    """Constant texts, and f-strings with their places named."""
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=values):
                yield "".join(_piece(value, index) for index, value in enumerate(values))


def _piece(value: ast.expr, index: int) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    assert isinstance(value, ast.FormattedValue)
    return "{" + (value.value.id if isinstance(value.value, ast.Name) else f"place{index}") + "}"
