"""What stands in the headers of tus 1.0 (https://tus.io/protocols/resumable-upload), read and checked."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from api.errors import ChecksumMismatch, Invalid, MalformedRequest

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,termination,checksum"
MEDIA_TYPE = "application/offset+octet-stream"

# What clients say of a file by themselves, and this server has no use for.
IGNORED_METADATA = frozenset({"filename", "filetype"})

_MAX_COUNT = 2**63 - 1


class Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


_ALGORITHMS: Mapping[str, Callable[[], Hash]] = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
ALGORITHMS = ",".join(_ALGORITHMS)


def count(headers: Mapping[str, str], name: str) -> int:
    """`Upload-Length` or `Upload-Offset`. Raises MalformedRequest."""
    text = headers.get(name)
    if text is None or not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > _MAX_COUNT:
        raise MalformedRequest(f"{name} must be a number of bytes.")
    return int(text)


def brings_bytes(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == MEDIA_TYPE


def metadata(header: str) -> dict[str, str]:
    """`key base64,key base64`, in their order. Raises MalformedRequest, and Invalid for a key given twice."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        key, _, encoded = pair.partition(" ")
        if key in found:
            raise Invalid.one(key, "duplicate_field", "given more than once")
        try:
            found[key] = base64.b64decode(encoded.strip(), validate=True).decode()
        except ValueError:  # also of letters outside ASCII, which headers may hold
            raise MalformedRequest(f"Upload-Metadata: {key[:100]!r} is no base64 of UTF-8 text.") from None
    return found


def encoded(values: Mapping[str, str]) -> str:
    """The header that `metadata` reads."""
    pairs = ((key, base64.b64encode(value.encode()).decode()) for key, value in values.items())
    return ",".join(f"{key} {value}".strip() for key, value in pairs)


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of one request must come to. `running` takes them as they come."""

    running: Hash
    expected: bytes

    @classmethod
    def of(cls, header: str | None) -> Checksum | None:
        """`Upload-Checksum: sha256 <base64>`. Raises MalformedRequest."""
        if header is None:
            return None
        name, _, value = header.strip().partition(" ")
        if name.lower() not in _ALGORITHMS:
            raise MalformedRequest(f"Upload-Checksum: the algorithm must be one of {ALGORITHMS}.")
        try:
            return cls(_ALGORITHMS[name.lower()](), base64.b64decode(value.strip(), validate=True))
        except ValueError:
            raise MalformedRequest("Upload-Checksum: the sum is no base64.") from None

    def verify(self) -> None:
        if self.running.digest() != self.expected:
            raise ChecksumMismatch("The bytes that arrived do not have the sum that was sent.")
