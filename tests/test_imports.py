"""What `methods` may import; which room may import which is held by the contracts of pyproject.toml."""

import ast
import sys
from pathlib import Path

import pytest

METHODS = Path(__file__).resolve().parents[1] / "lora_edu" / "methods"
ALLOWED = {"torch", "jaxtyping", "lora_edu", *sys.stdlib_module_names}


def packages(source):
    """The packages that a file imports, wherever in it the import stands; relative imports stay inside."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def test_an_import_is_found_wherever_it_stands():
    source = "import scipy.linalg as a, math\nfrom . import b\ndef f():\n    from sklearn.svm import SVC\n"
    assert list(packages(source)) == ["scipy", "math", "sklearn"]


@pytest.mark.parametrize("file", sorted(METHODS.rglob("*.py")), ids=lambda file: file.name)
def test_methods_imports_torch_jaxtyping_and_the_standard_library_alone(file):
    assert set(packages(file.read_text(encoding="utf-8"))) <= ALLOWED


@pytest.mark.parametrize("file", sorted(METHODS.parent.rglob("*.py")), ids=lambda file: file.name)
def test_a_file_can_be_read_at_one_sitting(file):
    most = 400 if file.parent.name == "exercises" else 350
    assert len(file.read_text(encoding="utf-8").splitlines()) <= most
