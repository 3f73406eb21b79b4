"""The form of a notebook, counted over every notebooks/src/*.py and over what is built from it.

How things are counted:

beat
    A ``predict`` call. Notebooks 01 to 12 have 3 to 5, at least one below each heading ``## 1. ...?``.
line of code
    A line that holds more than a comment. A cell that only asks (``predict``) is text and not counted.
word
    Of a passage: the text from one heading, code cell or folded hint to the next, cells joined. A formula is
    one word; headings, tables, code blocks and addresses of links are none. The opening is counted apart.
claim
    An assert in a cell with that tag, which is folded. In notebooks that are not revised yet it may stand in sight.
exercise
    Five cells in a row: text with the heading ``### Exercise NN.k · Title (n stars, n minutes)``, typed stub,
    hint, solution, ``check("NN.k", stub)``.
"""

import ast
import inspect
import itertools
import json
import re
import statistics
import textwrap
from pathlib import Path

import nbformat
import pytest

from lora_edu.classroom.checks import load_exercises
from lora_edu.classroom.predictions import load_predictions
from tools import build_notebooks
from tools.reading_time import is_prediction, lines_of_code, prose, tags_of, words

ROOT = Path(__file__).resolve().parents[2]
SOURCES = build_notebooks.selected_sources([], ROOT)
LEARNERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BUILT = LEARNERS + sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
RECORDS = sorted((ROOT / "data" / "runs").glob("*.json"))

BEATS = range(3, 6)
MEDIAN_LINES, MOST_LINES, MOST_EXERCISE_LINES = 3, 15, 20
REVISED = (
    "00",
    "01",
    "02",
    "03",
    "04",
    "05",
    "05b",
    "06",
    "07",
    "08",
    "09",
    "10",
    "11",
    "12",
    "13",
)  # here a learner reads the experiment and no plumbing; the others follow
MOST_REVISED_LINES = 10
MOST_WORDS, MOST_OPENING_WORDS = 120, 150
MOST_IGNORED_OUTPUTS = {
    "10": 7
}  # it asks the machine, waits with a bar, and trains: what a trained model says differs by machine
USUAL_IGNORED_OUTPUTS = 3
FEWEST_EXERCISES = 2
IN_WORDS = {"five": 5, "six": 6, "eight": 8, "ten": 10, "twelve": 12, "fifteen": 15, "twenty": 20}

PLOTTING = {"matplotlib", "pylab", "seaborn", "plotly", "bokeh", "altair", "PIL"}
ABSOLUTE = re.compile(
    r"(?<![\w:/.<)\]}])/(?:home|Users|root|tmp|var|opt|mnt|srv|usr|content|work)/|\b[A-Z]:\\"
)

every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
every_built = pytest.mark.parametrize(
    "path", BUILT, ids=lambda path: path.relative_to(ROOT / "notebooks").as_posix()
)


def numbered(first, last):
    """The sources of notebooks `first` to `last`."""
    chosen = [source for source in SOURCES if first <= int(number_of(source)[:2]) <= last]
    return pytest.mark.parametrize("source", chosen, ids=lambda source: source.stem)


def number_of(source):
    return source.stem.split("_")[0]


def cells_of(source):
    return build_notebooks.read_source(source)


def is_code(cell):
    return cell.cell_type == "code"


def calls(code, name):
    """The calls of `name` in a text of Python."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == name]


def calls_in(source, name):
    return [call for cell in cells_of(source) if is_code(cell) for call in calls(cell.source, name)]


def passages(cells):
    """The texts between headings, code cells and folded hints."""
    runs = itertools.groupby(cells, key=lambda cell: not is_code(cell) and "hint" not in tags_of(cell))
    texts = ("\n\n".join(cell.source for cell in run) for is_text, run in runs if is_text)
    return [passage for text in texts for passage in re.split(r"^#+ .*$", prose(text), flags=re.MULTILINE)]


# ---------------------------------------------------------------- the opening


@every_source
def test_a_notebook_says_what_it_gives_and_takes(source):
    opening = cells_of(source)[0].source
    assert opening.startswith(f"# {number_of(source)} · ")
    for label in ("You will", "You need", "Time:"):
        assert f"**{label}**" in opening, label
    assert "**Time:** {minutes}" in opening, "the builder counts the minutes"


@every_source
def test_the_stated_minutes_are_the_builders_sum(source):
    head = build_notebooks.compose(source, f"notebooks/{source.stem}.ipynb", "owner/repo").cells[0].source
    core, total = build_notebooks.minutes_of(source)
    stated = re.search(r"\*\*Time:\*\* (\d+) minutes(?:, or (\d+) without)?", head)
    assert (int(stated[2] or stated[1]), int(stated[1])) == (core, total)
    assert (core < total) == bool(stated[2])


# ---------------------------------------------------------------- beats


@numbered(1, 13)
def test_beats(source):
    assert len(calls_in(source, "predict")) in BEATS


@every_source
def test_every_question_is_one(source):
    texts = [question.text for question in load_predictions(number_of(source)).values()]
    headings = [
        h
        for cell in cells_of(source)
        if not is_code(cell)
        for h in re.findall(r"^## \d.*$", cell.source, re.M)
    ]
    assert headings
    assert [text for text in texts + headings if not text.endswith("?")] == []


@numbered(1, 13)
def test_every_section_asks_for_a_prediction(source):
    heading, without = "", []
    for cell in cells_of(source):
        if is_code(cell):
            if calls(cell.source, "predict"):
                without = [h for h in without if h != heading]
        elif found := re.findall(r"^## \d.*$", cell.source, re.M):
            heading = found[-1]
            without += found
    assert without == []


@numbered(1, 13)
def test_a_notebook_ends_with_a_summary(source):
    _, found, summary = cells_of(source)[-1].source.partition("## Summary\n")
    assert found, "the last cell holds '## Summary'"
    assert 3 <= len(re.findall(r"^- ", summary, re.M)) <= 5
    assert "- Limit: " in summary
    assert "?" in summary.partition("**Next question:**")[2]


@numbered(1, 11)
def test_a_method_is_told_when_not_to_use_it(source):
    assert any(
        re.search("when not to use it", cell.source, re.I) for cell in cells_of(source) if not is_code(cell)
    )


# ---------------------------------------------------------------- code


@every_source
def test_cells_are_short(source):
    _, *code = [cell for cell in cells_of(source) if is_code(cell)]  # the first, of imports, is folded
    counted = [cell for cell in code if not is_prediction(cell) and "claim" not in tags_of(cell)]
    lengths = {cell.source: lines_of_code(cell.source) for cell in counted if "solution" not in tags_of(cell)}
    assert statistics.median(lengths.values()) <= MEDIAN_LINES
    for cell in counted:
        most = MOST_EXERCISE_LINES if {"exercise", "solution"} & set(tags_of(cell)) else MOST_LINES
        assert lines_of_code(cell.source) <= most, cell.source


@pytest.mark.parametrize("number", REVISED)
def test_code_in_sight_is_the_experiment(number):
    [source] = build_notebooks.selected_sources([number], ROOT)
    _, *code = [
        cell for cell in cells_of(source) if is_code(cell)
    ]  # the first holds the imports and is folded
    counted = [cell for cell in code if not {"exercise", "solution", "claim"} & set(tags_of(cell))]
    counted = [cell for cell in counted if not is_prediction(cell)]
    lengths = {cell.source: lines_of_code(cell.source) for cell in counted}
    assert statistics.median(lengths.values()) <= MEDIAN_LINES
    assert [source for source, length in lengths.items() if length > MOST_REVISED_LINES] == []
    for node in (node for cell in counted for node in ast.walk(ast.parse(cell.source))):
        assert not isinstance(node, ast.Assert), "a claim stands in a cell with the tag 'claim'"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            assert not any(isinstance(argument, ast.Starred) for argument in node.args), ast.unparse(node)
        if isinstance(node, ast.keyword) and node.arg == "alt":
            assert not isinstance(node.value, ast.JoinedStr), "the sentence under a picture is the figure's"


@every_source
def test_a_claim_shows_nothing(source):
    for cell in cells_of(source):
        if "claim" in tags_of(cell):
            assert isinstance(ast.parse(cell.source).body[-1], ast.Assert), cell.source
            assert not calls(cell.source, "print") and not calls(cell.source, "display")


@every_source
def test_a_notebook_holds_no_plotting_code(source):
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in cells_of(source) if is_code(cell)))):
        if isinstance(node, ast.Import):
            imported = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {(node.module or "").split(".")[0]}
        else:
            continue
        assert not imported & PLOTTING, (
            f"line {node.lineno}: a figure is a verb of lora_edu.classroom.figures"
        )


@every_source
def test_what_nbval_does_not_compare_is_claimed(source):
    code = [cell for cell in cells_of(source) if is_code(cell)]
    ignored = [i for i, cell in enumerate(code) if {"measured", "nbval-ignore-output"} & set(tags_of(cell))]
    assert len(ignored) <= MOST_IGNORED_OUTPUTS.get(number_of(source), USUAL_IGNORED_OUTPUTS)
    for index in ignored:
        following = ast.parse(code[index + 1].source) if index + 1 < len(code) else ast.Module([], [])
        assert any(isinstance(node, ast.Assert) for node in ast.walk(following)), code[index].source


# ---------------------------------------------------------------- text


@every_source
def test_explanations_are_short(source):
    opening, *others = filter(words, passages(cells_of(source)))
    assert len(words(opening)) <= MOST_OPENING_WORDS
    assert {text: len(words(text)) for text in others if len(words(text)) > MOST_WORDS} == {}


@every_source
def test_links_lead_somewhere(source):
    # A notebook also lies in solutions/ and in a learner's work/: only a neighbour is found from all three.
    text = "\n".join(cell.source for cell in cells_of(source) if not is_code(cell))
    found = re.findall(r"\]\(([^)]+)\)", text)
    here = {link for link in found if link.startswith("#")}
    headings = {"#" + heading.replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)}
    assert here <= headings  # JupyterLab's names for them
    links = [link.partition("#")[0] for link in found if link not in here]
    neighbours = {f"{other.stem}.ipynb" for other in SOURCES}
    assert [link for link in links if not link.startswith("https://") and link not in neighbours] == []


def test_links_of_the_sheets_lead_somewhere():
    sheets = sorted((ROOT / "docs").glob("*.md"))
    links = [
        (s, link) for s in sheets for link in re.findall(r"\]\((?!https://)([^)#]+)\)", s.read_text("utf-8"))
    ]
    assert links and [(s.name, link) for s, link in links if not (s.parent / link).exists()] == []


def test_the_glossary_is_in_order():
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    terms = re.findall(r"^\| (.+?) \| .+ \| \d\d[a-z]? \|$", text, re.M)
    assert len(terms) > 30 and terms == sorted(set(terms), key=str.casefold)


def test_the_map_names_every_notebook_and_its_minutes():
    [start] = build_notebooks.selected_sources(["00"], ROOT)
    built = build_notebooks.compose(start, f"notebooks/{start.stem}.ipynb", "owner/repo")
    rows = re.findall(
        r"^\| \[(\d\d[a-z]?)\]\((\S+)\.ipynb\) \| .+ \| (\d+) \| (\d+) \|$", str_of(built), re.M
    )
    minutes = [(number_of(s), s.stem, build_notebooks.minutes_of(s)) for s in SOURCES]
    assert rows == [(number, stem, str(total), str(core)) for number, stem, (core, total) in minutes]


def str_of(notebook):
    """The text of a notebook."""
    return "\n".join(cell.source for cell in notebook.cells if not is_code(cell))


# ---------------------------------------------------------------- exercises


def exercises_of(source):
    """For each stub its id, from the heading above it, and the cells around it."""
    cells = cells_of(source)
    for index, cell in enumerate(cells):
        if "exercise" in tags_of(cell):
            pattern = r"### Exercise (\d\d\.\d+) · .+ \((?:one star|two stars|three stars), \d+ minutes?\)"
            headings = re.findall(pattern, cells[index - 1].source)
            assert len(headings) == 1, f"one heading '### Exercise NN.k · ...' above:\n{cell.source}"
            yield headings[0], cells[index : index + 4]


def tree_of(function):
    return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]


def without_docstring(function):
    """What a function does: its body, in one form."""
    return [ast.unparse(step) for step in function.body[ast.get_docstring(function) is not None :]]


@every_source
def test_exercises_are_complete(source):
    found = dict(exercises_of(source))
    number = number_of(source)
    before = len(load_exercises(number[:2])) if len(number) > 2 else 0  # a second half counts on
    assert list(found) == [f"{number[:2]}.{k}" for k in range(before + 1, before + len(found) + 1)]
    assert set(found) == set(load_exercises(number_of(source)))
    for key, (stub, hint, solution, checked) in found.items():
        assert "hint" in tags_of(hint) and "solution" in tags_of(solution)
        function = ast.parse(stub.source).body[-1]
        assert isinstance(function, ast.FunctionDef) and function.returns, stub.source
        assert all(argument.annotation for argument in function.args.args), stub.source
        planted = load_exercises(number)[key].planted
        if planted is None:
            assert ast.unparse(function.body[-1]) == "raise NotImplementedError"
        else:
            assert without_docstring(function) == without_docstring(tree_of(planted)), (
                "the planted fault, as it is checked"
            )
        assert checked.source == f'check("{key}", {function.name})'
        answer = ast.parse(solution.source).body[-1]
        assert isinstance(answer, ast.FunctionDef), solution.source
        assert (answer.name, ast.dump(answer.args)) == (function.name, ast.dump(function.args))


@pytest.mark.parametrize("number", [f"{number:02d}" for number in range(1, 12)])
def test_there_are_exercises(number):
    halves = [source for source in SOURCES if number_of(source)[:2] == number]
    assert sum(len(list(exercises_of(source))) for source in halves) >= FEWEST_EXERCISES
    assert all(list(exercises_of(source)) for source in halves)


# ---------------------------------------------------------------- what is stored


def text_outputs(notebook):
    """The stored outputs as text, pictures left out."""
    for cell in filter(is_code, notebook.cells):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (
                str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")
            )


@every_built
def test_a_built_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    set_up = next(filter(is_code, notebook.cells))
    assert set_up.outputs == [], "the first thing in sight is the question"
    outputs = [output for cell in filter(is_code, notebook.cells) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if build_notebooks.WIDGET_VIEW in output.get("data", {})]
    texts = [*text_outputs(notebook), *(cell.source for cell in notebook.cells)]
    assert [found[0] for text in texts for found in ABSOLUTE.finditer(text)] == []


def test_the_capstone_says_how_long_it_computes():
    """Its head gives minutes on free cores and on busy ones: what was stored up to section 4 lies between, or near."""
    [path] = [path for path in LEARNERS if path.name.startswith("10_")]
    [source] = build_notebooks.selected_sources(["10"], ROOT)
    notebook, head = nbformat.read(path, as_version=4), cells_of(source)[0].source
    free, busy = re.search(r"cores\s+compute for (\w+) minutes.+, for (\w+) where", head, re.S).groups()
    texts = itertools.takewhile(lambda cell: "## 4. " not in cell.source, notebook.cells)
    text = "\n".join(text_outputs(nbformat.v4.new_notebook(cells=list(texts))))
    bars = re.findall(r"100%\|#+\| \d+/\d+ \[(\d+):(\d+)<", text)
    seconds = sum(60 * int(minutes) + int(rest) for minutes, rest in bars)
    [training] = re.findall(r"training (\d+) s", text)
    assert len(bars) == 4
    assert 0.8 * IN_WORDS[free] <= (seconds + int(training)) / 60 <= 1.1 * IN_WORDS[busy]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_names_no_folder_of_the_machine_that_made_it(path):
    text = json.dumps(json.loads(path.read_text("utf-8")))
    assert [found[0] for found in ABSOLUTE.finditer(text)] == []
