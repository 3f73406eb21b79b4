"""The repository around the package: set-up and its errors, the commands, and what must agree with what."""

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from jupyterlab_server import settings_utils
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import run_course, set_repo, setup_env, working_copies

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SLUG = set_repo.present_slug(ROOT)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def write_notebook(path, *sources):
    title = new_markdown_cell(f"# {path.stem}", id="title")  # Sphinx lists no page without one
    cells = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    nbformat.write(new_notebook(cells=[title, *cells]), path)
    return path


# --- set-up --------------------------------------------------------------------------------------------


@pytest.fixture
def set_up(tmp_path):
    """Run the set-up script in a bare copy of the repository, with changes to its environment."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def run(*command, **environment):
        return subprocess.run(
            [sys.executable, *(command or ("tools/setup_env.py", "course"))],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    return run


def test_an_old_python_can_read_the_set_up_script():
    ast.parse(read("tools/setup_env.py"), feature_version=(3, 6))


def test_set_up_names_the_python_that_is_too_old(set_up):
    old = (
        "import runpy, sys\n"
        "sys.version_info = (3, 9, 18)\n"
        "runpy.run_path('tools/setup_env.py', run_name='__main__')"
    )
    result = set_up("-c", old)
    assert result.returncode == 1
    assert "Python 3.11 or newer is needed. This is Python 3.9" in result.stderr
    assert "make PYTHON=" in result.stderr


def test_set_up_without_the_venv_module(set_up, tmp_path):
    (tmp_path / "ensurepip.py").write_text("raise ImportError('No module named ensurepip')")
    result = set_up(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "cannot make virtual environments" in result.stderr
    assert "sudo apt install python3-venv" in result.stderr


def test_set_up_without_a_network(set_up, tmp_path):
    result = set_up(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "empty"), UV_OFFLINE="1")
    assert result.returncode == 1
    assert "the network is down or the package index cannot be reached" in result.stderr
    assert json.loads((tmp_path / ".venv" / "lora_edu.json").read_text())["ready"] == {}


def test_set_up_on_a_full_disk():
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    with pytest.raises(
        SystemExit, match=f"disk is too full: {free_gb + 100:.1f} GB are needed in .* GB are free"
    ):
        setup_env.check_disk(needed_gb=round(free_gb + 100, 1))


def test_set_up_is_done_once(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, "STAMP", tmp_path / "lora_edu.json")
    monkeypatch.setattr(setup_env, "check_disk", lambda: pytest.fail("set-up began"))
    setup_env.write_stamp(dict.fromkeys(setup_env.INCLUDED["test"], setup_env.wanted_packages()))
    setup_env.install("test")
    setup_env.install("course")
    setup_env.write_stamp({"course": "another set of packages"})
    with pytest.raises(pytest.fail.Exception, match="set-up began"):
        setup_env.install("course")


@pytest.mark.parametrize("half", ["", '{"made_for": ["3.1'])
def test_set_up_starts_over_when_its_record_is_cut_off(tmp_path, monkeypatch, half):
    monkeypatch.setattr(setup_env, "STAMP", tmp_path / "lora_edu.json")
    monkeypatch.setattr(setup_env, "check_disk", lambda: pytest.fail("set-up began"))
    setup_env.STAMP.write_text(half)
    with pytest.raises(pytest.fail.Exception, match="set-up began"):
        setup_env.install("course")


def test_the_record_of_a_set_up_is_replaced_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, "STAMP", tmp_path / "lora_edu.json")
    setup_env.write_stamp({})
    was = tmp_path / "was.json"
    was.hardlink_to(setup_env.STAMP)  # a write in place would show here
    setup_env.write_stamp({"course": "packages"})
    assert json.loads(was.read_text())["ready"] == {}
    assert setup_env.read_stamp()["ready"] == {"course": "packages"}
    assert sorted(tmp_path.iterdir()) == [setup_env.STAMP, was]


def test_an_environment_of_another_python_is_made_anew(tmp_path, monkeypatch):
    venv = tmp_path / ".venv"
    monkeypatch.setattr(setup_env, "VENV", venv)
    monkeypatch.setattr(setup_env, "STAMP", venv / "lora_edu.json")
    installed = venv / "installed"
    venv.mkdir()
    installed.touch()
    setup_env.make_venv({})  # a first run that was stopped, or the learner's own environment
    setup_env.make_venv(setup_env.read_stamp())
    assert installed.exists()
    python, *place = setup_env.made_for()
    setup_env.make_venv({"made_for": [f"{python}.old", *place]})
    assert not installed.exists()
    assert (venv / "bin" / "pip").exists()


# --- make course ---------------------------------------------------------------------------------------


RECORD = {
    "exact_match_before": 0.02,
    "exact_match_before_few_shot": 0.5,
    "exact_match": 0.875,
    "exact_match_unseen": None,
    "n": {"before": 50, "seen": 200, "unseen": 0},
    "losses": [3.5, 0.25],
    "seconds": {"train": 100.0, "answers": 30.0, "answers_unseen": 0.0},
    "peak_memory_bytes": 2**30,
    "peak_gpu_memory_bytes": None,
}
FINE_TUNE = f"""
import json, os, pathlib
run = pathlib.Path(os.environ["LORA_EDU_RUNS"], "qlora")
run.mkdir(parents=True)
(run / "run.json").write_text(json.dumps({RECORD!r}))
"""


def test_course_writes_a_book_of_what_it_executed_and_prints_before_and_after(tmp_path, capsys):
    first = write_notebook(tmp_path / "00_first.ipynb", "print('seen on ' + 'the page')")
    second = write_notebook(tmp_path / "01_second.ipynb", "6 * 7", FINE_TUNE)
    output = tmp_path / "course"
    before = dict(os.environ)
    run_course.run_course([first, second], output)
    assert dict(os.environ) == before  # the kernels' settings are not ours

    assert "seen on the page" in (output / "00_first.html").read_text()
    links = set(re.findall('href="([^"#]*)"', (output / "course.html").read_text()))
    assert {"index.html", "00_first.html", "01_second.html", "glossary.html", "notation.html"} <= links
    assert (output / "index.html").exists() and (output / "glossary.html").exists()
    printed = capsys.readouterr().out
    assert "01_second.ipynb, code cell 2 of 2" in printed
    assert re.search(r"base model +2% +of 50", printed)
    assert re.search(r"fine-tuned, seen patterns +88% +of 200", printed)
    assert nbformat.read(first, as_version=4).cells[1].outputs == []  # the notebook itself stays as it was


@pytest.mark.parametrize(
    ("failing_cell", "reason"),
    [("1 / 0", "ZeroDivisionError"), ("import os\nos._exit(1)", "Kernel died")],
)
def test_course_names_the_failing_notebook_and_cell(tmp_path, failing_cell, reason):
    good = write_notebook(tmp_path / "00_good.ipynb", "1 + 1")
    bad = write_notebook(tmp_path / "01_bad.ipynb", "1 + 1", failing_cell)
    output = tmp_path / "course"
    with pytest.raises(run_course.NotebookFailed, match=r"01_bad.ipynb, code cell 2 of 2 failed") as failure:
        run_course.run_course([good, bad], output)
    assert reason in str(failure.value)
    assert list(output.glob("*.html")) == []


# --- make lab ------------------------------------------------------------------------------------------


def test_working_copies_never_overwrite_a_learner(tmp_path, capsys):
    notebooks, work = tmp_path / "notebooks", tmp_path / "work"
    notebooks.mkdir()
    source, mine = notebooks / "01_rank.ipynb", work / "01_rank.ipynb"

    def copied():
        return [path.name for path in working_copies.copy_notebooks(notebooks, work)]

    source.write_text("first edition")
    assert copied() == ["01_rank.ipynb"]
    assert copied() == []

    source.write_text("second edition")  # the learner has changed nothing: the copy follows
    assert copied() == ["01_rank.ipynb"]
    assert mine.read_text() == "second edition"

    mine.write_text("my answers")
    assert copied() == []
    source.write_text("third edition")
    assert copied() == ["01_rank.new1.ipynb"]
    assert copied() == []
    assert "01_rank.ipynb has your changes" in capsys.readouterr().out

    (work / "01_rank.new1.ipynb").write_text("my other answers")
    source.write_text("fourth edition")
    assert copied() == ["01_rank.new2.ipynb"]
    assert mine.read_text() == "my answers"
    assert (work / "01_rank.new1.ipynb").read_text() == "my other answers"

    mine.unlink()  # how a learner starts over
    assert copied() == ["01_rank.ipynb"]
    assert mine.read_text() == "fourth edition"


@pytest.mark.parametrize("half", ["", '{\n "01_rank.ipynb": [\n  "5e'])
def test_working_copies_do_without_a_record_that_is_cut_off(tmp_path, half):
    notebooks, work = tmp_path / "notebooks", tmp_path / "work"
    notebooks.mkdir()
    source, mine = notebooks / "01_rank.ipynb", work / "01_rank.ipynb"
    source.write_text("first edition")
    working_copies.copy_notebooks(notebooks, work)
    mine.write_text("my answers")
    (work / working_copies.RECORD).write_text(half)

    assert working_copies.copy_notebooks(notebooks, work) == [work / "01_rank.new1.ipynb"]
    assert mine.read_text() == "my answers"
    assert working_copies.copy_notebooks(notebooks, work) == []


def test_the_record_of_the_copies_is_replaced_in_one_step(tmp_path):
    notebooks, work = tmp_path / "notebooks", tmp_path / "work"
    notebooks.mkdir()
    (notebooks / "01_rank.ipynb").write_text("first edition")
    working_copies.copy_notebooks(notebooks, work)
    was = tmp_path / "was.json"
    was.hardlink_to(work / working_copies.RECORD)  # a write in place would show here
    (notebooks / "02_svd.ipynb").write_text("first edition")
    working_copies.copy_notebooks(notebooks, work)
    assert list(json.loads(was.read_text())) == ["01_rank.ipynb"]
    names = {working_copies.RECORD, "01_rank.ipynb", "02_svd.ipynb"}
    assert {file.name for file in work.iterdir()} == names
    assert list(json.loads((work / working_copies.RECORD).read_text())) == ["01_rank.ipynb", "02_svd.ipynb"]


def test_make_lab_asks_nothing_and_opens_the_sheets_as_pages(monkeypatch, tmp_path):
    recipe = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f'JUPYTER_CONFIG_PATH="{ROOT}/configs/jupyter' in recipe
    assert f'--ServerApp.root_dir="{ROOT}" --LabApp.default_url=/lab/tree/work' in recipe
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(ROOT / "configs" / "jupyter"))
    overrides, error = settings_utils._get_overrides(str(tmp_path))
    assert error == ""
    schemas = Path(sys.prefix) / "share" / "jupyter" / "lab" / "schemas"
    for plugin, values in overrides.items():  # what JupyterLab does not know it would pass over
        schema = json.loads((schemas / f"{plugin.replace(':', '/')}.json").read_text(encoding="utf-8"))
        assert set(values) <= set(schema["properties"])
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


# --- CI=true -------------------------------------------------------------------------------------------

SKIPS = {
    "a plain skip": "def test_it():\n    pytest.skip('no browser')\n",
    "a skip mark": "@pytest.mark.skip(reason='later')\ndef test_it(): pass\n",
    "a missing module": "pytest.importorskip('no_such_module')\ndef test_it(): pass\n",
}
ALLOWED = {
    "a gpu test": "@pytest.mark.gpu\ndef test_it():\n    pytest.skip('no CUDA device')\n",
    "an expected failure": "@pytest.mark.xfail(reason='known', strict=True)\ndef test_it(): assert 0\n",
}


def pytest_status(folder, body, ci, *options):
    """Exit status of a pytest run over one file, with the guard that `make test` loads."""
    file = folder / "test_it.py"
    file.write_text(f"import pytest\n{body}")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.ci_guard", "--rootdir", folder, *options, file],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
    ).returncode


@pytest.mark.parametrize("body", SKIPS.values(), ids=SKIPS)
def test_ci_refuses_a_skip(tmp_path, body):
    assert pytest_status(tmp_path, body, "true") != 0
    assert pytest_status(tmp_path, body, "") in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def test_ci_refuses_a_skip_in_a_worker_process(tmp_path):
    assert (
        pytest_status(tmp_path, SKIPS["a plain skip"], "true", "-p", "xdist", "-n", "1")
        == pytest.ExitCode.TESTS_FAILED
    )


@pytest.mark.parametrize("body", ALLOWED.values(), ids=ALLOWED)
def test_ci_lets_pass(tmp_path, body):
    assert pytest_status(tmp_path, body, "true") == pytest.ExitCode.OK


# --- what must agree with what -------------------------------------------------------------------------


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    """Package -> version, from constraints.txt (the last line of each package)."""
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    return dict(re.match(r"([\w.-]+)==(\S+)", line).groups() for line in lines)


def test_every_requirement_is_pinned():
    project = PYPROJECT["project"]
    # `fused` is for machines with a GPU, whose PyTorch and Triton are their own; CI installs none of it.
    extras = (needs for extra, needs in project["optional-dependencies"].items() if extra != "fused")
    requirements = itertools.chain(project["dependencies"], *extras)
    names = {normalized(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}
    assert names - {"lora-edu"} <= set(pins())


@pytest.mark.parametrize("folder", ["web", "web/chat", "web/hub", "web/llama"])
def test_javascript_is_pinned_exactly_and_from_no_named_host(folder):
    lock = json.loads(read(f"{folder}/package-lock.json"))["packages"]
    asked = json.loads(read(f"{folder}/package.json"))["dependencies"]
    installed = {name.rpartition("node_modules/")[2]: package for name, package in lock.items() if name}
    assert asked == {name: installed[name]["version"] for name in asked}
    # web/llama/empty, ours, stands for what is not fetched.
    fetched = [package for package in installed.values() if package.get("version", "0.0.0") != "0.0.0"]
    assert all("resolved" not in package and package["integrity"] for package in fetched)
    assert "omit-lockfile-registry-resolved=true" in read(f"{folder}/.npmrc").splitlines()


def test_constraints_hold_for_every_platform():
    text = read("constraints.txt")
    assert "make constraints" in text.split("\n", 2)[1]
    assert not re.search(r"://|--|\+cpu|\+cu|^nvidia", text, re.MULTILINE)


def test_the_pythons_agree():
    minimum = ".".join(map(str, setup_env.MINIMUM_PYTHON))
    assert PYPROJECT["project"]["requires-python"] == f">={minimum}"
    assert f'"{minimum}"' in read(".github/workflows/test.yml")
    for name in ("environment.yml", "binder/environment.yml"):
        # One exact minor version: Binder reads a range as something else.
        assert re.search(r"^  - python=3\.12$", read(name), re.MULTILINE)


def test_binder_installs_with_the_same_uv():
    assert f"uv=={setup_env.UV_VERSION}\n" in read("binder/postBuild")


def test_binder_starts_with_the_model_that_it_was_built_with():
    show = ["binder/start", sys.executable, "-c", "import os; print(os.environ['LORA_EDU_CACHE'])"]
    environment = {**os.environ, "NB_PYTHON_PREFIX": "/srv/env"}
    started = subprocess.run(show, cwd=ROOT, env=environment, capture_output=True, text=True).stdout.strip()
    built = re.search(r'^LORA_EDU_CACHE="(.*?)"', read("binder/postBuild"), re.MULTILINE).group(1)
    assert started == built.replace("$NB_PYTHON_PREFIX", "/srv/env")


@pytest.mark.parametrize("name", [".ci/run", "binder/postBuild", "binder/start"])
def test_scripts_are_executable(name):
    assert os.access(ROOT / name, os.X_OK)


def test_citation_and_readme_name_this_repository_and_version():
    assert f"version: {PYPROJECT['project']['version']}\n" in read("CITATION.cff")
    assert f"https://github.com/{SLUG}\n" in read("CITATION.cff")
    badges = re.findall(
        r"(?:colab\.research\.google\.com/github|mybinder\.org/v2/gh)/([^/]+/[^/]+)/", read("README.md")
    )
    assert badges and set(badges) == {SLUG}


def test_help_and_readme_list_the_commands():
    listed = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    offered = {line.split()[0] for line in listed.splitlines()}
    assert {
        "course",
        "test",
        "lab",
        "check",
        "test-gpu",
        "notebooks",
        "constraints",
        "repo",
        "clean",
    } <= offered
    named = set(re.findall(r"\bmake ([a-z-]+)", read("README.md") + read("CONTRIBUTING.md")))
    assert {"course", "test", "lab"} <= named <= offered


def test_relative_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", read("README.md") + read("CONTRIBUTING.md"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
