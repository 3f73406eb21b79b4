"""Find in a notebook the statements that define a function: itself, and what it needs.

A notebook is not run from top to bottom: only the last statement that binds the asked name, and the last ones that bind
the names which that one uses. So a cell that trains a model, plots or fails costs nothing.
"""

from __future__ import annotations

import ast
import json
import re
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a cell, the names that it binds, and the global names that it uses."""

    node: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]

    @property
    def is_stub(self) -> bool:
        """Whether it is a function whose body only raises NotImplementedError."""
        body = self.node.body if isinstance(self.node, ast.FunctionDef) else []
        body = [
            step for step in body if not (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
        ]
        return (
            len(body) == 1
            and isinstance(body[0], ast.Raise)
            and "NotImplementedError" in ast.unparse(body[0])
        )


def code_cells(notebook: bytes) -> list[str]:
    """The sources of a notebook's code cells, in order; ids, outputs and all else are ignored.

    Raises
    ------
    ValueError
        It is no notebook of format 3 or 4.
    """
    try:
        content = json.loads(notebook.decode("utf-8-sig"))
        cells = content["cells"] if "cells" in content else content["worksheets"][0]["cells"]
        sources = [cell.get("source", cell.get("input", "")) for cell in cells if cell["cell_type"] == "code"]
        return [source if isinstance(source, str) else "".join(source) for source in sources]
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no notebook ({type(error).__name__})") from error


def parse(source: str) -> ast.Module:
    """A cell's Python, without IPython's lines and cells that are none.

    Raises
    ------
    SyntaxError, ValueError, RecursionError, MemoryError
        It is not Python.
    """
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(_without_magic(source))


def _without_magic(source: str) -> str:
    lines = source.lstrip("\n").split("\n")
    if lines[0].startswith("%%"):
        if not re.match(r"%%(time|timeit|capture|prun)\b", lines[0]):
            return ""
        lines[0] = ""
    not_python = r"^(\s*)(?:[%!?].*|[\w.]+\?{1,2}\s*|[\w, ]+=\s*[%!].*)$"
    return "\n".join(re.sub(not_python, r"\1pass", line) for line in lines)


def statements(sources: Iterable[str]) -> list[Statement]:
    """All statements at the top of the cells that are Python, in order."""
    found = []
    for source in sources:
        try:
            found += [_statement(node) for node in parse(source).body]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return found


def _statement(node: ast.stmt) -> Statement:
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    binds = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
    if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
        binds.add("*")
    uses = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    uses |= {name for inner in table.get_children() for name in _globals(inner)}
    changed = _changed(node)
    return Statement(node, frozenset(binds | changed), frozenset(uses | changed))


def _changed(node: ast.stmt) -> set[str]:
    """The names whose value a statement changes without a new binding: ``K += 1``, ``CODE[0] = 1``."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return set()
    inner = list(ast.walk(node))
    targets: list[ast.expr] = [step.target for step in inner if isinstance(step, ast.AugAssign)]
    targets += [step for step in inner if isinstance(step, ast.Subscript) and isinstance(step.ctx, ast.Store)]
    found = set()
    for target in targets:
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name):
            found.add(target.id)
    return found


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    """The names that a scope, or one inside it, looks up at the top."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and symbol.is_global():
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _globals(inner)


def definition(
    name: str, of_student: list[Statement], official: list[Statement], stub: str = ""
) -> list[Statement]:
    """What to run so that `name` is defined, in order; empty if nothing binds it.

    Parameters
    ----------
    name : str
        The function that is asked for. Its last definition counts; a stub only where there is nothing else.
    of_student : list of Statement
        The student's.
    official : list of Statement
        The import lines of the course's notebook, for what the student's copy no longer imports.
    stub : str
        The function as the course's notebook has it, written by `ast.unparse`. It may be a planted fault: left
        untouched it is a stub too.
    """
    chosen = _last_binding(name, of_student, stub)
    if chosen is None:
        return []
    taken, wanted = {id(chosen)}, [chosen]
    while wanted:
        statement = wanted.pop()
        for needed in _needs(statement, of_student, official):
            if id(needed) not in taken:
                taken.add(id(needed))
                wanted.append(needed)
    return [s for s in (*official, *of_student) if id(s) in taken or (s in of_student and "*" in s.binds)]


def _needs(
    statement: Statement, of_student: list[Statement], official: list[Statement]
) -> Iterator[Statement]:
    """The statements that bind what one uses: the last one above it, as when its cell is run; else the first below."""
    place = next((i for i, other in enumerate(of_student) if other is statement), 0)
    calls_itself = isinstance(statement.node, ast.FunctionDef | ast.ClassDef)
    for name in statement.uses - (statement.binds if calls_itself else frozenset()):
        above, below = [*official, *of_student[:place]], of_student[place + 1 :]
        if found := _last_binding(name, above) or _last_binding(name, below[::-1]):
            yield found


def _last_binding(name: str, among: list[Statement], stub: str = "") -> Statement | None:
    """The last statement that binds the name; a stub only where there is nothing else."""
    found = [statement for statement in among if name in statement.binds]
    own = (s for s in reversed(found) if not s.is_stub and ast.unparse(s.node) != stub)
    return next(own, found[-1] if found else None)


def fault(name: str, sources: Iterable[str]) -> str | None:
    """Why the cell that defines `name` is not Python, if that is so."""
    for source in reversed(list(sources)):
        if not re.search(rf"\bdef\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", source, re.MULTILINE):
            continue
        try:
            parse(source)
        except SyntaxError as error:
            return f"its cell is not Python: {error.msg}, line {error.lineno}"
        except (ValueError, RecursionError, MemoryError) as error:
            return f"its cell is not Python: {type(error).__name__}"
    return None
