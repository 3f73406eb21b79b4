"""The exercises as they stand in the notebooks: stub, solution, and what the stored checks say.

That each check knows its solution and its wrong answers is tested in tests/classroom/test_checks.py.
"""

import ast
from pathlib import Path

import nbformat
import pytest

from lora_edu.classroom.checks import NOT_ATTEMPTED, PASS, check
from tools import build_notebooks
from tools.build_notebooks import tags_of

ROOT = Path(__file__).resolve().parents[2]


def exercises(source):
    """The id, stub and solution of each exercise of a source, and the code above it."""
    code = [cell for cell in build_notebooks.read_source(source) if cell.cell_type == "code"]
    for index, cell in enumerate(code):
        if "exercise" in tags_of(cell):
            call = ast.parse(code[index + 2].source).body[0].value
            yield call.args[0].value, cell.source, code[index + 1].source, code[:index]


def imports_for(code, cells):
    """The import statements of `cells` that bind a name which `code` uses."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    statements = [statement for cell in cells for statement in ast.parse(cell.source).body]
    found = [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
    bound = [{(alias.asname or alias.name).split(".")[0] for alias in s.names} for s in found]
    return "\n".join(ast.unparse(s) for s, names in zip(found, bound, strict=True) if names & used)


def defined_by(code, cells):
    """The function that a cell defines, run after the imports above it and nothing else."""
    namespace = {}
    exec(f"{imports_for(code, cells)}\n{code}", namespace)
    return namespace[ast.parse(code).body[-1].name]


SOURCES = build_notebooks.selected_sources([], ROOT)
EXERCISES = [exercise for source in SOURCES for exercise in exercises(source)]


@pytest.mark.parametrize(("key", "stub", "solution", "above"), EXERCISES, ids=[key for key, *_ in EXERCISES])
def test_the_solution_passes_and_the_stub_is_not_attempted(key, stub, solution, above):
    assert check(key, defined_by(solution, above)) == PASS
    assert check(key, defined_by(stub, above)) == NOT_ATTEMPTED


def text_of(output):
    """What an output says: that of a card, or what was printed."""
    return output.text if output.output_type == "stream" else output.data["text/plain"]


@pytest.mark.parametrize(("folder", "status"), [("", NOT_ATTEMPTED), ("solutions", PASS)])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_stored_checks_say_so(source, folder, status):
    notebook = nbformat.read(ROOT / "notebooks" / folder / f"{source.stem}.ipynb", as_version=4)
    for key, stub, _, _ in exercises(source):
        call = f'check("{key}", {ast.parse(stub).body[-1].name})'
        [cell] = [cell for cell in notebook.cells if cell.source == call]
        assert text_of(cell.outputs[0]).startswith(f"{key} {status}. ")
