"""The notebook builder, on small sources in a folder of their own, with real kernels."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import build_notebooks, reading_time, working_copies
from tools.set_repo import present_slug

ROOT = Path(__file__).resolve().parents[2]

SOURCE = """\
# %% [markdown]
# # 42 · A trial
# It has goals. **Time:** {minutes}.

# %%
import sys
import time

import ipywidgets

from lora_edu.classroom.widgets import predict

# %%
predict("Well?", ["yes", "no"], answer="no")

# %%
print("10 %\\r20 %")
print("late", file=sys.stderr)
print("more")

# %%
ipywidgets.IntSlider()

# %% tags=["exercise"]
def double(x):
    raise NotImplementedError

# %% [markdown] tags=["hint"]
# Add it to itself.

# %% tags=["solution"]
def double(x):
    return x + x

# %%
try:
    print(double(2))
except NotImplementedError:
    print("not attempted")

# %% tags=["claim"]
assert sys.version_info >= (3, 11)

# %% tags=["measured"]
time.perf_counter_ns()
"""


def make_course(folder):
    (folder / "notebooks" / "src").mkdir(parents=True)
    (folder / "lora_edu").symlink_to(ROOT / "lora_edu")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "notebooks" / "src" / "42_trial.py").write_text(SOURCE)
    return folder


def run(course, *arguments):
    return build_notebooks.main(list(arguments), root=course)


def read(course, path="42_trial.ipynb"):
    return nbformat.read(course / "notebooks" / path, as_version=4)


def edit(course, old, new):
    source = course / "notebooks" / "src" / "42_trial.py"
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))


def outputs_of(notebook, text):
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source]
    return cell.outputs


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One built course; tests that change it take a copy (`course`)."""
    folder = make_course(tmp_path_factory.mktemp("course"))
    assert run(folder) == 0
    return folder


@pytest.fixture
def course(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "course", symlinks=True))


# ---------------------------------------------------------------- what is built


def test_the_learner_gets_the_stub_and_folded_help(built):
    notebook = read(built)
    sources = [cell.source for cell in notebook.cells]
    assert "def double(x):\n    raise NotImplementedError" in sources
    assert "<details>\n<summary>Hint</summary>\n\nAdd it to itself.\n\n</details>" in sources
    [solution] = [cell for cell in notebook.cells if "<summary>Solution</summary>" in cell.source]
    assert (
        solution.cell_type == "markdown"
        and "```python\ndef double(x):\n    return x + x\n```" in solution.source
    )
    assert outputs_of(notebook, "print(double(2))")[0].text == "not attempted\n"


def test_the_solutions_have_the_answer_in_place_of_the_stub(built):
    notebook = read(built, "solutions/42_trial.ipynb")
    assert not any(
        "raise NotImplementedError" in c.source or "<summary>Solution" in c.source for c in notebook.cells
    )
    assert outputs_of(notebook, "print(double(2))")[0].text == "4\n"


def test_links_and_set_up_come_from_the_builder(built):
    slug = present_slug(ROOT)
    for path in ("42_trial.ipynb", "solutions/42_trial.ipynb"):
        cells = read(built, path).cells
        title, _, links, *_ = cells[0].source.splitlines()
        assert (
            title == "# 42 · A trial" and links.startswith("[Open in Colab]") and "![" not in cells[0].source
        )
        assert f"github/{slug}/blob/main/notebooks/{path})" in links
        assert f"gh/{slug}/HEAD?urlpath=lab/tree/notebooks/{path})" in links
        first = next(cell for cell in cells if cell.cell_type == "code")
        assert first.id == "42-setup" and first.outputs == []
        assert first.source.startswith("#@title Set-up")
        assert first.source.index("ensure_packages()") < first.source.index("import ipywidgets")
        assert len(first.source.partition("import ipywidgets")[0].splitlines()) <= 20


def test_what_no_reader_needs_to_see_is_folded(built):
    """JupyterLab and nbconvert look at `source_hidden`; Colab at `cellView`, and shows the title alone."""
    folded = [cell for cell in read(built).cells if cell.metadata.get("cellView") == "form"]
    assert [cell.source.splitlines()[0] for cell in folded] == [
        "#@title Set-up: run me first",
        "#@title Checks what this page says",
    ]
    assert all(cell.metadata.jupyter.source_hidden and cell.outputs == [] for cell in folded)
    assert folded[1].source.endswith("\nassert sys.version_info >= (3, 11)")


@pytest.mark.parametrize("path", ["42_trial.ipynb", "solutions/42_trial.ipynb"])
def test_the_sheets_open_from_where_a_notebook_lies(built, path):
    links = dict(re.findall(r"\[(\w+)\]\((\.\./[^)]+)\)", read(built, path).cells[0].source))
    assert set(links) == {"Notation", "Glossary"}
    for link in links.values():
        assert (ROOT / "notebooks" / path).parent.joinpath(link).resolve().is_relative_to(ROOT / "docs")
        assert (ROOT / "notebooks" / path).parent.joinpath(link).is_file()


def test_the_sheets_open_from_a_learners_copy(built, tmp_path):
    for name in ("notebooks", "docs"):
        shutil.copytree((built if name == "notebooks" else ROOT) / name, tmp_path / name)
    [copy] = working_copies.copy_notebooks(tmp_path / "notebooks", tmp_path / "work")
    links = re.findall(r"\]\((\.\./[^)]+)\)", nbformat.read(copy, as_version=4).cells[0].source)
    assert len(links) == 2 and all((copy.parent / link).is_file() for link in links)


def test_what_differs_from_run_to_run_is_gone(built):
    notebook = read(built)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(set(cell.metadata) <= {"tags", "jupyter", "cellView"} for cell in code)
    assert [(o.name, o.text) for o in outputs_of(notebook, "10 %")] == [
        ("stdout", "20 %\nmore\n"),
        ("stderr", "late\n"),
    ]
    assert set(outputs_of(notebook, "predict(")[0].data) == {"text/html", "text/plain"}
    assert set(outputs_of(notebook, "IntSlider")[0].data) == {"text/plain"}


def test_only_the_capstone_opens_on_a_gpu_in_colab(tmp_path):
    for number in ("10", "11"):
        source = tmp_path / f"{number}_trial.py"
        source.write_text(SOURCE)
        metadata = build_notebooks.compose(source, f"notebooks/{number}_trial.ipynb", "owner/name").metadata
        on_gpu = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
        assert {key: metadata[key] for key in on_gpu if key in metadata} == (on_gpu if number == "10" else {})


def test_a_capstone_without_that_mark_is_built_anew(tmp_path):
    source = tmp_path / "10_trial.py"
    source.write_text(SOURCE)
    composed = build_notebooks.compose(source, "notebooks/10_trial.ipynb", "owner/name")
    stored = nbformat.from_dict(dict(composed) | {"metadata": {}})
    assert build_notebooks.differences(composed, composed) is None
    assert "Colab" in build_notebooks.differences(stored, composed)


def test_strict_nbval_accepts_what_was_built(built):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval",
        "--nbval-current-env",
    ]
    result = subprocess.run(
        [*command, "--rootdir", built, "-c", os.devnull, built / "notebooks" / "42_trial.ipynb"],
        capture_output=True,
        text=True,
        cwd=built,
        env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1"},
    )
    assert result.returncode == 0, result.stdout


# ---------------------------------------------------------------- building again


def notebooks_of(course):
    return {path.name: path.read_bytes() for path in sorted((course / "notebooks").rglob("*.ipynb"))}


def test_what_is_up_to_date_is_not_executed(course, capsys):
    before = notebooks_of(course)
    assert run(course) == 0
    assert capsys.readouterr().out.count("up to date") == 2
    assert notebooks_of(course) == before


def test_executing_again_changes_no_byte(course):
    before = notebooks_of(course)
    assert run(course, "--force", "42") == 0
    assert notebooks_of(course) == before


def test_a_measured_output_changes_only_with_its_source(course):
    source, target = course / "notebooks" / "src" / "42_trial.py", course / "notebooks" / "42_trial.ipynb"
    stored = outputs_of(read(course), "perf_counter_ns")[0].data
    edit(course, 'print("more")', 'print("most")')
    assert build_notebooks.build(source, target, course)
    assert outputs_of(read(course), "perf_counter_ns")[0].data == stored
    edit(course, "time.perf_counter_ns()", "time.perf_counter_ns() + 0")
    assert build_notebooks.build(source, target, course)
    assert outputs_of(read(course), "perf_counter_ns")[0].data != stored


def test_a_measured_cell_is_not_compared_by_nbval(built):
    assert read(built).cells[-1].metadata.tags == ["measured", "nbval-ignore-output"]


def test_the_tags_of_slides_stay_on_text_and_code():
    text, code, plain = (
        nbformat.v4.new_markdown_cell("a", metadata={"tags": ["slide-skip"]}),
        nbformat.v4.new_code_cell("b", metadata={"tags": ["slide-split"]}),
        nbformat.v4.new_markdown_cell("c"),
    )
    products = build_notebooks.product_cells([text, code, plain], solutions=False)
    assert [cell.metadata for cell in products] == [{"tags": ["slide-skip"]}, {"tags": ["slide-split"]}, {}]


def test_an_inserted_cell_leaves_the_other_ids(course):
    source = course / "notebooks" / "src" / "42_trial.py"
    slug = present_slug(ROOT)
    before = {c.id for c in build_notebooks.compose(source, "notebooks/42_trial.ipynb", slug).cells}
    edit(course, "# %%\npredict", "# %%\n1 + 1\n\n# %%\n1 + 1\n\n# %%\npredict")
    after = {c.id for c in build_notebooks.compose(source, "notebooks/42_trial.ipynb", slug).cells}
    assert before < after and len(after - before) == 2


# ---------------------------------------------------------------- --check


def test_check_passes_when_source_and_notebook_agree(course):
    assert run(course, "--check") == 0


def test_check_names_the_notebook_and_the_cell(course, capsys):
    edit(course, 'print("more")', 'print("most")')
    assert run(course, "--check") == 1
    printed = capsys.readouterr().out
    assert (
        "notebooks/42_trial.ipynb: cell 4" in printed
        and "notebooks/solutions/42_trial.ipynb: cell 4" in printed
    )


def test_check_finds_a_missing_notebook_and_one_without_source(course, capsys):
    notebook = course / "notebooks" / "42_trial.ipynb"
    notebook.rename(notebook.with_name("43_orphan.ipynb"))
    assert run(course, "--check") == 1
    printed = capsys.readouterr().out
    assert "42_trial.ipynb: it does not exist" in printed and "43_orphan.ipynb: it has no source" in printed


def test_a_new_repository_name_asks_for_no_new_execution(course):
    slug = present_slug(ROOT)
    for path in [course / "pyproject.toml", *(course / "notebooks").rglob("*.ipynb")]:
        path.write_text(path.read_text(encoding="utf-8").replace(slug, "somebody/lessons"), encoding="utf-8")
    assert run(course, "--check") == 0


def test_the_notebooks_of_this_repository_agree_with_their_sources():
    assert build_notebooks.check(build_notebooks.selected_sources([], ROOT)) == []


# ---------------------------------------------------------------- errors


def test_a_failing_cell_is_named_and_nothing_is_written(course, capsys):
    before = notebooks_of(course)
    edit(course, 'print("more")', "1 / 0")
    assert run(course) == 1
    message = capsys.readouterr().err
    assert "notebooks/42_trial.ipynb, cell 4 (42-" in message and "ZeroDivisionError" in message
    assert notebooks_of(course) == before
    assert not list((course / "notebooks").glob(".*"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# # 42 · A trial", "# 42 · A trial", "the first cell must be Markdown and start with '# title'"),
        (
            "# %%\nimport sys",
            "# %%\n1 + 1\n\n# %%\nimport sys",
            "the first code cell is folded, so it must hold the imports",
        ),
        ('tags=["measured"]', 'tags=["mesured"]', r"unknown tags ['mesured']"),
        ('# %% tags=["solution"]', "# %%", "each exercise cell needs one solution cell"),
        ('# %% tags=["exercise"]', "# %%", "each exercise cell needs one solution cell"),
    ],
)
def test_a_source_that_breaks_a_rule_is_refused(course, capsys, old, new, message):
    edit(course, old, new)
    assert run(course) == 1
    error = capsys.readouterr().err
    assert "42_trial.py" in error and message in error


def test_an_unknown_number_is_refused(course, capsys):
    assert run(course, "77") == 1
    assert "no source notebooks/src/77_*.py" in capsys.readouterr().err


# ---------------------------------------------------------------- minutes


WORDS = "word " * 220 + "$x + y$"  # two minutes, a formula counted as a word
TIMED = f"""\
# %% [markdown]
# # 43 · Time
# **Time:** {{minutes}}.

# %%
import sys

# %% [markdown]
# ## 1. What is core?
#
# {WORDS}
#
# $$
# x
# $$
#
# | a table | is not read as sentences are |
#
# ## 2. What is deeper?
#
# *Deeper: nothing later needs it.*
#
# {WORDS}

# %%
for n in range(20):  # six lines, less than a minute
    n += 1
    n += 1
    # a comment is none
    n += 1

figures.lines({{}}, alt="none")

# %%
predict("43.1")

# %% [markdown]
# ### Exercise 43.1 · Nothing (one star, 8 minutes)

# %% tags=["exercise"]
def nothing(): raise NotImplementedError

# %% [markdown] tags=["hint"]
# {WORDS}

# %% tags=["solution"]
def nothing(): return None

# %% tags=["claim"]
assert True

# %% [markdown]
# ## 3. Core again?
#
# *Core*
#
# {"word " * 330}
"""


@pytest.fixture
def timed(tmp_path):
    folder = make_course(tmp_path)
    (folder / "notebooks" / "src" / "42_trial.py").unlink()
    source = folder / "notebooks" / "src" / "43_time.py"
    source.write_text(TIMED)
    return source


def test_minutes_follow_the_rule(timed):
    cells = build_notebooks.read_source(timed)
    by_section = {True: 0.0, False: 0.0}
    first_code = next(cell for cell in cells if cell.cell_type == "code")
    for core, cell in reading_time.sections(cells):
        by_section[core] += 0 if cell is first_code else reading_time.cell_minutes(cell)
    opening = 2 / 110  # "**Time:** {minutes}."
    assert by_section[True] == pytest.approx(
        opening + 222 / 110 + 1 + 331 / 110
    )  # the equation is a word too
    deeper = (5 + 221) / 110 + 5 * 0.1 + 1 + 0.5 + 8 * 1.5
    assert by_section[False] == pytest.approx(deeper)
    assert build_notebooks.minutes_of(timed) == (5, 20)


def test_the_head_and_the_map_say_what_was_counted(timed, capsys):
    start = timed.with_name("00_start.py")
    start.write_text(
        "# %% [markdown]\n# # 00 · Start?\n# **Time:** {minutes}.\n#\n# {course map}\n#\n"
        "# {course hours} hours, {core hours} of them core\n"
    )
    head = build_notebooks.compose(timed, "notebooks/43_time.ipynb", "owner/repo").cells[0].source
    assert "**Time:** 20 minutes, or 5 without the sections marked *Deeper*." in head
    first = build_notebooks.compose(start, "notebooks/00_start.ipynb", "owner/repo").cells[0].source
    assert "**Time:** 5 minutes." in first
    assert "| [00](00_start.ipynb) | Start? | 5 | 5 |\n| [43](43_time.ipynb) | Time | 20 | 5 |\n" in first
    assert "0.5 hours, 0 of them core" in first or "0.5 hours, 0.5 of them core" in first
    assert build_notebooks.main(["--times"], root=timed.parents[2]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["43_time", "5", "20"] in table and ["minutes", "10", "25"] in table


def test_another_length_leaves_the_ids(timed):
    before = build_notebooks.compose(timed, "notebooks/43_time.ipynb", "owner/repo").cells
    timed.write_text(
        timed.read_text().replace("import sys", "import sys  # changed").replace("8 minutes", "80 minutes")
    )
    after = build_notebooks.compose(timed, "notebooks/43_time.ipynb", "owner/repo").cells
    assert before[0].source != after[0].source and before[0].id == after[0].id


def test_an_unknown_marker_is_refused(timed, capsys):
    timed.write_text(timed.read_text().replace("*Core*", "*Cor*"))
    assert build_notebooks.main(["--times"], root=timed.parents[2]) == 1
    assert "43_time.py: the line below '## 3. Core again?'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seen"),
    [("a\n", "a\n"), ("1\r2\r3", "3"), ("long\rab", "abng"), ("a\rb\nc\r", "b\nc"), ("", "")],
)
def test_carriage_returns_do_what_a_terminal_does(text, seen):
    assert build_notebooks.apply_carriage_returns(text) == seen


# ---------------------------------------------------------------- the set-up cell


def test_set_up_in_an_empty_folder_fetches_the_course(tmp_path):
    origin, empty = tmp_path / "origin", tmp_path / "empty"
    shutil.copytree(ROOT / "lora_edu", origin / "lora_edu")
    shutil.copy(ROOT / "pyproject.toml", origin)
    empty.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(origin)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "course"]):
        subprocess.run([*git, *command], check=True)
    slug = present_slug(ROOT)
    code = build_notebooks.SETUP.format(slug=slug)
    code += "\nimport lora_edu\nprint(lora_edu.__file__)\n"
    instead = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{slug}",
    }
    for _ in range(2):  # the second time it is there
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=empty,
            env={**os.environ, **instead},
        )
        assert result.stdout.strip().startswith(str(empty / slug.split("/")[1])), result.stderr
