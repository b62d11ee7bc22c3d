"""The end of a zip, where its directory is announced: one reading of it alone is possible, and it is small.

A zip is read from its end, and readers differ in how they look for it: Python takes the directory from
one place, torch's reader from another. A file with two ends would pass the checks by the one and be
unpacked by the other. Sizes are checked here before a reader makes an object of each member.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END_MAGIC, _END_64_MAGIC, _LOCATOR_MAGIC = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_LONGEST_COMMENT = 0xFFFF
_SMALLEST_ENTRY = 46


class Malformed(ValueError):
    """The end cannot be read in one way; says why."""


@dataclass(frozen=True, slots=True)
class Ends:
    """`directory` is where the members' records begin, `directory_bytes` how many bytes they take."""

    directory: int
    directory_bytes: int
    members: int


def read_ends(path: Path) -> Ends:
    """Raises Malformed (also where the file is cut off), OSError."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = max(0, size - _LONGEST_COMMENT - _END.size - _LOCATOR.size - _END_64.size)
        stream.seek(start)
        tail = stream.read()
    at = tail.rfind(_END_MAGIC)
    if at < 0 or at + _END.size > len(tail):
        raise Malformed("its end is missing")
    _, disk, first_disk, here, members, length, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise Malformed("something follows its end")
    behind = at
    if tail[max(0, at - _LOCATOR.size) : at].startswith(_LOCATOR_MAGIC):
        behind = at - _LOCATOR.size - _END_64.size
        _, _, where, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        if behind < 0 or where != start + behind or not tail.startswith(_END_64_MAGIC, behind):
            raise Malformed("it names two ends")
        _, _, _, _, disk, first_disk, here, members, length, offset = _END_64.unpack_from(tail, behind)
    if disk or first_disk or here != members:
        raise Malformed("it is a part of several")
    if offset + length != start + behind:
        raise Malformed("its directory does not stand before its end")
    if length < members * _SMALLEST_ENTRY:
        raise Malformed("its directory is too small for its members")
    return Ends(offset, length, members)
