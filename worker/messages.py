"""What a child says, read by a parent that does not trust it."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any

MAX_MESSAGE_BYTES = 64 * 2**20

# What neither PostgreSQL nor UTF-8 can hold: null characters and halves of characters.
_UNSTORABLE = {0: "\N{REPLACEMENT CHARACTER}"} | dict.fromkeys(
    range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"
)


def receive(connection: Connection) -> Any:
    """The next message, however long it takes. Raises EOFError, OSError, ValueError."""
    return read(connection.recv_bytes(MAX_MESSAGE_BYTES))


def read(data: bytes) -> Any:
    """JSON whose text every database can hold. Raises ValueError."""
    try:
        return _storable(json.loads(data))
    except RecursionError as reason:
        raise ValueError("nested too deeply") from reason


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else value.translate(_UNSTORABLE)
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value
