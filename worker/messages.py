"""What a child says, read by a parent that does not trust it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, TypeGuard

MAX_RESULT_BYTES = 8 * 2**20
MAX_NEWS_BYTES = 64 * 2**10
MAX_METRICS = 50
MAX_NAME_CHARACTERS = 64
# What writes JSON does not go down as far as what reads it, and a report has six levels.
MAX_DEPTH = 32
MAX_ARTIFACTS = 100
# Each is a row of its own; a run that means well has ten.
PHASES_PER_CHILD = 50
# core's, named here since the parent does without torch.
PHASES = frozenset(
    {"loading", "baseline", "synthesizing", "training", "evaluating", "exporting", "verifying"}
)

# What neither PostgreSQL nor UTF-8 can hold: null characters and halves of characters.
_UNSTORABLE = {0: "\N{REPLACEMENT CHARACTER}"} | dict.fromkeys(
    range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"
)

log = logging.getLogger(__name__)


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


class News:
    """What one child says of its progress; its phase changes so many times, and then no more."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._left = PHASES_PER_CHILD

    def read(self, said: object) -> dict[str, Any]:
        """`phase`, `progress` and `metrics`, as far as they are such."""
        known = said if isinstance(said, dict) else {}
        return {
            "phase": self._phase_of(known.get("phase")),
            "progress": _progress(known.get("progress")),
            "metrics": _numbers(known.get("metrics")),
        }

    def _phase_of(self, said: object) -> str | None:
        if not isinstance(said, str) or said not in PHASES:
            return None
        if said != self._phase and self._left:
            self._phase = said
            self._left -= 1
            if not self._left:
                log.warning("the child has told of %d phases; what follows is left out", PHASES_PER_CHILD)
        return self._phase


def is_quantized(said: Mapping[str, Any]) -> bool:
    """Whether a result is what a quantization's is: a `report`, and `artifacts` as they are published."""
    files = said.get("artifacts")
    return (
        isinstance(said.get("report"), dict)
        and isinstance(files, list)
        and len(files) <= MAX_ARTIFACTS
        and all(isinstance(file, dict) and _is_file(file) for file in files)
    )


def _is_file(said: Mapping[str, Any]) -> bool:
    return all(isinstance(said.get(name), str) for name in ("name", "path", "media_type"))


def _progress(said: object) -> dict[str, float | None]:
    """What the API shows, as it shows it."""
    known = said if isinstance(said, dict) else {}
    return {name: known[name] for name, fits in _PROGRESS.items() if name in known and fits(known[name])}


def is_real(value: object) -> TypeGuard[int | float]:
    """Whether it is an integer or a float, maybe NaN or infinite. Truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return is_real(value) and 0 <= value <= 1


def _is_count(value: object) -> bool:
    return is_real(value) and isinstance(value, int) and 0 <= value < 2**53


def _is_rest(value: object) -> bool:
    # PostgreSQL gives large floats back as integers that no float holds exactly.
    return value is None or (is_real(value) and 0 <= value < 2**53)


_PROGRESS: Mapping[str, Callable[[object], bool]] = {
    "fraction": _is_share,
    "step": _is_count,
    "steps": _is_count,
    "eta_seconds": _is_rest,
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


def _storable(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else value.translate(_UNSTORABLE)
    if isinstance(value, dict):
        return {_storable(key): _storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item, depth + 1) for item in value]
    return value
