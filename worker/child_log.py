"""What the code inside a child logs: sent to the parent, and written there as lines of the job's.

The child has read strangers' bytes, so the parent bounds what it says: how much, how long, and under
whose name. What is printed there instead: `child_output`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

LINES_PER_CHILD = 2000
# In JSON at most twelve bytes each, so that a line is never more than a parent takes.
MESSAGE_CHARACTERS = 5000
NAME_CHARACTERS = 100

log = logging.getLogger(__name__)


class ChildLog(logging.Handler):
    """In the child: hands every record to `send` as JSON data."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._send = send
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = {
                "logger": record.name[:NAME_CHARACTERS],
                "level": record.levelno,
                "message": self.format(record)[:MESSAGE_CHARACTERS],
            }
            self._send({"log": line})
        except Exception:
            self.handleError(record)


def listen(send: Callable[[Mapping[str, Any]], None]) -> None:
    """In the child: everything that is logged or warned of goes to `send`."""
    root = logging.getLogger()
    root.handlers[:] = [ChildLog(send)]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


class Repeater:
    """In the parent: writes a child's lines, up to a bound; `source` is the logger there."""

    def __init__(self) -> None:
        self._left = LINES_PER_CHILD

    def repeat(self, said: object) -> None:
        if self._left == 0 or not isinstance(said, dict):
            return
        self._left -= 1
        name = re.sub(r"[^\w.]", "_", str(said.get("logger", "")))[:NAME_CHARACTERS] or "unknown"
        level = said.get("level")
        if not isinstance(level, int) or not logging.INFO <= level <= logging.CRITICAL:
            level = logging.INFO
        message = str(said.get("message", ""))[:MESSAGE_CHARACTERS]
        # A logger of its own for each name would stay for as long as the worker lives.
        log.log(level, "%s", message, extra={"source": name})
        if self._left == 0:
            log.warning("the child has said %d lines; what follows is left out", LINES_PER_CHILD)
