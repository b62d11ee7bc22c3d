"""Whether an answer is wanted at all: the preconditions of RFC 9110, 13, in the order of 13.2.2."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate

from starlette.datastructures import Headers

from api.errors import PreconditionFailed


def is_unchanged(headers: Headers, etag: str, modified: datetime) -> bool:
    """Whether GET or HEAD is answered with 304. Raises PreconditionFailed.

    `etag` is strong, with its quotes. Dates have no fractions of seconds, and one that is none is ignored.
    """
    stamp = modified.astimezone(UTC).timetuple()[:6]
    match, none_match = headers.getlist("if-match"), headers.getlist("if-none-match")
    if match:
        if not _named(etag, match):
            raise PreconditionFailed("The file is not one that If-Match names.")
    elif (until := _date(headers.get("if-unmodified-since"))) is not None and stamp > until:
        raise PreconditionFailed("The file is newer than If-Unmodified-Since.")
    if none_match:
        return _named(etag, none_match, weakly=True)
    since = _date(headers.get("if-modified-since"))
    return since is not None and stamp <= since


def _named(etag: str, headers: Sequence[str], *, weakly: bool = False) -> bool:
    asked = [each.strip() for header in headers for each in header.split(",")]
    if weakly:  # `W/` makes no difference
        asked = [each.removeprefix("W/") for each in asked]
    return etag in asked or "*" in asked


def _date(header: str | None) -> tuple[int, ...] | None:
    """Year to second; an HTTP date is in GMT."""
    found = parsedate(header) if header else None
    return found[:6] if found else None
