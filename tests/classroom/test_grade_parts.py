"""The parts of the grader that need no child: values on the wire, statements in cells, hand-ins, reports."""

import csv
import io
import json
import math
import os
import struct
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_edu.classroom import wire
from lora_edu.classroom.grade import cells, hand_in, report
from lora_edu.classroom.grade.__main__ import chosen, main
from lora_edu.classroom.grade.course import read_course
from lora_edu.classroom.grade.marks import Mark
from lora_edu.classroom.progress import CHECKS
from lora_edu.classroom.values import Lazy, Raised

# ---------------------------------------------------------------- the wire


def there_and_back(value):
    encoder = wire.Encoder()
    code = json.loads(json.dumps(encoder.encode(value)))
    return wire.Decoder(bytes(encoder.body)).decode(code)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_values_come_back_as_they_were(value):
    assert repr(there_and_back(value)) == repr(value).encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("dtype", wire.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_come_back_bit_by_bit(dtype, shape):
    value = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    value = value if shape == (2, 3) else value[1, 1] if shape == () else value[:0]
    back = there_and_back(value)
    assert back.dtype == dtype and back.shape == value.shape and torch.equal(back, value)


@pytest.mark.parametrize("value", [np.float32(0.1), np.uint64(2**63), np.bool_(True), np.eye(2), np.array(3)])
def test_numbers_of_numpy_come_back(value):
    back = there_and_back(value)
    assert type(back) is type(value) and back.dtype == value.dtype and np.array_equal(back, value)


def test_what_cannot_cross_equals_nothing():
    class Equal:
        def __eq__(self, other):
            return True

        def __repr__(self):
            raise RuntimeError

    for value in (
        Equal(),
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
        int,
        np.array([object()]),
        2**10**6,
    ):
        back = there_and_back(value)
        assert (isinstance(back, wire.Odd) and back != there_and_back(value) and back != value) or isinstance(
            value, Equal
        )
        assert type(back).__name__ == type(value).__name__
    loop = []
    loop.append(loop)
    there_and_back(loop)
    assert there_and_back(Lazy("map", [1])) == Lazy("map", [1]) and there_and_back(Raised("E")) == Raised("E")
    assert there_and_back(Fraction(1, 3)) == Fraction(1, 3) and math.isnan(there_and_back(math.nan))


def test_a_byte_that_is_no_bool_becomes_one():
    back = wire.Decoder(b"\x02\x00").decode({"tensor": ["bool", [2], 0, 2]})
    assert back.view(torch.uint8).tolist() == [1, 0]


@pytest.mark.parametrize(
    "code",
    [
        {"tensor": ["float32", [2**40, 2**40], 0, 4]},
        {"tensor": ["float32", [1], 0, 2]},
        {"list": [{"tensor": ["float32", [1], 0, 4]}] * 2},
        {"tensor": ["float32", [1], 0]},
        {"number": ["object", [], 0, 4]},
        {"int": "9" * 10**6},
        {"int": 3},
        {"str": 3},
        {"dict": [[{"list": []}, None]]},
        {"set": [None] * 2000},
        {"list": [None] * 100_000},
        {"nothing": 1},
        {"part": [0, []]},
        {},
        7,
        "text",
    ],
)
def test_what_is_no_value_is_refused(code):
    with pytest.raises(wire.BrokenProtocol):
        wire.Decoder(b"\0\0\0\0").decode(code)


def test_depth_is_refused():
    code = None
    for _ in range(900):
        code = {"list": [code]}
    with pytest.raises(wire.BrokenProtocol):
        wire.Decoder(b"").decode(code)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"lor",
        b"evil" + bytes(8),
        struct.pack(">4sII", b"lora", 2**31, 0),
        struct.pack(">4sII", b"lora", 2, 2**31) + b"{}",
        struct.pack(">4sII", b"lora", 3, 0) + b"{]}",
        struct.pack(">4sII", b"lora", 100_000, 0) + b"[" * 100_000,
    ],
)
def test_what_is_no_frame_is_refused(data):
    with pytest.raises((wire.BrokenProtocol, EOFError)):
        wire.read_frame(io.BytesIO(data))


# ---------------------------------------------------------------- cells


def defined(name, *sources, imports=(), stub=""):
    needed = cells.definition(name, cells.statements(sources), cells.statements(imports), stub)
    space = {}
    for statement in needed:
        exec(cells.ast.unparse(statement.node), space)
    return space.get(name)


def test_the_last_definition_counts_with_what_it_needs_and_nothing_else():
    f = defined(
        "f",
        "def f(x):\n    return 1",
        "raise SystemExit",
        "FACTOR = 2\ntrained = open('/nowhere')",
        "def helper(x):\n    trained = x\n    return math.sqrt(trained)",
        "def f(x):\n    return FACTOR * helper(x)\nprint(f(W))",
        imports=("import math", "import no_such_module"),
    )
    assert f(9) == 6


def test_a_stub_counts_only_where_there_is_nothing_else():
    stub = "def f(x):\n    '''Text.'''\n    raise NotImplementedError"
    assert defined("f", "def f(x):\n    return x", stub)(1) == 1
    with pytest.raises(NotImplementedError):
        defined("f", stub)(1)


def test_a_planted_fault_left_untouched_is_a_stub():
    planted = "def f(x):\n    'Half of x.'\n    return x // 2  # a fault"
    stub = cells.ast.unparse(cells.ast.parse(planted))
    assert defined("f", "def f(x):\n    return x / 2", planted, stub=stub)(3) == 1.5
    assert defined("f", planted, stub=stub)(3) == 1
    [task] = [task for task in read_course() if task.exercise == "00.1"]
    assert "NotImplementedError" in task.stub and task.stub.startswith(f"def {task.name}(")


def test_a_name_that_uses_itself_needs_what_was_there_before():
    assert defined("f", "def f(x):\n    return x", "g = f\nf = lambda x: g(x) + 1")(1) == 2
    assert defined("f", "def f(n):\n    return 1 if n == 0 else n * f(n - 1)")(4) == 24
    assert defined("f", "def f(x):\n    return x", "f = max(f, key=None) if False else f")(3) == 3


def test_a_value_that_is_built_in_steps_is_whole():
    assert (
        defined("f", "K = 2", "K *= 3\ncode = [0] * 4\ncode[0] = 5", "def f():\n    return K + code[0]")()
        == 11
    )


def test_lines_that_are_not_python_are_passed_over():
    assert defined("f", "torch.addmm?\nfiles = !ls\ndef f():\n    return 1")() == 1
    assert (
        defined("f", "%%bash\nrm -rf", "%%time\n!pip install x\ndef f():\n    %timeit 1\n    return 1")() == 1
    )
    assert defined("f", "def f(\n", "x = (7\n     % 4)", "def f():\n    return x")() == 3
    assert defined("f", "def f(\n") is None and "is not Python" in cells.fault("f", ["def f(\n"])


@pytest.mark.parametrize(
    "notebook",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"cells": 3}',
        b'{"cells": [{}]}',
        b'{"cells": [[]]}',
        b"\xff\xfe",
        b"[" * 10**5,
    ],
)
def test_what_is_no_notebook_is_refused(notebook):
    with pytest.raises(ValueError):
        cells.code_cells(notebook)


def test_notebooks_without_ids_and_of_format_3_are_read():
    four = {
        "cells": [
            {"cell_type": "code", "source": ["a = 1\n", "b = 2"]},
            {"cell_type": "markdown", "source": "x"},
        ]
    }
    three = {"worksheets": [{"cells": [{"cell_type": "code", "input": "a = 1"}]}]}
    assert cells.code_cells(json.dumps(four).encode()) == ["a = 1\nb = 2"]
    assert cells.code_cells(json.dumps(three).encode()) == ["a = 1"]


def test_the_course_asks_for_every_exercise():
    tasks = read_course()
    assert len(tasks) == len({task.exercise for task in tasks}) == sum(CHECKS.values())
    assert all(task.checked for task in tasks)
    assert next(task.name for task in tasks if task.exercise == "08.1") == "derive_nf4"


# ---------------------------------------------------------------- hand-ins


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("04_lora_from_scratch.ipynb", "04"),
        ("Copy of 04_lora_from_scratch.ipynb", "04"),
        ("05b_cost_and_shipping (1).ipynb", "05b"),
        ("Kopie von 05B_x.IPYNB", "05b"),
        ("work/../../04_x.ipynb", "04"),
        ("a\\b\\04_x.ipynb", "04"),
        ("2004_x.ipynb", None),
        ("04_x.py", None),
    ],
)
def test_the_number_of_a_notebook_is_in_its_name(name, number):
    assert hand_in.number_of(name) == number


def test_folders_and_zips_are_read_and_nothing_leads_out(tmp_path):
    secret = tmp_path / "secret.ipynb"
    secret.write_text("secret")
    folder = tmp_path / "class"
    ada = folder / "ada" / "work"
    ada.mkdir(parents=True)
    (ada / "04_x.ipynb").write_text("four")
    (ada / "05_x.ipynb").symlink_to(secret)
    (folder / "ada" / "link").symlink_to(tmp_path)
    os.mkfifo(ada / "06_x.ipynb")
    (ada / "07_x.ipynb").mkdir()
    (ada / "08_x.ipynb").write_bytes(b" " * (hand_in.MOST_NOTEBOOK + 1))
    with zipfile.ZipFile(folder / "bob.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../04_x.ipynb", "four")
        archive.writestr("__MACOSX/._05_x.ipynb", "no")
        archive.writestr("06_x.ipynb", b" " * (hand_in.MOST_NOTEBOOK + 1))
        link = zipfile.ZipInfo("07_x.ipynb")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("08_x.ipynb", "eight", zipfile.ZIP_BZIP2)
    (folder / "eve").symlink_to(tmp_path)
    (folder / "dan.zip").write_bytes(b"PK\x05\x06" + b"\xff" * 18)
    (folder / "fay.zip").write_bytes(b"no zip")
    (folder / "grades.csv").write_text("old")
    before = sorted(folder.rglob("*"))
    asked = {"04", "05", "06", "07", "08"}
    found = {name: hand_in.read(name, paths, asked) for name, paths in hand_in.students(folder).items()}
    assert list(found) == ["ada", "bob", "dan", "eve", "fay"]
    assert found["ada"].notebooks == {
        "04": b"four",
        "05": "it is a link, which is not followed",
        "06": "it is no plain file",
        "07": "it is no plain file",
        "08": "it is larger than 20 MiB",
    }
    assert found["bob"].notebooks == {
        "04": b"four",
        "06": "it is larger than 20 MiB",
        "08": "it is packed in a rare way",
    }
    assert all(found[name].notes and not found[name].notebooks for name in ("dan", "eve", "fay"))
    assert sorted(folder.rglob("*")) == before


def test_of_a_copy_of_the_course_the_working_copies_are_taken(tmp_path):
    for folder in ("notebooks", "notebooks/solutions", "work"):
        (tmp_path / "ada" / "course" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ada" / "course" / folder / "04_x.ipynb").write_text(folder)
    assert hand_in.read("ada", [tmp_path / "ada"], {"04"}).notebooks == {"04": b"work"}
    with zipfile.ZipFile(tmp_path / "ada.zip", "w") as archive:
        for folder in ("notebooks", "solutions", "work"):
            archive.writestr(f"course/{folder}/04_x.ipynb", folder)
    assert hand_in.read("ada", [tmp_path / "ada.zip"], {"04"}).notebooks == {"04": b"work"}


def test_no_zip_of_many_bombs_takes_long(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "eve.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for place in range(50):
            archive.writestr(f"{place}/04_x.ipynb", b" " * 2_000)
    monkeypatch.setattr(hand_in, "MOST_NOTEBOOK", 1_000)
    opened = []
    unpacked = hand_in._unpacked
    monkeypatch.setattr(hand_in, "_unpacked", lambda *a: opened.append(a) or unpacked(*a))
    found = hand_in.read("eve", [tmp_path / "eve.zip"], {"04"})
    assert len(opened) == hand_in.MOST_TRIES and "larger than" in found.notebooks["04"]


# ---------------------------------------------------------------- reports


def test_reports_hold_text_alone():
    said = "=1+1 <script>alert(1)</script> \x1b[31m\u202e\ud800"
    marks = [Mark('<b>"x"', "04.1", "hint", said, "a hint"), Mark("@x", "04.1", "pass", "Right.")]
    tasks = [task for task in read_course() if task.exercise == "04.1"]
    rows = list(csv.DictReader(io.StringIO(report.as_csv(marks))))
    assert [row["points"] for row in rows] == ["0", "1"]
    assert (
        rows[0]["said"].startswith("'=1+1") and rows[1]["student"] == "'@x" and "\x1b" not in rows[0]["said"]
    )
    assert "\n'＝1+1," in report.as_csv([Mark("＝1+1", "04.1", "pass", "")])
    assert report.one_line("a\u200cb") == "a\u200cb"  # in names of several scripts
    page = report.as_html(marks, tasks, {'<b>"x"': [], "@x": ["a <note>"]}, "bubblewrap")
    assert "<script>" not in page and "<b>&quot;" not in page and "1 of 2 who tried pass" in page
    assert "<td>1</td><td>a hint</td>" in page
    page.encode("utf-8")


def test_a_taken_name_is_told_before_anything_is_graded(tmp_path):
    (tmp_path / "grades.html").mkdir()
    with pytest.raises(ValueError, match="give --output"):
        report.check_output(tmp_path)


# ---------------------------------------------------------------- what is graded


def test_what_was_set_is_graded_and_nothing_else():
    course = read_course()
    assert chosen(course, None, None) == course
    assert [task.exercise for task in chosen(course, None, ["07.2", "04.1"])] == ["04.1", "07.2"]
    assert {task.notebook for task in chosen(course, ["05b"], None)} == {"05b"}


def test_an_exercise_that_the_course_does_not_have_is_named(tmp_path, capsys):
    (tmp_path / "ada").mkdir()
    assert main([str(tmp_path), "--exercises", "04.1", "04.99"]) == 2
    said = capsys.readouterr().err
    assert "--exercises must be among 00.1, 01.1" in said and said.endswith("got 04.99\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "ada"]
