"""A Sphinx extension for two things that the book needs of its own.

- On each page the first use of every word of the glossary leads to it, and says its meaning under the pointer.
- Formulas as they are in the source, for a machine without node: Sphinx' own way would ask a server for MathJax.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from tools.book.sources import glossary_terms

NOT_IN = (nodes.reference, nodes.literal, nodes.title, nodes.math, nodes.table, nodes.image, nodes.raw)
SHORT = 16
"""Letters of a formula that fits the narrowest page whole."""
EVERYDAY = {"code", "down", "gate", "head", "kernel", "label", "level", "term", "up"}
"""Words that the text also uses in their everyday sense."""


# ---------------------------------------------------------------- words of the glossary


def pattern_of(words: list[str]) -> re.Pattern[str]:
    """Finds any of the words, the longest first, singular or plural; capitals count in words that are all capitals."""
    longest_first = sorted(words, key=len, reverse=True)
    forms = [form_of(word) if word.isupper() else f"(?i:{form_of(word)})" for word in longest_first]
    return re.compile(rf"(?<![\w-])({'|'.join(forms)})(?:s|es)?(?![\w-])")


def form_of(word: str) -> str:
    """A pattern for a word in a text whose lines may break at any space."""
    return r"\s+".join(map(re.escape, word.split()))


def texts_of(document: nodes.document) -> Iterator[nodes.Text]:
    """What is read as a sentence, in the order of the page."""
    for paragraph in document.findall(nodes.paragraph):
        if _inside(paragraph, (nodes.table,)):
            continue
        for element in paragraph.findall(nodes.Element):
            join_lines(element)
        for text in list(paragraph.findall(nodes.Text)):
            if not _inside(text, NOT_IN):
                yield text


def join_lines(element: nodes.Element) -> None:
    """Make one text, in place, of each row of texts: a line break of the source is a text of its own."""
    joined: list[nodes.Node] = []
    for child in element.children:
        if isinstance(child, nodes.Text) and joined and isinstance(joined[-1], nodes.Text):
            joined[-1] = nodes.Text(joined[-1].astext() + child.astext())
        else:
            joined.append(child)
    element[:] = joined


def _inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent
    return False


def link_terms(app: Sphinx, document: nodes.document) -> None:
    """Make, in place, the first use of each word a link to the glossary."""
    page = app.env.docname
    if not page[:2].isdigit():
        return
    terms = {word: entry for word, entry in glossary_terms().items() if word not in EVERYDAY}
    by_form = {word.lower(): entry for word, entry in terms.items()}
    pattern, linked = pattern_of(list(terms)), set()
    for text in texts_of(document):
        pieces: list[nodes.Node] = []
        whole, done = text.astext(), 0
        for found in pattern.finditer(whole):
            place, meaning = by_form[" ".join(found[1].lower().split())]
            if place not in linked:
                linked.add(place)
                pieces += [nodes.Text(whole[done : found.start()]), _link(found[0], place, meaning)]
                done = found.end()
        if pieces and text.parent is not None:
            text.parent.replace(text, [*pieces, nodes.Text(whole[done:])])


def _link(text: str, place: str, meaning: str) -> nodes.reference:
    link = nodes.reference("", "", nodes.Text(text), internal=True, refuri=f"glossary.html#{place}")
    link["reftitle"], link["classes"] = re.sub(r"[`*]|\]\(.*?\)|\[", "", meaning), ["term"]
    return link


# ---------------------------------------------------------------- formulas in a sentence


def keep_commas(app: Sphinx, document: nodes.document) -> None:
    """Keep, in place, a short formula and the comma behind it on one line."""
    for formula in list(document.findall(nodes.math)):
        behind = formula.next_node(descend=False, siblings=True)
        if isinstance(behind, nodes.Text) and len(formula.astext()) <= SHORT:
            comma = re.match(r"[,.;:!?)]*", behind)
            if comma and comma[0]:
                kept = nodes.inline("", "", formula.deepcopy(), nodes.Text(comma[0]), classes=["unbroken"])
                formula.parent.replace(behind, nodes.Text(behind[comma.end() :]))
                formula.parent.replace(formula, kept)


# ---------------------------------------------------------------- formulas where no node is


def source_inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(f'<code class="formula">{writer.encode(node.astext())}</code>')
    raise nodes.SkipNode


def source_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<pre class="formula">{writer.encode(node.astext())}</pre>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("doctree-read", link_terms)
    app.connect("doctree-read", keep_commas)
    app.add_html_math_renderer("source", (source_inline, None), (source_block, None))
    return {"parallel_read_safe": True}
