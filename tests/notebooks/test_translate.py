"""Translations: texts out to .po files and back, what a translation may not lose, and the German notebooks."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import polib
import pytest

from tools import build_notebooks, working_copies
from tools.set_repo import present_slug
from tools.translate import catalogs, guard, products, texts
from tools.translate.__main__ import main

ROOT = texts.ROOT
GERMAN = [path for number in ("00", "04") for path in products.products("de", texts.source_of(number))]


def english_of(path):
    """The English notebook to which a German one belongs."""
    return Path(str(path).replace("/notebooks/de/", "/notebooks/"))


def read(path):
    return nbformat.read(path, as_version=4)


def copy_of_the_code(folder):
    """Package and tools; copies, since a build writes into the package."""
    (folder / "notebooks" / "src").mkdir(parents=True)
    for name in ("lora_edu", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def course(tmp_path):
    """A course with the package and the tools, the sources of 00 and 04, and no translation."""
    copy_of_the_code(tmp_path)
    for number in ("00", "04"):
        shutil.copy(texts.source_of(number), tmp_path / "notebooks" / "src")
    return tmp_path


def translate(course, catalog, change, language="fr"):
    """Extract a catalog and give each entry the translation that `change` makes; None: none."""
    path = catalogs.extract(language, catalog, course)
    found = polib.pofile(str(path), wrapwidth=catalogs.WIDTH)
    for entry in found:
        entry.msgstr = change(entry) or ""
    found.save(str(path))
    catalogs.extract(language, catalog, course)
    return path


def edit(course, number, old, new):
    source = texts.source_of(number, course)
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new), encoding="utf-8")


def entry_of(path, beginning):
    [entry] = [e for e in polib.pofile(str(path)) if e.msgid.startswith(beginning)]
    return entry


# ---------------------------------------------------------------- the German notebooks


def test_the_translated_notebooks_are_those_that_are_meant():
    assert sorted((ROOT / "notebooks" / "de").rglob("*.ipynb")) == sorted(GERMAN)


@pytest.mark.parametrize("catalog", [texts.PACKAGE, *catalogs.present("de")])
def test_nothing_is_left_in_english_by_oversight(catalog):
    count = catalogs.count("de", catalog)
    assert (count.percent, count.fuzzy) == (100, 0) and count.total > 50
    same = [
        english for (_, english), german in catalogs.translations("de", catalog).items() if english == german
    ]
    assert not [text for text in same if re.search(r"[a-z]{3,}.* .*[a-z]{3,}", re.sub("{.*?}", "", text))]


def test_status_says_how_much_is_translated(capsys):
    assert main(["status", "de"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert {line[0]: line[-2:] for line in lines} == {name: ["100", "%"] for name in ("package", "00", "04")}


def test_what_is_stored_is_what_the_catalogs_say():
    assert products.check("de") == []


@pytest.mark.parametrize("path", GERMAN, ids=lambda path: f"{path.parent.name} {path.name}")
def test_code_is_equal_byte_for_byte(path):
    german, english = read(path).cells, read(english_of(path)).cells
    assert [cell.id for cell in german] == [cell.id for cell in english]
    pairs = [(a, b) for a, b in zip(german, english, strict=True) if b.cell_type == "code"]
    assert len(pairs) > 20
    for a, b in pairs:
        assert (a.cell_type, a.source.encode(), a.metadata) == (b.cell_type, b.source.encode(), b.metadata)
    for a, b in zip(german, english, strict=True):
        assert b.cell_type == "code" or not re.search("[A-Za-z]{3}", b.source) or a.source != b.source


@pytest.mark.parametrize("path", GERMAN, ids=lambda path: f"{path.parent.name} {path.name}")
def test_every_link_leads_somewhere(path):
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    links = [link for cell in cells for link in guard.LINK.findall(cell)]
    near = [link for link in links if "://" not in link]
    assert len(near) >= 2 and all((path.parent / link).resolve().is_file() for link in near)
    far = [link for link in links if link.startswith(("https://colab", "https://mybinder"))]
    assert len(far) == 2 and all(link.endswith(path.relative_to(ROOT).as_posix()) for link in far)


def test_a_link_stays_in_the_language_where_it_can(course):
    for catalog in (texts.PACKAGE, "04"):
        translate(course, catalog, lambda entry: entry.msgid)
    for folder, neighbour, other in (
        ("notebooks/fr", "04_lora_from_scratch.ipynb", "../01_rank_and_svd.ipynb"),
        ("notebooks/fr/solutions", "04_lora_from_scratch.ipynb", "../../solutions/01_rank_and_svd.ipynb"),
    ):
        words = products.Translation("fr", folder, course)
        assert words.link("04_lora_from_scratch.ipynb") == neighbour
        assert words.link("01_rank_and_svd.ipynb") == other
    assert words.cell("04-0", "[01](01_a.ipynb), `f[0](x)`") == "[01](../../solutions/01_a.ipynb), `f[0](x)`"
    assert words.link("https://arxiv.org/abs/1") == "https://arxiv.org/abs/1" and words.link("#a") == "#a"


def test_outputs_are_in_german():
    shown = json.dumps(read(GERMAN[2]).cells, ensure_ascii=False)
    for german in (
        "noch offen",
        "Erst entscheiden",
        "Eine LoRA-Schicht mit 4 Ausgaben",
        "Notebook 04: 5 Prüfungen.",
    ):
        assert german in shown
    for english in ("not attempted", "Decide first", "A LoRA layer with", "checks."):
        assert english not in shown


# ---------------------------------------------------------------- out and back


def test_text_that_goes_out_and_back_unchanged_makes_the_same_notebook(course):
    for catalog in (texts.PACKAGE, "00", "04"):
        translate(course, catalog, lambda entry: entry.msgid)
    slug = present_slug(course)
    for number in ("00", "04"):
        source = texts.source_of(number, course)
        for target in build_notebooks.products(source, course):
            path = target.relative_to(course).as_posix()
            words = products.Translation("fr", target.parent.relative_to(course).as_posix(), course)
            made = build_notebooks.compose(source, path, slug, words)
            made.cells[0].source = made.cells[0].source.replace(f"{words.notice()}\n\n", "")
            assert made == build_notebooks.compose(source, path, slug)
            assert words.texts and words.notice()


def test_texts_are_those_of_the_cells_predictions_hints_and_figures():
    contexts = {(entry.context, entry.english) for entry in texts.entries("04")}
    assert ("prediction 04.3 choice", "neither") in contexts
    assert ("exercise 04.4 hint", "The learning rate is missing.") in contexts
    assert ("label", "added to {factor}[{row}, {column}]") in contexts and ("label", "both zero") in contexts
    cells = {cell.id for cell in read(ROOT / "notebooks" / "04_lora_from_scratch.ipynb").cells}
    assert {context for context, _ in contexts if context.startswith("04-")} <= cells
    package = {(entry.context, entry.english) for entry in texts.entries(texts.PACKAGE)}
    assert ("say", "Right.") in package and ("label", "not attempted") in package
    assert ("page", "{total} minutes") in package


@pytest.mark.parametrize("source", build_notebooks.selected_sources([], ROOT), ids=lambda source: source.stem)
def test_every_notebook_can_be_extracted(source):
    found = texts.entries(source.stem.split("_")[0])
    assert len({(entry.context, entry.english) for entry in found}) == len(found) > 30
    assert not [entry for entry in found if list(guard.faults(entry.context, entry.english, entry.english))]


def test_a_changed_text_keeps_its_translation_and_waits_for_a_look(course):
    path = translate(course, "04", lambda entry: f"{entry.msgid} (fr)")
    edit(course, "04", "Before training, the wrapped layer gives", "Before training, our wrapped layer gives")
    catalogs.extract("fr", "04", course)
    entry = entry_of(path, "Before training, our")
    assert entry.fuzzy and entry.previous_msgid.startswith("Before training, the")
    assert entry.msgstr.endswith("the base gives. (fr)")
    assert sum(other.fuzzy for other in polib.pofile(str(path))) == 1
    assert catalogs.count("fr", "04", course).percent == 99
    before = path.read_bytes()
    catalogs.extract("fr", "04", course)
    assert path.read_bytes() == before  # and a second time changes nothing


def test_a_text_that_is_gone_is_kept_for_its_return(course):
    path = translate(course, "00", lambda entry: f"{entry.msgid} (fr)")
    whole = path.read_bytes()
    line = "# Hint and solution open on a click. All answers are in `notebooks/solutions/`."
    edit(course, "00", line, "# Yes.")
    catalogs.extract("fr", "00", course)
    [gone] = [entry for entry in polib.pofile(str(path)) if entry.obsolete]
    assert gone.msgstr.endswith("(fr)") and not entry_of(path, "Yes.").msgstr
    edit(course, "00", "# Yes.\n", f"{line}\n")
    catalogs.extract("fr", "00", course)
    assert path.read_bytes() == whole


def test_a_missing_or_fuzzy_entry_stays_english(course):
    translate(course, texts.PACKAGE, lambda entry: None)
    path = translate(
        course, "04", lambda entry: None if entry.msgid.startswith("Equal.") else f"{entry.msgid} (fr)"
    )
    catalog = polib.pofile(str(path))
    for entry in catalog:
        if entry.msgid.startswith(("Before training", "Almost: your update")):
            entry.flags = ["fuzzy"]
    catalog.save(str(path))
    target = course / "notebooks" / "fr" / "04_lora_from_scratch.ipynb"
    sources = [cell.source for cell in products.composed("fr", target, course).cells]
    assert any(source.startswith("Equal.") and "(fr)" not in source for source in sources)
    assert any(source.startswith("Before training") and "(fr)" not in source for source in sources)
    assert any(source.startswith("For a test") and source.endswith("(fr)") for source in sources)
    hints = json.loads(products.looked_up("fr", course))["exercise 04.1 hint"]
    assert len(hints) == 15 and not [hint for hint in hints if hint.startswith("Almost")]


# ---------------------------------------------------------------- what a translation may not lose


@pytest.mark.parametrize(
    ("context", "english", "translation", "fault"),
    [
        ("say", "{count} checks", "des tests", "the place {count} is lost"),
        ("say", "{count:,} numbers", "{count} nombres", "the place {count:,} is lost"),
        ("say", "{count} checks", "{count} {cont}", "the place {cont} is not in the source"),
        ("say", "{count} checks", "{count tests", "its braces do not close"),
        ("page", "{total} minutes", "minutes", "the place {total} is lost"),
        ("04-0f1d0c2e", "**Time:** {minutes}.", "**Temps.**", "the place {minutes} is lost"),
        ("04-0f1d0c2e", "$B$ and $A$ are thin.", "$B$ est mince.", "the formula $A$ is lost"),
        ("04-0f1d0c2e", "So $y = W x$.", "Donc $y = W X$.", "the formula $y=Wx$ is lost"),
        ("04-0f1d0c2e", "Run `check`.", "Lance check.", "the code `check` is lost"),
        ("exercise 04.1 hint", "Where is `keep`?", "Où ?", "the code `keep` is lost"),
        ("04-0f1d0c2e", "See [01](01_a.ipynb).", "Voir [01](01_b.ipynb).", "the link 01_a.ipynb is lost"),
        ("04-0f1d0c2e", "## Title\n\nText", "Titre\n\nTexte", "the heading ## is lost"),
        ("04-0f1d0c2e", "| a | b |\n|---|---|", "| a |\n|---|---|", "a table row of 3 bars is lost"),
        ("say", " and ", "et", "the white space at an end ' ' is lost"),
    ],
)
def test_a_loss_is_named(context, english, translation, fault):
    assert any(fault in found for found in guard.faults(context, english, translation))
    assert not list(guard.faults(context, english, english))


def test_order_line_breaks_and_a_repeated_formula_are_free():
    english = "$A$ reads `x @\nA`, and $B$\nwrites. {minutes}"
    assert not list(guard.faults("04-0f1d0c2e", english, "{minutes} $B$ écrit, $B$ !, $A$ lit `x @ A`."))
    assert not list(
        guard.faults("exercise 04.1 hint", "W is {1}.", "W est {2}.")
    )  # nothing is filled in there


def test_a_lost_place_stops_the_build_and_names_file_and_entry(course, capsys):
    translate(course, texts.PACKAGE, lambda entry: "contrôles" if entry.msgid == "{count} checks" else None)
    assert main(["build", "fr"], course) == 1
    said = capsys.readouterr().err
    assert "translations/fr/package.po, line" in said and "'say' ({count} checks)" in said
    assert "the place {count} is lost" in said
    assert not (course / "notebooks" / "fr").exists() and not products.lookup_file("fr", course).exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'msgid "a"\nmsgstr "b\n', "cannot be read"),
        ('msgid "a"\nmsgstr "\u00e9"\n'.encode("latin-1"), "cannot be read"),
        (b"\x00\x01garbage", "cannot be read"),
        (
            b'msgctxt "say"\nmsgid "Right."\nmsgstr "1"\n\nmsgctxt "say"\nmsgid "Right."\nmsgstr "2"\n',
            "twice",
        ),
    ],
)
@pytest.mark.parametrize("command", ["build", "status", "extract"])
def test_a_broken_file_is_named(course, capsys, content, reason, command):
    path = catalogs.path_of("fr", texts.PACKAGE, course)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert main([command, "fr"], course) == 1
    said = capsys.readouterr().err
    assert "translations/fr/package.po" in said and reason in said
    assert path.read_bytes() == content


def test_what_is_not_there_is_named(course, capsys):
    assert main(["build", "fr"], course) == 1
    assert "extract fr package" in capsys.readouterr().err
    assert main(["extract", "fr", "77"], course) == 1
    assert "77" in capsys.readouterr().err
    for language in ("en", "French", "../de"):
        assert main(["extract", language], course) == 1
        assert "LANG must be" in capsys.readouterr().err


def test_one_text_has_one_translation(course):
    translate(course, texts.PACKAGE, lambda entry: None)
    translate(course, "00", lambda entry: None)
    path = translate(course, "04", lambda entry: "perte" if entry.msgid == "loss" else None)
    catalog = polib.pofile(str(catalogs.path_of("fr", "00", course)))
    edit(course, "00", 'ylabel="share of events"', 'ylabel="loss"')
    catalog = polib.pofile(str(catalogs.extract("fr", "00", course)))
    next(entry for entry in catalog if entry.msgid == "loss").msgstr = "coût"
    catalog.save(str(catalogs.path_of("fr", "00", course)))
    with pytest.raises(
        guard.TranslationError, match=r"04\.po, 'label' \(loss\): 'perte', but another file says 'coût'"
    ):
        products.looked_up("fr", course)
    assert path.is_file()


def test_two_choices_that_read_the_same_are_refused(course):
    translate(course, texts.PACKAGE, lambda entry: None)
    translate(course, "04", lambda entry: "aucun" if entry.msgid in ("neither", "never", "both") else None)
    with pytest.raises(
        guard.TranslationError, match=r"04\.po, 'prediction 04\.3 choice': two choices read the same"
    ):
        products.looked_up("fr", course)


def test_a_sentence_of_the_package_must_be_written_out(course):
    module = course / "lora_edu" / "classroom" / "said.py"
    module.write_text("from lora_edu.classroom.language import say\nname = 'x'\nsay(f'{name} is {name}')\n")
    with pytest.raises(ValueError, match=r"said\.py, line 3: a text to translate must be written out"):
        texts.entries(texts.PACKAGE, course)


def test_what_an_editor_of_catalogs_notes_stays(course):
    path = translate(course, "04", lambda entry: None)
    file = polib.pofile(str(path), wrapwidth=catalogs.WIDTH)
    file.metadata["Last-Translator"], file[0].tcomment = "Anne", "Is this clear?"
    file.save(str(path))
    before = path.read_bytes()
    catalogs.extract("fr", "04", course)
    assert (
        path.read_bytes() == before and b"Last-Translator: Anne" in before and b"# Is this clear?" in before
    )


# ---------------------------------------------------------------- a new language, to the end

TRIAL = """\
# %% [markdown]
# # 42 · A trial
# It has goals. **Time:** {minutes}.

# %%
import os

from lora_edu.classroom.widgets import compare, predict

# %%
compare(before=["a"], loss=["b"])

# %%
predict("Well?", ["yes", "no"], answer="no")
"""
FRENCH = {
    "# 42 · A trial": "# 42 · Un essai\nIl a des buts. **Durée :** {minutes}.",
    "before": "avant",
    "loss": "perte",
    "Decide first, then open the answer": "Décide d'abord",
    "{total} minutes": "{total} min",
}


def test_a_new_language_is_built_and_speaks(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LORA_EDU_LANGUAGE", "de")  # of the person who builds; no notebook's
    course = copy_of_the_code(tmp_path)
    (course / "notebooks" / "src" / "42_trial.py").write_text(TRIAL, encoding="utf-8")
    assert main(["extract", "fr", "42"], course) == 0
    for catalog in ("package", "42"):
        path = catalogs.path_of("fr", catalog, course)
        found = polib.pofile(str(path))
        for entry in found:
            entry.msgstr = next((fr for en, fr in FRENCH.items() if entry.msgid.split("\n")[0] == en), "")
        found.save(str(path))
    python = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{course}{os.pathsep}{python}")
    assert main(["build", "fr"], course) == 0
    notebook = read(course / "notebooks" / "fr" / "42_trial.ipynb")
    assert notebook.cells[0].source.startswith("# 42 · Un essai\n") and "5 min" in notebook.cells[0].source
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells], ensure_ascii=False)
    assert "avant" in shown and "perte" in shown and "Décide d'abord" in shown and "before" not in shown
    assert main(["build", "fr", "--check"], course) == 0
    capsys.readouterr()
    assert main(["build", "fr"], course) == 0
    assert capsys.readouterr().out.count("up to date") == 2
    (course / "notebooks" / "fr" / "42_trial.ipynb").unlink()
    assert main(["build", "fr", "--check"], course) == 1
    assert "42_trial.ipynb: it does not exist" in capsys.readouterr().err


def test_a_learner_gets_copies_of_a_translation_too(tmp_path):
    working_copies.copy_all(ROOT / "notebooks", tmp_path)
    copies = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.ipynb"))
    assert "00_start_here.ipynb" in copies and "de/04_lora_from_scratch.ipynb" in copies
    assert not [copy for copy in copies if "solutions" in copy or "src" in copy]
