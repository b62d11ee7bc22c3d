"""Text that a stranger's file brings along, before it stands in a message, a row or a report."""

from __future__ import annotations

MAX_SHOWN = 100


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """At most `limit` characters; what no terminal, page or database should get is replaced."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)


def is_plain(name: str, limit: int) -> bool:
    """Whether there is a name, short enough and free of control characters and halves of characters."""
    return 0 < len(name) <= limit and not any(
        character < " " or "\x7f" <= character <= "\x9f" or "\ud800" <= character <= "\udfff"
        for character in name
    )
