"""The kit for machines without a network: a small one is made by the same code, checked, and set up offline."""

import ast
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.kit import __main__ as kit
from tools.kit import wheels
from tools.kit.files import check, start
from tools.publish import NEEDED

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "{}.{}".format(*sys.version_info[:2])
HERE = start.MACHINES.get((sys.platform, platform.machine()))
OTHERS = [name for name in wheels.PLATFORMS if name != HERE]

pytestmark = pytest.mark.skipif(HERE is None, reason="no kit is made for this machine")

# A course in miniature: it depends on little, and its base model is a small wheel.
MODEL = "iniconfig==2.3.1"
PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "lora_edu"
version = "0.1.0"
dependencies = ["psutil"]
[project.optional-dependencies]
course = ["colorama; sys_platform == 'win32'", "ptyprocess; sys_platform != 'win32'"]
[tool.setuptools.packages.find]
include = ["lora_edu*"]
"""
FETCH = f"""
import subprocess, sys, psutil
sys.exit(subprocess.call([sys.executable, "-m", "pip", "download", "--quiet", "--dest", "model", "{MODEL}"]))
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A checkout of the miniature, with a book and slides."""
    root = tmp_path_factory.mktemp("checkout")
    sources = {
        "pyproject.toml": PYPROJECT,
        "constraints.txt": (ROOT / "constraints.txt").read_text(encoding="utf-8"),
        "lora_edu/llm/base_model.py": FETCH,
        "notebooks/00_start.ipynb": "first edition",
        ".gitignore": "/build/\n",
        **dict.fromkeys([f"build/{file}" for file in NEEDED], "a page"),
    }
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    git(root, "init", "--quiet")
    commit(root)
    return root


def git(root, *arguments):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments], cwd=root, check=True)


def commit(root):
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "An edition")


def write(folder, course, platforms=(HERE,)):
    return kit.write_kit(folder, list(platforms), PYTHON, root=course, model=MODEL)


@pytest.fixture(scope="module")
def made(course, tmp_path_factory):
    """A kit of the miniature for this platform; its name has a space."""
    folder = tmp_path_factory.mktemp("stick") / "a kit"
    write(folder, course)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy of a kit")


def run(*command, **environment):
    """Run a command where no network is: in a namespace of its own, as far as this machine lets us make one."""
    alone = ["unshare", "--map-root-user", "--net"]
    possible = shutil.which("unshare") and not subprocess.call([*alone, "true"], stderr=subprocess.DEVNULL)
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    return subprocess.run(
        [*(alone if possible else []), *map(str, command)],
        env={**os.environ, **nowhere, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
    )


# --- what is in it -------------------------------------------------------------------------------------


def packages(folder):
    return {wheel.name.split("-")[0] for wheel in (folder / "wheels").glob("*.whl")}


def test_a_kit_holds_what_its_machine_needs(made):
    of_here = {"win32": "colorama"}.get(sys.platform, "ptyprocess")
    assert packages(made) == {"psutil", "setuptools", "iniconfig", of_here}
    assert (made / "course" / "notebooks" / "00_start.ipynb").read_text() == "first edition"
    assert all((made / file).is_file() for file in NEEDED)
    assert [path for path in made.parent.iterdir() if path != made] == []


def test_a_kit_for_all_machines_holds_the_wheels_of_each(course, tmp_path):
    write(tmp_path / "kit", course, wheels.PLATFORMS)
    assert packages(tmp_path / "kit") == {"psutil", "setuptools", "iniconfig", "ptyprocess", "colorama"}
    names = " ".join(wheels.names_of(tmp_path / "kit" / "wheels"))
    assert all(tag in names for tag in ("manylinux", "macosx", "win_amd64"))
    assert json.loads((tmp_path / "kit" / "kit.json").read_text())["platforms"] == list(wheels.PLATFORMS)


@pytest.mark.parametrize("platform", wheels.PLATFORMS)
def test_the_course_itself_resolves_for_each_platform(platform):
    names = {line.partition("==")[0] for line in wheels.resolve(ROOT, "course", platform, PYTHON)}
    assert {"torch", "transformers", "jupyterlab", "bitsandbytes", "setuptools"} <= names
    assert ("pywinpty" in names, "appnope" in names) == (platform == "windows", platform == "macos")
    assert not any(name.startswith(("nvidia", "cuda")) for name in names)


def test_pytorch_with_cuda_is_refused(tmp_path):
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    (tmp_path / "torch-2.13.0-cp311-none-macosx_14_0_arm64.whl").touch()
    wheels.require_cpu_build(tmp_path)
    (tmp_path / "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    with pytest.raises(wheels.KitFailed, match="CPU build of PyTorch was not found"):
        wheels.require_cpu_build(tmp_path)


# --- whole or not at all -------------------------------------------------------------------------------


def test_a_kit_that_fails_leaves_the_older_one(course, copy, tmp_path, capfd):
    before = check.digest(copy / check.SUMS)
    with pytest.raises(wheels.KitFailed, match="pip could not fetch the wheels"):
        kit.write_kit(copy, [HERE], PYTHON, root=course, model="iniconfig==0.0.0")
    assert "No matching distribution" in capfd.readouterr().err
    with pytest.raises(wheels.KitFailed, match="uv found no packages"):
        kit.write_kit(copy, [HERE], "3.99", root=course, extra="no-such-extra", model=MODEL)
    assert check.digest(copy / check.SUMS) == before and check.faults(copy) == []
    assert list(tmp_path.iterdir()) == [copy]


def test_a_kit_replaces_an_older_one_and_no_other_folder(course, copy, tmp_path):
    (copy / "old").touch()
    write(copy, course)
    assert check.faults(copy) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match=r"kit\.json"):
        write(tmp_path / "mine", course)


def test_a_kit_is_of_a_commit_and_of_a_book(course, tmp_path):
    other = shutil.copytree(course, tmp_path / "other")
    (other / NEEDED[0]).unlink(missing_ok=True)
    (other / "build" / NEEDED[0]).unlink()
    with pytest.raises(wheels.KitFailed, match="make book"):
        write(tmp_path / "kit", other)
    (other / "notebooks" / "00_start.ipynb").write_text("not committed")
    with pytest.raises(wheels.KitFailed, match="not committed"):
        write(tmp_path / "kit", other)
    with pytest.raises(wheels.KitFailed, match="git checkout"):
        write(tmp_path / "kit", tmp_path)
    assert not (tmp_path / "kit").exists()


def test_a_kit_that_is_too_large_is_refused(course, tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "LIMIT", 1000)
    with pytest.raises(wheels.KitFailed, match="a platform"):
        write(tmp_path / "kit", course)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_the_kit_and_the_same_each_time(made, tmp_path):
    archives = [tmp_path / "1.zip", tmp_path / "2.zip"]
    for archive in archives:
        kit.write_archive(made, archive)
        for file in made.rglob("*"):
            os.utime(file)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(io.BytesIO(archives[0].read_bytes())) as zipped:
        zipped.extractall(tmp_path / "unpacked")
    assert check.faults(tmp_path / "unpacked" / made.name) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.zip", "2.zip", "unpacked"]


# --- check.py ------------------------------------------------------------------------------------------


def test_check_finds_what_is_missing_changed_or_added(copy):
    def checked():
        return run(sys.executable, "-I", copy / "check.py")

    assert checked().returncode == 0
    assert check.digest(copy / check.SUMS) in checked().stdout
    (copy / ".DS_Store").touch()
    assert checked().returncode == 0

    (copy / "book" / "index.html").write_text("a pagE")
    (copy / "slides" / "index.html").unlink()
    (copy / "wheels" / "torch-9-py3-none-any.whl").touch()
    result = checked()
    assert result.returncode == 1
    assert result.stderr.splitlines()[:-1] == [
        "missing: slides/index.html",
        "not of this kit: wheels/torch-9-py3-none-any.whl",
        "changed: book/index.html",
    ]

    (copy / check.SUMS).unlink()
    assert "The kit cannot be read" in checked().stderr


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is of Linux")
def test_sha256sum_reads_the_list_too(made):
    assert subprocess.run(["sha256sum", "--check", "--quiet", check.SUMS], cwd=made).returncode == 0


# --- start.sh ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["check.py", "start.py"])
def test_an_old_python_can_read_the_scripts(file):
    ast.parse((kit.FILES / file).read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.slow
def test_the_kit_sets_the_course_up_without_a_network_and_once(made, tmp_path):
    folder = tmp_path / "of a learner"
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}

    def prepared(**environment):
        return run("sh", made / "start.sh", "--prepare", "--folder", folder, **environment)

    # The learner's own settings of pip are no help here, and no hindrance.
    result = prepared(PIP_FIND_LINKS="/nowhere", PIP_REQUIRE_HASHES="1")
    assert result.returncode == 0, result.stderr
    assert (folder / "model" / "iniconfig-2.3.1-py3-none-any.whl").is_file()
    where = "import lora_edu, psutil; print(list(lora_edu.__path__))"
    found = run(start.python_of(folder), "-I", "-c", where)
    assert str(folder / "lora_edu") in found.stdout
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before and check.faults(made) == []

    (folder / "work").mkdir()
    (folder / "work" / "mine.ipynb").write_text("my answers")
    assert prepared().stdout == ""  # nothing is left to do
    (folder / start.MARK).write_text("of an older kit")
    (folder / "notebooks" / "00_start.ipynb").write_text("older edition")
    assert "[1/3]" in prepared().stdout
    assert (folder / "notebooks" / "00_start.ipynb").read_text() == "first edition"
    assert (folder / "work" / "mine.ipynb").read_text() == "my answers"


@pytest.mark.slow
def test_a_set_up_that_fails_says_why_and_starts_over(copy, tmp_path):
    folder = tmp_path / "course"
    wheel = next((copy / "wheels").glob("psutil*"))
    away = wheel.rename(tmp_path / wheel.name)
    result = run("sh", copy / "start.sh", "--prepare", "--folder", folder)
    assert result.returncode == 1 and "The packages could not be installed" in result.stderr
    assert "the requirement psutil" in result.stderr
    away.rename(wheel)
    result = run("sh", copy / "start.sh", "--prepare", "--folder", folder)
    assert result.returncode == 0, result.stderr


def test_start_refuses_another_python_another_machine_and_a_folder_of_somebody(copy, tmp_path):
    def refused(*options):
        result = run("sh", copy / "start.sh", "--prepare", *options)
        assert result.returncode == 1
        return result.stderr

    (tmp_path / "thesis.txt").touch()
    assert "holds other files: name a new folder" in refused("--folder", tmp_path)
    (copy / "kit.json").write_text(json.dumps({"platforms": OTHERS}))
    assert f"This kit is for {', '.join(OTHERS)}; this machine is" in refused("--folder", tmp_path / "new")
    (copy / "python-version").write_text("3.2\n")
    assert f"This kit needs Python 3.2. This is Python {PYTHON}" in refused("--folder", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_kit_opens_jupyterlab_as_make_lab_does():
    recipe = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    source = (kit.FILES / "start.py").read_text(encoding="utf-8")
    for option in ("--ServerApp.root_dir=", "--LabApp.default_url=/lab/tree/work", "tools/working_copies.py"):
        assert option in recipe and option in source
