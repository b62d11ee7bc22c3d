"""What a child says, read by a parent that does not trust it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

MAX_RESULT_BYTES = 8 * 2**20
MAX_NEWS_BYTES = 64 * 2**10
MAX_METRICS = 50
MAX_NAME_CHARACTERS = 64
# core's, named here since the parent does without torch.
PHASES = frozenset(
    {"loading", "baseline", "synthesizing", "training", "evaluating", "exporting", "verifying"}
)

# What neither PostgreSQL nor UTF-8 can hold: null characters and halves of characters.
_UNSTORABLE = {0: "\N{REPLACEMENT CHARACTER}"} | dict.fromkeys(
    range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"
)


class TooLarge(Exception):
    """A message that no child of ours needs."""


def receive(connection: Connection) -> Any:
    """The next message, however long it takes. Raises TooLarge, EOFError, OSError, ValueError."""
    try:
        data = connection.recv_bytes(MAX_RESULT_BYTES)
    except OSError as reason:
        # A connection is not read any more after a message that was announced as larger.
        if not connection.closed and not connection.readable:
            raise TooLarge from reason
        raise
    message = read(data)
    if len(data) > MAX_NEWS_BYTES and not (isinstance(message, dict) and set(message) == {"result"}):
        raise TooLarge
    return message


def news(said: object) -> dict[str, Any]:
    """`phase`, `progress` and `metrics` of what a child says of its progress, as far as they are such."""
    known = said if isinstance(said, dict) else {}
    phase = known.get("phase")
    return {
        "phase": phase if isinstance(phase, str) and phase in PHASES else None,
        "progress": _numbers(known.get("progress")),
        "metrics": _numbers(known.get("metrics")),
    }


def _numbers(said: object) -> dict[str, float | None]:
    """Null stands for what is not finite."""
    items = said.items() if isinstance(said, Mapping) else ()
    numbers = [
        (name, value) for name, value in items if len(name) <= MAX_NAME_CHARACTERS and _is_number(value)
    ]
    return dict(numbers[:MAX_METRICS])


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**53
    return value is None or (isinstance(value, float) and math.isfinite(value))


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
