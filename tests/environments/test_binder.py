"""What Binder builds from this repository, and what the notebooks need of the 2 GB and the core that it gives."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import build_notebooks

ROOT = Path(__file__).resolve().parents[2]
REPO2DOCKER = "jupyter-repo2docker==2026.4.0"
LIGHT = ["00", "01"]


# ---------------------------------------------------------------- which files Binder reads


@pytest.fixture(scope="module")
def dockerfile():
    """What repo2docker would build."""
    uv = [
        sys.executable,
        "-m",
        "uv",
        "tool",
        "run",
        "--constraints",
        "constraints.txt",
        "--from",
        REPO2DOCKER,
    ]
    options = ["--no-build", "--debug", "--user-id=1000", "--user-name=jovyan", "."]
    command = [*uv, "jupyter-repo2docker", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Building conda environment for python=3.12\n" in result.stderr
    return result.stdout


def test_binder_reads_its_own_folder(dockerfile):
    copied = re.findall(r"^COPY --chown=1000:1000 src/(\S*) ", dockerfile, re.MULTILINE)
    assert copied == ["binder/environment.yml", ""]  # then the whole repository, to be run and not read
    assert '--file "binder/environment.yml"' in dockerfile
    assert "\nRUN ./binder/postBuild\n" in dockerfile
    assert '\nENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"\n' in dockerfile


def test_binder_installs_nothing_from_the_files_for_other_machines(dockerfile):
    assert not re.search(r"pyproject|constraints|requirements-|\bpip3? install", dockerfile)


# ---------------------------------------------------------------- one core and 2 GB


def binder_limit(*arguments, call="sys.exit(binder_limit.main(sys.argv[1:]))"):
    """Run the tool in a process of its own, which may bind itself to one core."""
    code = f"import pathlib, sys; from tools import binder_limit; {call}"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def course(tmp_path):
    """A course of one notebook, which needs 300 MB and as much again in a process that it starts."""
    (tmp_path / "notebooks" / "src").mkdir(parents=True)
    (tmp_path / "notebooks" / "src" / "42_needs.py").touch()
    needs = "x = bytearray(300_000_000)\nx[::4096] = b'1' * len(x[::4096])"
    wait = "import time; time.sleep(1)"
    cells = [
        new_code_cell("import os, subprocess, sys\nassert len(os.sched_getaffinity(0)) == 1"),
        new_code_cell("assert os.environ['OMP_NUM_THREADS'] == '1'"),
        new_code_cell(f"{needs}\nsubprocess.run([sys.executable, '-c', {f'{needs}; {wait}'!r}])"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "42_needs.ipynb")

    def run(*arguments):
        call = f"sys.exit(binder_limit.main(sys.argv[1:], root=pathlib.Path({str(tmp_path)!r})))"
        return binder_limit(*arguments, call=call)

    return run


def test_memory_counts_the_kernel_and_what_it_starts(course):
    result = course()
    assert result.returncode == 0, result.stderr
    peak, limit = map(int, re.search(r"peak (\d+) of (\d+) MB", result.stdout).groups())
    assert 600 < peak < 800
    assert limit == 1806


def test_a_notebook_above_the_limit_is_named(course):
    result = course("--limit-mb", "500")
    assert result.returncode == 1
    assert result.stderr.endswith("\nMore memory than Binder gives: 42_needs\n")


def test_a_notebook_that_is_not_built_is_named(course):
    result = course("77")
    assert result.returncode == 1
    assert "no source notebooks/src/77_*.py" in result.stderr


def test_light_notebooks_fit_binder():
    """The others take too long to run twice in CI: `make binder-limit` runs them all."""
    sources = build_notebooks.selected_sources(LIGHT, ROOT)
    assert len(sources) == len(LIGHT)
    result = binder_limit(*LIGHT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" of 1806 MB\n") == len(LIGHT)
