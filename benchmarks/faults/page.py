"""A page of sections, each with its table, that can be made anew one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """`broken` are the claims that did not hold."""

    title: str
    words: str
    table: Sequence[str]
    broken: Sequence[str]

    def lines(self) -> list[str]:
        return [f"## {self.title}", "", self.words, "", *self.table, ""]


def merged(page: str, head: Sequence[str], sections: Sequence[Section]) -> list[str]:
    """The lines of the page with these sections in place of those of the same titles, the rest as it was."""
    pieces = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    known = {piece.partition("\n")[0]: ["## " + piece.rstrip(), ""] for piece in pieces}
    known |= {section.title: section.lines() for section in sections}
    lines = [*head, "", *(line for lines in known.values() for line in lines)]
    return lines[:-1]
