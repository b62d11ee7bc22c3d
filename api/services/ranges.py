"""Which bytes of a file a request asks for (RFC 9110, 14.1 to 14.4)."""

from __future__ import annotations

import re

from api.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes\s*=[\s,]*(\d{0,18})-(\d{0,18})[\s,]*", re.IGNORECASE | re.ASCII)


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """`bytes=2-4` -> (2, 5), cut at `size`; None for the whole file.

    The whole file is also the answer to what is no range of bytes, and to several ranges at once: a
    server may ignore both. Raises RangeNotSatisfiable for a range outside the file.
    """
    found = _ONE_RANGE.fullmatch((header or "").strip())
    if found is None or not (found[1] or found[2]):
        return None
    first, last = found[1], found[2]
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise RangeNotSatisfiable(
            "The range lies outside the file.",
            headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"},
        )
    return start, stop
