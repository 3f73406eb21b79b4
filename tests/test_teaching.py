"""docs/teaching/ against the notebooks: sections, minutes, polls and links. What it says cannot rot unseen."""

import re

import pytest

from lora_edu.classroom.predictions import load_predictions
from tools import build_notebooks, teaching

ROOT = teaching.ROOT
NOTEBOOKS = [path.name.partition("_")[0] for path in sorted(teaching.SOURCES.glob(build_notebooks.SOURCES))]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(teaching.TEACHING.glob("*.md"))}
PLAN = teaching.read_plan()
SHEETS = [sheet for sheet in PLAN["sheets"] if "rows" in sheet]
PARTS = {
    head[:3].strip(): body
    for head, body in re.findall(r"^## (\d\d.*?)\n(.*?)(?=^## |\Z)", PAGES["notes"], re.M | re.S)
}
POLL = re.compile(r"^\| (\d\d\.\d+) \| (.*?) \| (.*) \|$", re.M)
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]+))?\)")


# ---------------------------------------------------------------- run sheets


def test_the_page_of_run_sheets_is_what_the_plan_says():
    assert PAGES["run_sheets"] == teaching.page(PLAN), "run `python -m tools.teaching`"


@pytest.mark.parametrize("sheet", SHEETS, ids=[sheet["title"] for sheet in SHEETS])
def test_a_sheet_adds_up_and_gives_each_section_its_time(sheet):
    table = PAGES["run_sheets"].split(f"# {sheet['title']}\n", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| (\d+)\u2011(\d+) \| (.+?) \| (.*?) \| (.*) \|$", table, re.M)
    starts, ends = ([int(row[side]) for row in rows] for side in (0, 1))
    assert starts == [0, *ends[:-1]] and ends[-1] == sheet["minutes"]
    for start, end, what, _, do in rows:
        named = re.fullmatch(r"\[(\w+) · (.*)\]\(.*\)", what)
        if named:
            assert int(end) - int(start) >= 0.75 * reading_minutes(named[1], named[2], do)


def reading_minutes(notebook, heading, do):
    """The course's minutes for a section, whose heading the source must have, without what the row skips."""
    text = teaching.source_of(notebook).read_text(encoding="utf-8")
    assert f"\n# ## {heading}\n" in text
    skipped = do.partition("Skip ")[2]
    left_out = {*re.findall(r'"(.*?)"[,.]', skipped), *re.findall(r"exercise (\d\d\.\d+)", skipped)}
    return sum(
        part.minutes
        for part in teaching.sections_of(teaching.source_of(notebook))[heading]
        if part.name not in left_out
    )


def test_the_parts_of_a_notebook_take_together_what_the_course_says():
    source = teaching.source_of("08")
    parts = [part for parts in teaching.sections_of(source).values() for part in parts]
    told = build_notebooks.minutes_of(source, build_notebooks.read_source(source)).total
    assert abs(sum(part.minutes for part in parts) - told) < 4  # told in steps of five, opening included


def test_every_prediction_and_exercise_is_in_one_section():
    for notebook in NOTEBOOKS:
        source = teaching.source_of(notebook)
        parts = [part for parts in teaching.sections_of(source).values() for part in parts]
        assert [poll for part in parts for poll in part.polls] == list(load_predictions(notebook))
        text = source.read_text(encoding="utf-8")
        asked = re.findall(r"^# ### Exercise (\d\d\.\d+)", text, re.M)
        assert [part.name for part in parts if re.match(r"\d\d\.", part.name)] == asked


def test_a_term_shows_every_notebook_and_names_no_section_that_is_not_there():
    term = PAGES["run_sheets"].partition("## A term")[2]
    assert {number for number in NOTEBOOKS if f"[{number} · " in term} == set(NOTEBOOKS)


def planned(at, minutes, **more):
    """A sheet of one row."""
    return {"title": "short", "minutes": minutes, "rows": [{"at": at, "min": minutes, **more}]}


@pytest.fixture
def changed(tmp_path):
    """A copy of a notebook's source in which a text was replaced; its folder."""

    def copy(notebook, old, new):
        source = teaching.source_of(notebook)
        text = source.read_text(encoding="utf-8")
        assert old in text
        (tmp_path / source.name).write_text(text.replace(old, new), encoding="utf-8")
        return tmp_path

    return copy


def test_a_heading_that_was_changed_is_told(changed):
    folder = changed("05b", "## 1. Which memory is saved, and which is not?", "## 1. Which memory?")
    with pytest.raises(teaching.PlanError, match="says nothing of '1"):
        teaching.rows_of(planned("05b § 1", 9), PLAN, folder)


def test_a_section_that_is_gone_is_told(changed):
    folder = changed("05b", "## 3. How far", "### How far")
    with pytest.raises(teaching.PlanError, match="has no section '3'"):
        teaching.rows_of(planned("05b § 3", 9), PLAN, folder)


def test_a_section_that_grew_is_told(changed):
    assert len(teaching.rows_of(planned("05b § 3", 3), PLAN)) == 1
    folder = changed("05b", "# A server could swap", f"# {'word ' * 700}\n# A server could swap")
    with pytest.raises(teaching.PlanError, match="05b § 3 needs at least"):
        teaching.rows_of(planned("05b § 3", 3), PLAN, folder)


def test_a_sheet_that_does_not_add_up_is_told():
    sheet = SHEETS[0] | {"minutes": SHEETS[0]["minutes"] + 1}
    with pytest.raises(teaching.PlanError, match="take 50 minutes, not 51"):
        teaching.rows_of(sheet, PLAN)


def test_an_exercise_that_is_elsewhere_is_told():
    with pytest.raises(teaching.PlanError, match="04 § 3 has no part"):
        teaching.rows_of(planned("04 § 3", 30, do=["04.1"]), PLAN)


# ---------------------------------------------------------------- notes


def test_every_notebook_has_its_part():
    assert list(PARTS) == NOTEBOOKS
    for part in PARTS.values():
        words = (
            "**Afterwards they can**",
            "**In the exercise",
            "**Board.**",
            "**Exam.**",
            "Answer: ",
            "Points:",
        )
        assert [word for word in words if word not in part] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_polls_have_the_right_answer_and_say_what_each_wrong_one_tells(notebook):
    rows = {key: (right, instead) for key, right, instead in POLL.findall(PARTS[notebook])}
    questions = load_predictions(notebook)
    assert list(rows) == list(questions)
    for key, question in questions.items():
        right, instead = rows[key]
        wrong = {choice for choice in question.choices if choice != question.answer}
        assert (right, set(re.findall(r"\*(.+?)\*:", instead))) == (question.answer, wrong)


def test_exercises_named_in_the_notes_are_there():
    for notebook, part in PARTS.items():
        line = re.search(r"\*\*In the exercises?\*\*(.*?)\n\n", part, re.S)[1]
        named = re.findall(r"\d\d\.\d+", line)
        source = teaching.source_of(notebook).read_text(encoding="utf-8")
        assert named and [key for key in named if f'check("{key}"' not in source] == []


def test_every_exam_question_names_its_points():
    for part in PARTS.values():
        told = re.search(r"\((\d+)\s+points\)\*", part)
        assert told and 4 <= int(told[1]) <= 10


# ---------------------------------------------------------------- the test, and links


def test_the_key_has_every_question_and_tells_of_every_wrong_choice():
    page = PAGES["test"]
    questions = re.findall(r"^\*\*(\d+)\. [^*]*\*\*\n\n((?:- \w\) .*\n)+)", page, re.M)
    rows = re.findall(r"^\| (\d+) \| (\w) \| (.*?) \|", page, re.M)
    key = {number: (right, told) for number, right, told in rows}
    assert list(key) == [number for number, _ in questions] and len(key) == 10
    for number, choices in questions:
        letters = re.findall(r"^- (\w)\)", choices, re.M)
        right, told = key[number]
        assert letters == list("abcde") and right in letters
        told_of = ", ".join(re.findall(r"\b([a-d](?:, [a-d])*): ", told)).split(", ")
        assert sorted(told_of) == sorted(set("abcd") - {right})


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_to_headings(page):
    for target, place in set(LINK.findall(PAGES[page])):
        if re.match("[a-z]+:", target):
            continue
        path = (teaching.TEACHING / target).resolve() if target else teaching.TEACHING / f"{page}.md"
        assert path.exists(), target
        if place:
            assert place in headings(path), f"{target}#{place}"


def headings(path):
    """The places of a page's headings; those of a notebook are read in its source."""
    if path.suffix == ".ipynb":
        text = (teaching.SOURCES / f"{path.stem}.py").read_text(encoding="utf-8")
        return {teaching.slug(heading) for heading in re.findall(r"^# #+ (.*)$", text, re.M)}
    return {
        teaching.slug(heading) for heading in re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    }


def test_every_page_is_in_the_book_and_the_first_leads_to_all():
    assert set(PAGES) == set(teaching.PAGES)
    assert [name for name in teaching.PAGES[1:] if f"]({name}.md" not in PAGES["teaching"]] == []
