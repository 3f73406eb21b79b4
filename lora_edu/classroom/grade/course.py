"""What the course asks for: the exercises of each notebook, the functions that are checked, the notebook's imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import lora_edu
from lora_edu.classroom.checks import Exercise, load_exercises
from lora_edu.classroom.grade.cells import code_cells, parse

ROOT = Path(lora_edu.__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Task:
    """One exercise as the notebook sets it.

    Parameters
    ----------
    exercise : str
        Its id, such as ``"04.1"``.
    notebook : str
        The number in the notebook's file name, such as ``"04"`` or ``"05b"``.
    name : str
        What the notebook calls the function that it hands to `check`.
    imports : tuple of str
        The notebook's import lines.
    stub : str
        The function as it stands there: empty, or with a planted fault.
    """

    exercise: str
    notebook: str
    name: str
    imports: tuple[str, ...]
    stub: str = ""

    @property
    def checked(self) -> Exercise:
        """The exercise itself: cases, solution, known wrong answers, laws."""
        return _exercises(self.notebook)[self.exercise]


@cache
def _exercises(notebook: str) -> dict[str, Exercise]:
    return load_exercises(notebook)


def read_course(folder: Path = NOTEBOOKS) -> list[Task]:
    """The tasks of all notebooks in `folder`, in order.

    Raises
    ------
    ValueError
        There are none: the package is installed without the course's notebooks.
    """
    tasks = [task for path in sorted(folder.glob("[0-9]*.ipynb")) for task in _tasks(path)]
    if not tasks:
        raise ValueError(f"the course's notebooks are needed to grade, and {folder} has none with a check")
    return tasks


def _tasks(path: Path) -> Iterator[Task]:
    nodes = [node for source in code_cells(path.read_bytes()) for node in parse(source).body]
    imports = tuple(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    functions = {node.name: ast.unparse(node) for node in nodes if isinstance(node, ast.FunctionDef)}
    asked: dict[str, str] = {}
    for node in nodes:  # of two checks of one exercise the last counts: the first one shows what a check says
        match node:
            case ast.Expr(
                ast.Call(func=ast.Name("check"), args=[ast.Constant(value=str(exercise)), ast.Name(name)])
            ):
                asked[exercise] = name
    notebook = path.name.split("_")[0]
    for exercise, name in asked.items():
        if exercise in _exercises(notebook):
            yield Task(exercise, notebook, name, imports, functions.get(name, ""))
