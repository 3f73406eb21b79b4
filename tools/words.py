"""The language of a built notebook's text; its code is the same in all.

`Words` is English, where everything stays as the source says it. `tools.translate` has the others.
"""


class Words:
    """What a notebook says beside its code, by language; this class is English."""

    def cell(self, key: str, english: str) -> str:
        """The text of the Markdown cell with the id `key`, the builder's own words not yet in it."""
        return english

    def title(self, first_cell: str) -> str:
        """The first line, with its ``# ``, of a notebook whose first cell reads so in English."""
        return first_cell.partition("\n")[0]

    def phrase(self, english: str, **values: object) -> str:
        """A phrase that the builder itself writes, its places filled in."""
        return english.format(**values) if values else english

    def notice(self) -> str:
        """What stands below the links at the head of a notebook, if anything."""
        return ""

    def link(self, target: str) -> str:
        """A link as it stands in a source, seen from where the notebook lies."""
        return target

    def number(self, written: str) -> str:
        """A number in running text."""
        return written


ENGLISH = Words()
