"""The slides without a browser: what of a notebook stands on which slide, and what the files hold."""

import re

import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lora_edu.classroom.widgets import frames, predict
from lora_edu.classroom.widgets._show import STATIC
from tools import npm
from tools.slides import deck, markup, outline

SLUG = "ada/course"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = "Seven bars, of which the third is the highest"
HEAD = "# 01 · How small?\n\n[Open in Colab](x) · [Notation](y)\n\nWeights are many.\n\n**Time:** 5 minutes."


def text(*parts, tags=()):
    return new_markdown_cell("\n\n".join(parts), metadata={"tags": list(tags)})


def code(source, *outputs, tags=(), **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags), **metadata})


def picture():
    return new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": ALT}})


def value(shown):
    return new_output("execute_result", {"text/plain": shown})


def asked():
    question = predict("Which?", ["this", "that"], "that", "It is larger.")
    return new_output(
        "display_data", {"text/html": f'<div class="{STATIC} lora-edu-predict">{question.to_html()}</div>'}
    )


def slides(*cells):
    """Of a section with these cells, without the title's."""
    reader = markup.Markup(markup.Formulas())
    return outline.slides_of([text(HEAD), *cells], reader, lambda text: text)[1:]


def shown(slide):
    return BeautifulSoup(" ".join([slide.heading, slide.lead, *slide.body]), "html.parser").get_text(
        " ", strip=True
    )


def said(slide):
    notes = BeautifulSoup(" ".join(slide.notes), "html.parser").get_text(" ", strip=True)
    return re.sub(r"\s+", " ", notes)


# ---------------------------------------------------------------- what stands where


def test_the_first_slide_has_the_title_and_one_sentence():
    [title, *_] = outline.slides_of([text(HEAD)], markup.Markup(markup.Formulas()), lambda text: text)
    assert (title.kind, title.heading, title.section) == ("title", "How small?", "lora_edu · notebook 01")
    assert title.body == ["<p>Weights are many.</p>\n"] and said(title) == "Time: 5 minutes."


def test_a_section_begins_a_slide_and_its_text_is_said():
    [first, second] = slides(text("## 1. Why?", "One. Two.", "Three."), text("## 2. How?", "Four."))
    assert (first.heading, shown(first), said(first)) == ("1. Why?", "1. Why? One. Two.", "One. Two. Three.")
    assert shown(second) == "2. How? Four."


def test_of_a_long_first_paragraph_whole_sentences_are_shown():
    [slide] = slides(text("## 1. Why?", f"Short. Then {'word ' * 50}end."))
    assert shown(slide) == "1. Why? Short." and said(slide).endswith("word end.")


def test_a_question_stands_alone_and_its_answer_is_for_the_speaker():
    cells = [code('predict("01.1")', asked()), text("So it is that."), code("1 + 1", value("2"))]
    [section, question, after] = slides(text("## 1. Why?", "One."), code("x = 3\nx", value("3")), *cells)
    assert "Which?" in shown(question) and "3" not in shown(question) and "that" not in shown(section)
    assert said(question) == "Answer: that . It is larger."
    assert shown(after) == "So it is that. 1 + 1 2" and said(after) == "So it is that."


def test_a_picture_has_a_slide_and_the_call_that_draws_it_is_for_the_speaker():
    drawn = code("y = 1 + 1\ntitle = 'Low'\nfigures.bars(y, title)", picture())
    [slide, _] = slides(text("## 1. Why?", "One."), drawn, text("Two is low."), text("## 2. How?", "Four."))
    assert shown(slide) == "1. Why? y = 1 + 1" and "picture" in slide.kind
    assert BeautifulSoup(slide.body[-1], "html.parser").img["alt"] == ALT
    for_the_speaker = "Not on the slide but in the notebook: title = 'Low' figures.bars(y, title)"
    assert said(slide) == f"One. In the picture: {ALT} {for_the_speaker} Two is low."


def test_long_code_is_left_out_and_the_notes_say_so():
    [slide] = slides(text("## 1. Why?", "One."), code("\n".join(["x = 1"] * 13), value("7")))
    assert shown(slide) == "1. Why? One. 7" and said(slide).endswith("13 lines of code.")
    [slide] = slides(text("## 1. Why?", "One."), code("\n".join(["x = 1"] * 12)))
    assert "x = 1" in shown(slide)


def test_what_is_no_slide_is_on_none():
    folded = {"jupyter": {"source_hidden": True}}
    cells = [code("assert x", tags=["claim"], **folded), code('check("01.1", f)', value("not attempted"))]
    cells += [
        code("import torch", **folded),
        code('progress("01")', value("1 check")),
        code("z", tags=["slide-skip"]),
    ]
    [slide] = slides(text("## 1. Why?", "One."), *cells, text("Not this.", tags=["slide-skip"]))
    assert shown(slide) == "1. Why? One." and said(slide) == "One."


def test_a_tag_begins_a_slide():
    cells = [code("1", value("1")), code("2", value("2"))]
    assert len(slides(text("## 1. Why?", "One."), *cells)) == 1
    cells[1].metadata["tags"] = ["slide-split"]
    [_, second] = slides(text("## 1. Why?", "One."), *cells)
    assert shown(second) == "2 2" and second.section == "1. Why?"


def test_an_exercise_is_a_slide_with_its_question_and_its_hint_is_said():
    cells = [
        text(
            "## 1. Why?",
            "One.",
            "### Exercise 01.1 · Add (one star, 2 minutes)",
            "Write `add`.",
            "Also zero.",
        ),
        code("def add(x):\n    raise NotImplementedError", tags=["exercise"]),
        text("<details>\n<summary>Hint</summary>\n\nUse plus.\n\n</details>"),
        text("<details>\n<summary>Solution</summary>\n\n```python\nx + x\n```\n\n</details>"),
        code('check("01.1", add)', value("not attempted")),
        text("Then more."),
        code("3 + 3", value("6")),
    ]
    [_, exercise, after] = slides(*cells)
    assert re.match(r"Exercise 01.1 .* Write add . Also zero. def add", re.sub(r"\s+", " ", shown(exercise)))
    assert said(exercise) == "Hint Use plus."
    assert shown(after) == "Then more. 3 + 3 6"


def test_a_long_table_goes_on_on_the_next_slide():
    rows = "\n".join(f"| {number} | word |" for number in range(30))
    [first, second, third] = slides(text("## 1. Why?", "One.", f"| a | b |\n|---|---|\n{rows}"))
    assert all("a b" in shown(slide) for slide in (first, second, third))
    numbers = re.findall(r"\d+ word", shown(first) + " " + shown(second) + " " + shown(third))
    assert len(numbers) == 30


def test_a_formula_is_shown_with_its_source_and_what_it_says():
    cell = text(
        "## 1. Why?",
        "One.",
        "$$y = W x$$",
        "([Ada 1843](https://a.org), section 2.) It adds. Then " + "word " * 40,
    )
    [slide] = slides(cell)
    assert shown(slide) == "1. Why? One. \ue0000\ue001 Ada 1843 , section 2. It adds."


def test_the_last_slide_is_the_summary():
    [slide] = slides(text("## Summary", "- One.\n- Two.", "**Next question:** three?"))
    assert slide.kind == "end" and shown(slide) == "Summary One. Two. Next question: three?"


def test_more_than_a_slide_holds_begins_another():
    cells = [code("\n".join([f"a = {k}"] * 4), value("1")) for k in range(3)]
    found = slides(text("## 1. Why?", "One."), *cells)
    assert len(found) == 2 and all(slide.room >= 0 for slide in found)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("target", "book", "expected"),
    [
        ("02_b.ipynb", "../book", "../book/02_b.html"),
        ("../docs/notation.md", "..", "../notation.html"),
        ("02_b.ipynb", "", "https://github.com/ada/course/blob/main/notebooks/02_b.ipynb"),
        ("../data/runs", "../book", "https://github.com/ada/course/blob/main/data/runs"),
        ("https://arxiv.org/abs/1", "../book", "https://arxiv.org/abs/1"),
    ],
)
def test_a_link_leads_to_the_book_or_to_the_repository(target, book, expected):
    assert deck.address(target, SLUG, book) == expected


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with one deck."""
    folder = tmp_path_factory.mktemp("slides")
    film = {
        "labels": {"rank": ["1", "2"]},
        "start": [0],
        "width": 720,
        "frames": [["a.webp", "One"], ["b.webp", "Two"]],
    }
    (folder / "frames").mkdir()
    frames.write_json(folder / "frames" / frames.film_name("One"), film)
    for name in ("a.webp", "b.webp", "unused.webp"):
        (folder / "frames" / name).write_bytes(b"picture")
    static = {"text/html": f'<div class="{STATIC} lora-edu-explore">', "text/plain": "One"}
    cells = [
        text(HEAD),
        text("## 1. Which $r$?", "Here $x < y$, and from $5 to $6."),
        code("explore(draw)", picture(), new_output("display_data", static)),
        text("## Summary", "- $W$ stays. See [02](02_b.ipynb)."),
    ]
    try:
        deck.write_decks(
            {"01_small": new_notebook(cells=cells)}, folder / "frames", folder / "out", SLUG, "../book"
        )
    except npm.NodeMissing as error:
        pytest.skip(str(error))  # with CI=true, tests/ci_guard.py makes this a failure
    return folder / "out"


@pytest.fixture(scope="module")
def page(written):
    return BeautifulSoup((written / "01_small.html").read_text(encoding="utf-8"), "html.parser")


def test_a_deck_and_all_that_it_loads_lie_in_one_folder(written, page):
    loaded = [tag.get("src") or tag["href"] for tag in page.select("script[src], img[src], link")]
    assert "shared/reveal.js" in loaded and "frames/a.webp" in loaded
    assert [address for address in loaded if not (written / address).is_file()] == []
    assert sorted(path.name for path in (written / "frames").iterdir()) == ["a.webp", "b.webp"]
    assert 'href="01_small.html"' in (written / "index.html").read_text(encoding="utf-8")


def test_formulas_are_drawn_on_slides_as_html_and_in_notes_as_mathml(page):
    slide, notes = page.select("section .page")[1], page.select("aside")[1]
    assert [found.text for found in slide.select(".katex annotation")] == ["r"]
    assert [found.text for found in notes.select("annotation")] == ["x < y"]
    assert not notes.select(".katex-html") and "from $5 to $6" in notes.text and "\ue000" not in page.text


def test_the_slider_has_taken_the_place_of_its_picture(page):
    assert [image["src"] for image in page.select(".page img")] == ["frames/a.webp"]
    assert page.select_one(".page.picture figure.lora-edu-film script")


def test_the_end_leads_to_the_book_and_to_colab(page):
    links = [link["href"] for link in page.select(".page.end a")]
    assert links == [
        "../book/02_b.html",
        "../book/01_small.html",
        "https://colab.research.google.com/github/ada/course/blob/main/notebooks/01_small.ipynb",
    ]


def test_without_node_there_are_no_slides_and_a_line_says_so(monkeypatch, tmp_path, capsys):
    def missing():
        raise npm.NodeMissing("there is no node here")

    monkeypatch.setattr(npm, "node", missing)
    assert not deck.decks_written({}, tmp_path, tmp_path / "out", SLUG, "")
    assert (
        capsys.readouterr().out == "No slides: there is no node here.\n" and not (tmp_path / "out").exists()
    )


def test_a_formula_that_katex_refuses_is_named(written):
    formulas = markup.Formulas()
    formulas.hold(r"\nothing", {"display_mode": False})
    with pytest.raises(markup.FormulaWrong, match="nothing"):
        formulas.draw(npm.node(), npm.install() / "katex" / "dist" / "katex.min.js")
