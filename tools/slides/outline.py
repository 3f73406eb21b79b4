"""From a notebook to its slides: what stands on each, and what the speaker says.

A slide has one thing to look at: a picture, a slider, a question, an exercise, a table, a formula, or a few lines of
code with what they print. Text goes to the notes of the slide before it, which it explains. Three kinds of sentences
are shown: the first ones of a section, the last ones before code, and the first ones after a formula.
"""

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nbformat import NotebookNode

from tools.reading_time import MARKER, tags_of
from tools.slides import markup
from tools.slides.cells import code_before_the_last_call, picture_of, printed, text_of
from tools.slides.markup import GAP, Block, Markup

HEIGHT = 625
"""Pixels of a slide between its margins."""
HEADING_LETTERS, HEADING_LINE, SECTION_LINE = 48, 46, 28
WIDE_CODE = 72
"""Letters of a line of code in large letters."""
LITTLE = 300
"""A slide that holds no more than so many pixels has larger letters."""
MOST_CODE_LINES = 12
FEW_CODE_LINES = 3
"""So many may stand above a picture."""
LEAD_WORDS, CODE_WORDS, FORMULA_WORDS = 45, 40, 35
"""Of the sentences that are shown."""
FORMULA_HEIGHT = 110
IN_NOTES = "Not on the slide but in the notebook"
QUESTION_LETTERS = 62
QUESTION = re.compile(r"<p>(.*?)</p><ul>(.*?)</ul><details><summary>.*?</summary>(.*?)</details>", re.DOTALL)
STARS = re.compile(r" \(([^()]*minutes?)\)$")
"""How hard an exercise is, and how long it takes: the end of its heading."""
NOT_SHOWN = re.compile(r"(check|progress|forget_progress)\(|%%|#@title")
FOLDED = re.compile(r"\A<details>\s*<summary>(\w+)</summary>\s*(.*?)\s*</details>\s*\Z", re.DOTALL)
SOURCE = re.compile(r"\A\(((?:[^()]|\([^()]*\))*)\)\s*")
"""Where a formula is from: what stands in brackets right after it."""


@dataclass
class Slide:
    """HTML of a slide and of its notes."""

    heading: str = ""
    section: str = ""
    """The section's heading, on slides after its first."""
    kind: str = "plain"
    lead: str = ""
    lead_text: str = ""
    """The lead in Markdown."""
    lead_height: int = 0
    body: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    height: int = 0
    """Of the body, without the lead."""
    is_wide: bool = False
    """Lines of its code would break if its letters were larger."""
    full: bool = False
    """What comes next stands on another slide."""

    @property
    def room(self) -> int:
        """Pixels that are left below the heading and the lead."""
        heading = re.sub(r"<[^>]+>", "", self.heading)
        above = markup.lines_of(heading, HEADING_LETTERS) * HEADING_LINE + GAP if heading else 0
        return HEIGHT - above - (SECTION_LINE + GAP if self.section else 0) - self.lead_height - self.height

    @property
    def holds_little(self) -> bool:
        """Whether there is room for larger letters."""
        is_text = self.kind in ("plain", "section", "exercise")
        return is_text and self.lead_height + self.height <= LITTLE

    def holds(self, height: int) -> bool:
        """Whether so much more fits."""
        return not self.full and height <= self.room


class Outline:
    """Fills slides, one cell of a notebook after the other; `slides` are its result."""

    def __init__(self, reader: Markup, with_links: Callable[[str], str]) -> None:
        self._reader, self._with_links = reader, with_links
        self.slides: list[Slide] = []
        self._section = ""
        self._waiting: list[str] = []  # notes for the next slide
        self._between = False  # whether what is said belongs to the next slide
        self._said: Block | None = None  # the last paragraph, not yet in any notes

    # ---- slides

    def start(self, heading: str = "", kind: str = "plain") -> Slide:
        """Begin a slide."""
        section = "" if kind in ("title", "section", "end") else self._section
        self.slides.append(Slide(heading, section, kind, notes=self._waiting))
        self._waiting, self._between = [], False
        return self.slides[-1]

    def place(self, shown: str, height: int) -> Slide:
        """Put something on this slide, or else on a new one."""
        slide = self.slides[-1]
        if not slide.holds(height + GAP) and (slide.body or slide.lead or slide.full):
            slide = self.start()
        slide.body.append(shown)
        slide.height += height + GAP
        return slide

    def place_large(self, shown: str, kind: str, holds: Callable[[Slide], bool]) -> Slide:
        """Put a picture or a question on this slide, if that `holds` it, or else on one of its own."""
        slide = self.slides[-1]
        if slide.full or slide.kind in ("exercise", "end", "title") or not holds(slide):
            slide = self.start()
        slide.kind += f" {kind}"
        slide.body.append(shown)
        slide.full = True
        return slide

    def note(self, said: str) -> None:
        """Add to the notes of this slide, or of the next one where this one is done."""
        (self._waiting if self._between else self.slides[-1].notes).append(said)

    # ---- cells

    def add(self, cell: NotebookNode) -> None:
        """Go on with a cell."""
        tags = tags_of(cell)
        if "slide-skip" in tags:
            return
        if not self.slides and not cell.source.startswith("#"):
            self.start()
        if "slide-split" in tags and self.slides:
            self.say_rest()
            self.slides[-1].full = True
        if cell.cell_type == "markdown":
            self.text(self._with_links(cell.source))
        elif not cell.metadata.get("jupyter", {}).get("source_hidden"):
            self.code(cell)

    def text(self, source: str) -> None:
        """Go on with a cell of text."""
        if folded := FOLDED.match(source):
            if folded[1] == "Hint":
                self.note(f"<p><strong>Hint</strong></p>{self._reader.html(folded[2])}")
            return
        before: Block | None = None
        for block in self._reader.blocks(source):
            self.say_rest()
            self._block(block, before)
            before = block

    def say_rest(self) -> None:
        """A paragraph that no code has taken to its slide is said on the slide before."""
        if self._said:
            self.note(self._said.html)
        self._said = None

    def _block(self, block: Block, before: Block | None) -> None:
        slide = self.slides[-1] if self.slides else Slide()
        if block.kind == "heading":
            self._heading(block)
        elif slide.kind in ("title", "end") or ("exercise" in slide.kind and not self._between):
            self._shown_whole(slide, block)
        elif block.kind == "paragraph":
            self._paragraph(slide, block, before)
        elif block.kind == "table":
            self._table(block)
        elif block.kind == "math_block":
            self.place(f'<div class="formula">{block.html}</div>', FORMULA_HEIGHT)
        elif block.kind in ("bullet_list", "ordered_list", "fence"):
            self._list(block, before)
        else:
            self.note(block.html)

    def _heading(self, block: Block) -> None:
        level, _, text = block.source.partition(" ")
        if self.slides and not self.slides[-1].body and not self.slides[-1].lead:  # a heading alone
            self._waiting = [*self.slides.pop().notes, *self._waiting]
        heading = self._reader.inline(STARS.sub("", text))
        if stars := STARS.search(text):
            heading += f' <small class="mark">{stars[1]}</small>'
        if level == "#":
            number, _, title = text.partition(" · ")
            slide = self.start(self._reader.inline(title or number), "title")
            slide.section = f"lora_edu · notebook {number}" if title else ""
        elif level == "##":
            self._section = heading
            self.start(heading, "end" if text == "Summary" else "section")
        else:
            self.start(heading, "exercise" if text.startswith("Exercise") else "plain")

    def _shown_whole(self, slide: Slide, block: Block) -> None:
        """On the first slide one paragraph, on exercises and at the end all."""
        if "Open in Colab" in block.source:
            return
        if slide.kind == "title" and slide.body:
            self.note(block.html)
            return
        slide.body.append(block.html)
        slide.height += markup.text_height(block.source)

    def _paragraph(self, slide: Slide, block: Block, before: Block | None) -> None:
        self._said = block
        if not self._between and not slide.body and not slide.lead:
            if marker := MARKER.match(block.source):
                slide.heading += f' <small class="mark">{marker[1]}</small>'
            elif lead := markup.first_sentences(block.source, LEAD_WORDS):
                slide.lead, slide.lead_text = self._reader.html(lead), lead
                slide.lead_height = markup.text_height(lead)
        elif before and before.kind == "math_block" and not slide.full:
            self._below_formula(block.source)

    def _below_formula(self, text: str) -> None:
        """Where it is from, and the first sentences on it."""
        if source := SOURCE.match(text):
            text = text[source.end() :]
            self.place(f'<p class="source">{self._reader.inline(source[1])}</p>', markup.CODE_LINE)
        says = markup.first_sentences(text, FORMULA_WORDS)
        if says and self.slides[-1].holds(markup.text_height(says)):
            self.place(self._reader.html(says), markup.text_height(says))
        self.say_rest()  # lest code shows it a second time

    def _table(self, block: Block) -> None:
        for part, height in markup.table_parts(block.source, HEIGHT - HEADING_LINE - SECTION_LINE - 3 * GAP):
            self.place(self._reader.html(part), height)

    def _list(self, block: Block, before: Block | None) -> None:
        """A list, or a block of code, with the line that leads to it."""
        leads = before if before and before.kind == "paragraph" and before.source.endswith(":") else None
        shown, height = block.html, markup.text_height(block.source)
        if leads and markup.words(leads.source) <= LEAD_WORDS and not self._is_lead(leads.source):
            shown, height = leads.html + shown, height + markup.text_height(leads.source)
        if height > HEIGHT - HEADING_LINE - SECTION_LINE:
            self.note(block.html)
        else:
            self.place(f'<div class="list">{shown}</div>', height)

    def code(self, cell: NotebookNode) -> None:
        """Go on with a cell of code."""
        shown = "\n".join(text_of(output, "text/html") for output in cell.outputs)
        if "exercise" in tags_of(cell):
            self._stub(cell.source)
        elif NOT_SHOWN.match(cell.source):
            self.say_rest()
            self.slides[-1].full = self._between = True
        elif "lora-edu-predict" in shown:
            self._question(shown)
        elif picture := picture_of(cell):
            self._picture(cell, picture)
        else:
            self._experiment(cell.source, printed(cell))

    def _stub(self, source: str) -> None:
        if len(source.splitlines()) <= MOST_CODE_LINES:
            slide = self.slides[-1]
            slide.body.append(markup.code_html(source))
            slide.height += markup.code_height(source)
            slide.is_wide = max(map(len, source.splitlines())) > WIDE_CODE
        self.slides[-1].full = True

    def _question(self, shown: str) -> None:
        """A question, with room for the answer that a choice opens."""
        self.say_rest()
        question, choices, answer = QUESTION.findall(shown)[0]
        height = (
            markup.lines_of(question, QUESTION_LETTERS) * 47
            + markup.lines_of(answer, markup.LETTERS) * markup.LINE
        )
        height += math.ceil(len(re.sub(r"<.*?>", "   ", choices)) / QUESTION_LETTERS) * 72 + 4 * GAP
        slide = self.place_large(shown, "question", lambda slide: not slide.body and height <= slide.room)
        slide.notes.append(f"<p>Answer: {answer}</p>")

    def _picture(self, cell: NotebookNode, picture: str) -> None:
        """A picture. Code that computes what it shows comes before it; the call that draws it is for the speaker."""
        code = "" if "explore(" in cell.source else code_before_the_last_call(cell.source)
        if len(code.splitlines()) > MOST_CODE_LINES:
            code = ""
        if len(code.splitlines()) <= FEW_CODE_LINES:
            self.say_rest()
        if code:
            self._experiment(code, [])
        self.say_rest()
        few = FEW_CODE_LINES * markup.CODE_LINE + 3 * GAP
        slide = self.place_large(picture, "picture", lambda slide: slide.height <= few)
        slide.lead = ""
        alt = re.search(r' alt="([^"]*)"', picture)
        slide.notes.append(f"<p>In the picture: {alt[1] if alt else ''}</p>")
        slide.notes.append(f"<p>{IN_NOTES}:</p><pre>{html.escape(without_lines(cell.source, code))}</pre>")

    def _experiment(self, source: str, shown: Sequence[tuple[str, int]]) -> None:
        """Code and what it showed, below the sentence that leads to it; on more than one slide if it is much."""
        lines, said, most = source.splitlines(), self._said, HEIGHT - SECTION_LINE - GAP
        fits = markup.code_height(source) + sum(height + GAP for _, height in shown) <= most
        is_shown = len(lines) <= MOST_CODE_LINES and (fits or len(lines) > FEW_CODE_LINES)
        parts = [*([(markup.code_html(source), markup.code_height(source))] if is_shown else []), *shown]
        self._said = None
        if (
            leads := markup.last_sentences(self._not_yet_shown(said.source), CODE_WORDS)
            if said and parts
            else ""
        ):
            (first, height), *rest = parts
            parts = [(self._reader.html(leads) + first, height + markup.text_height(leads)), *rest]
        whole = "".join(part for part, _ in parts), sum(height + GAP for _, height in parts)
        for part, height in [whole] if 0 < whole[1] <= most else parts:
            self.place(part, height).is_wide |= is_shown and max(map(len, lines)) > WIDE_CODE
        if said:
            self.slides[-1].notes.append(said.html)
        if not is_shown:
            self.note(f"<p>{IN_NOTES}: {len(lines)} lines of code.</p>")

    def _not_yet_shown(self, text: str) -> str:
        """A paragraph without the sentences that this slide shows above all."""
        text, slide = " ".join(text.split()), self.slides[-1]
        return text if slide.body or slide.full else text.removeprefix(slide.lead_text)

    def _is_lead(self, text: str) -> bool:
        return not self._not_yet_shown(text)


# ---------------------------------------------------------------- all of them


def without_lines(source: str, lines: str) -> str:
    """A source without lines of it."""
    gone = set(lines.splitlines())
    return "\n".join(line for line in source.splitlines() if line not in gone).strip()


def slides_of(cells: Iterable[NotebookNode], reader: Markup, with_links: Callable[[str], str]) -> list[Slide]:
    """The slides of a notebook.

    Parameters
    ----------
    cells : iterable of NotebookNode
        Executed, and made alive by `lora_edu.classroom.widgets.pages.make_pages_live`.
    reader : Markup
    with_links : callable
        Turns the addresses in Markdown into those that a slide needs.
    """
    outline = Outline(reader, with_links)
    for cell in cells:
        outline.add(cell)
    outline.say_rest()
    return outline.slides
