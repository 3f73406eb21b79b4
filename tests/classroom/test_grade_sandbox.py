"""A class of students, hostile ones among them, graded in real child processes: nobody stops it or forges a mark."""

import csv
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from lora_edu.classroom.candidates import Candidate, Handed
from lora_edu.classroom.grade import __main__ as command
from lora_edu.classroom.grade import guards
from lora_edu.classroom.grade.course import ROOT, Task, read_course
from lora_edu.classroom.grade.hand_in import HandIn
from lora_edu.classroom.grade.marks import Limits, Mark, grade
from lora_edu.classroom.grade.sandbox import Sandbox, find_sandbox
from lora_edu.classroom.progress import CHECKS
from tests.classroom.test_written_tests import DOUBLES

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in guards.MACHINES,
    reason="no filter of calls here: its hostile students would reach this process",
)

RIGHT = "return x @ W.T + lora_alpha / len(lora_A) * (x @ lora_A.T) @ lora_B.T"
# Each is the body of `lora_forward(x, W, lora_A, lora_B, lora_alpha)` and must not pass; the child lives on.
FORGED = {
    "patches": "import torch\ntorch.allclose = torch.isclose = torch.equal = lambda *a, **k: True\nreturn x",
    "equals": "class E:\n    def __eq__(self, o): return True\n    def __getattr__(self, n): return self\nreturn E()",
    "check": "import lora_edu.classroom.checks as c\nc.examine = lambda *a: ('pass', '')\nreturn x",
    "solution": "from lora_edu.classroom.exercises import n04\n"
    "return n04.lora_forward(x, W, lora_A, lora_B, lora_alpha)",
    "reads": f"exec(open({str(ROOT / 'lora_edu/classroom/exercises/n04.py')!r}).read(), globals())\n"
    "return EXERCISES['04.1'].solution(x, W, lora_A, lora_B, lora_alpha)",
    "frames": "import gc\nreturn next(o for o in gc.get_objects() if type(o).__name__ == 'Exercise').solution(x, W, "
    "lora_A, lora_B, lora_alpha)",
    "exits": "import atexit, sys\natexit.register(print, 'pass')\nsys.exit(0)",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', 1), 1)\nreturn x",
    "forks": "import os\nwhile True:\n    os.fork()",
    "kills": "import os\nos.kill(os.getppid(), 9)\nreturn x",
    "limits": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))\nreturn x",
    "signals": "import fcntl, os\nfor fd in range(3, 64):\n    try:\n        fcntl.fcntl(fd, 10, 9)\n"
    "        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getppid())\n"
    "        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)\n"
    "    except OSError: pass\nreturn x",
    "terminals": "import os\nfor n in os.listdir('/dev/pts'): open(f'/dev/pts/{n}', 'w').write('x')\nreturn x",
    "spies": "import os\nreturn open(f'/proc/{os.getppid()}/mem', 'rb')",
    "memory": "return [0] * 10**11",
    "shared": "import mmap\nm = mmap.mmap(-1, 1 << 40)\nreturn x",
    "prints": "print('x' * 10**7)\nreturn x",
    "large": "return x.expand(10**6, *x.shape)",
    "loop": "a = []\na.append(a)\nreturn a",
    "text": "return '\\ud800\\x1b[2J<script>'",
    "number": "return 1 << 10**6",
}
# A student's notebook 04, exercise by exercise; each but the first two loses the child. What is told of it.
CLASS_04 = {
    "04.1": ("def lora_forward(x, W, A, B, alpha):\n    return x @ W.T + alpha * x @ A.T @ B.T", "hint"),
    "04.2": ("def merge(:", "error"),
    "04.3": ("def lora_gradients(*a):\n    import os\n    os._exit(0)", "stopped"),
    "04.4": ("def first_step(*a):\n    import time\n    time.sleep(600)", "too slow"),
    "04.5": (
        "def forward_in_training(*a):\n    import os\n    for fd in range(3, 64):\n"
        "        try: os.write(fd, b'lora' + bytes([0, 0, 0, 2, 255, 0, 0, 0]) + b'{}')\n"
        "        except OSError: pass",
        "stopped",
    ),
}
# Each is the body of a student's `test(candidate)`: it must not pass, and must not stop the grader.
FORGED_TESTS = {
    "name": "return candidate.__name__ in ('doubled', 'in_float32')",
    "source": "import inspect\nreturn '_squared' not in inspect.getsource(candidate)",
    "identity": "seen.append(id(candidate))\nreturn seen.count(id(candidate)) > 1",
    "objects": "import gc\nreturn not any(getattr(o, '__name__', '') == '_squared' for o in gc.get_objects())",
    "streams": "import os\nfor fd in range(3, 64):\n"
    "    try: os.write(fd, b'lora' + bytes([0, 0, 0, 2, 0, 0, 0, 0]) + b'{}')\n    except OSError: pass\nreturn True",
    "asks": "return candidate.ask({'list': []}, b'') is not None",
    "pickles": "import os, pickle\nreturn bool(candidate(pickle.dumps(os.getcwd)))",
    "floods": "import torch\nwhile True:\n    try: candidate(torch.ones(256, 256))\n    except RuntimeError: pass",
    "outer": "import torch\nreturn bool(candidate(torch.ones(1 << 20)).sum())",
    "right": "import torch\nx = torch.randn(3, 2)\nreturn torch.allclose(candidate(x), 2 * x)",
}
WRITES = """
import os, pathlib, tempfile
def share_right(marks):
    for folder in ({folder!r}, "/tmp", "/dev/shm", "/var/tmp", os.path.expanduser("~"), "."):
        try:
            pathlib.Path(folder, "left_by_a_student").write_text("x")
        except OSError:
            pass
    return sum(marks) / len(marks)
"""


# Run with a file's path: prints which changes the filter lets through, and what is in the file then.
CHANGES = """
import os, sys
from lora_edu.classroom.grade import guards
path, other = sys.argv[1], sys.argv[1] + ".other"
why = guards.held(guards.filter_calls)
for name, *arguments in [
    ("open", path, 1), ("open", path, os.O_TRUNC), ("open", other, os.O_CREAT), ("unlink", path),
    ("rename", path, other), ("truncate", path, 0), ("chmod", path, 0), ("link", path, other), ("symlink", path, other),
    ("mkdir", other), ("mkfifo", other), ("utime", path, (0, 0)), ("rmdir", os.path.dirname(path)),
    ("fork",), ("execv", "/bin/true", ["true"]),
] if why is None else []:
    try:
        getattr(os, name)(*arguments)
        print(name)
    except PermissionError:
        pass
print(why or open(path).read())
"""


def notebook(*sources):
    """A notebook as Colab saves one: no cell ids, no checks."""
    found = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": source} for source in sources]
    return json.dumps({"nbformat": 4, "nbformat_minor": 0, "metadata": {}, "cells": found})


def indented(text):
    return "".join(f"    {line}\n" for line in text.split("\n"))


def body_of(text, name="lora_forward"):
    return f"def {name}(x, W, lora_A, lora_B, lora_alpha):\n{indented(text)}"


def hand_in(folder, student, **notebooks):
    (folder / student).mkdir(parents=True)
    for name, content in notebooks.items():
        (folder / student / f"{name.removeprefix('n')}_x.ipynb").write_text(content)


@pytest.fixture(scope="module")
def sandbox():
    return find_sandbox(ROOT / "notebooks", 1 << 30, 120, unsafe=True)[0]


@pytest.fixture
def graded(sandbox, monkeypatch):
    """Runs the command on a folder, without looking for the sandbox again; gives the rows of grades.csv."""
    monkeypatch.setattr(command, "find_sandbox", lambda *options: (sandbox, ""))

    def run(folder, *options):
        assert command.main([str(folder), *options]) == 0
        with (folder / "grades.csv").open(encoding="utf-8-sig") as file:
            return {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}

    return run


def test_a_class_is_graded_whatever_one_hands_in_and_nothing_is_left(tmp_path, graded, sandbox):
    folder = tmp_path / "class"
    shutil.copytree(ROOT / "notebooks" / "solutions", folder / "ada")
    ways = notebook(*(source for source, _ in CLASS_04.values()))
    hand_in(folder, "eve", n00=notebook(WRITES.format(folder=str(tmp_path))), n03="{broken", n04=ways)
    before = set(tmp_path.rglob("*"))
    rows = graded(folder, "--student-seconds", "600")
    of_ada = {exercise: row for (student, exercise), row in rows.items() if student == "ada"}
    assert len(of_ada) == sum(CHECKS.values()) and {row["status"] for row in of_ada.values()} == {"pass"}
    assert "by the word" in of_ada["09.2"]["rests on"] and of_ada["04.1"]["rests on"] == "results"
    told = {exercise: rows["eve", exercise]["status"] for exercise in ("00.1", "01.1", "03.1", *CLASS_04)}
    assert told == {"00.1": "pass", "01.1": "missing", "03.1": "unreadable"} | {
        exercise: status for exercise, (_, status) in CLASS_04.items()
    }
    assert rows["eve", "04.1"]["misconception"].startswith("Almost: your update BAx is r times too large.")
    assert "not Python" in rows["eve", "04.2"]["said"]
    assert (
        (folder / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbfstudent,")
    )  # a spreadsheet knows UTF-8 by it
    left = {path.name for path in set(tmp_path.rglob("*")) - before}
    assert left == {"grades.csv", "grades.html"} and not Path("/tmp/left_by_a_student").exists()


def test_nobody_forges_a_pass(sandbox):
    """Each way is a function of its own name in one notebook, so that one child answers for all."""
    task = next(task for task in read_course() if task.exercise == "04.1")
    ways = notebook(*(body_of(text, f"f_{name}") for name, text in FORGED.items()), body_of(RIGHT, "f_right"))
    tasks = [replace(task, name=f"f_{name}") for name in (*FORGED, "right")]
    marks = grade(HandIn("eve", {"04": ways.encode()}), tasks, sandbox, Limits(10, 240))
    status = {task.name: mark.status for task, mark in zip(tasks, marks, strict=True)}
    passed = {name.removeprefix("f_") for name, of_name in status.items() if of_name == "pass"}
    readable = (
        {"solution", "reads", "frames"} if sandbox.kind == "none" else set()
    )  # the solutions' files are open
    assert "right" in passed and passed <= {"right", *readable}, status


@dataclass(frozen=True)
class OfATest(Task):
    checked = DOUBLES


def test_nobody_forges_a_test(sandbox):
    """Candidates stay in the parent: all that a student's test can do is call them and judge what comes back."""
    ways = (
        "seen = []",
        *(f"def {name}(candidate):\n{indented(text)}" for name, text in FORGED_TESTS.items()),
    )
    tasks = [OfATest("98.1", "98", name, ()) for name in FORGED_TESTS]
    marks = grade(HandIn("eve", {"98": notebook(*ways).encode()}), tasks, sandbox, Limits(10, 240))
    status = {task.name: mark.status for task, mark in zip(tasks, marks, strict=True)}
    assert status["right"] == "pass" and list(status.values()).count("pass") == 1, status
    assert status["floods"] == "too slow" and status["streams"] == status["asks"] == "stopped"
    assert marks[-1].said == "Right. Your test catches 3 of 3 wrong functions."


def test_a_candidate_gets_so_much_memory_and_the_grader_goes_on():
    handed = Handed(Candidate(lambda x: (x[:, None] * x).sum()).answer)
    with guards.bounded_memory(1 << 28), pytest.raises(RuntimeError):
        handed(torch.ones(1 << 14))  # 1 GiB on the way
    assert handed(torch.ones(1 << 14)) == 1 << 28


def test_the_filter_of_calls_leaves_the_disk_as_it_is(tmp_path, sandbox):
    """Also where there is no other wall; where the system has no such filter, no sandbox may be said to hold."""
    file = tmp_path / "file"
    file.write_text("as it was")
    command_line = [sys.executable, "-c", CHANGES, str(file)]
    said = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "as it was\n" or (sandbox.kind == "none" and "Error" in said)
    assert file.read_text() == "as it was" and list(tmp_path.iterdir()) == [file]


def test_a_child_sees_the_libraries_of_its_python_and_no_more(tmp_path, monkeypatch):
    libraries, students = tmp_path / "lib", tmp_path / "students"
    for folder in (libraries, students):
        folder.mkdir()
    (libraries / "libpython3.so").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{libraries}:{students}:")
    settings = json.loads(Sandbox("namespaces", (), 1 << 30, 10).command()[-1])
    seen = [path for kind, path in settings["mounts"] if kind == "bind"]
    assert str(libraries) in seen and str(students) not in seen and "" not in seen


def test_a_fault_of_the_graders_own_costs_one_student(tmp_path, monkeypatch, graded):
    hand_in(tmp_path, "ada", n00="{}")
    hand_in(tmp_path, "bob", n00="{}")

    def fails(hand_in, tasks, sandbox, limits):
        if hand_in.student == "ada":
            raise RuntimeError("a fault")
        return [Mark("bob", task.exercise, "missing", "") for task in tasks]

    monkeypatch.setattr(command, "grade", fails)
    rows = graded(tmp_path, "--notebooks", "00")
    assert rows["ada", "00.1"]["status"] == "not run" and "a fault" in rows["ada", "00.1"]["said"]
    assert rows["bob", "00.1"]["status"] == "missing"
    assert command.main([str(tmp_path), "--notebooks", "99"]) == 2


def test_no_sandbox_no_grade(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lora_edu.classroom.grade.sandbox._fault", lambda sandbox: "does not hold here")
    assert command.main([str(tmp_path)]) == 2
    assert "holds none" in capsys.readouterr().err
    hand_in(tmp_path, "ada", n00="{}")
    assert command.main([str(tmp_path)]) == 2
    assert "--unsafe" in capsys.readouterr().err
    assert command.main([str(tmp_path / "nowhere")]) == 2
