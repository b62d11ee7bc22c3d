"""How long a worker that is told to stop goes on with what it has in hand."""

from __future__ import annotations

import threading
import time

# To move files that are ready, however late in the time of grace they were.
_LEAST_SECONDS = 5.0


class Grace:
    """Begins when it is first asked after, once the worker is told to stop, and lasts `seconds`."""

    def __init__(self, stopping: threading.Event, seconds: float) -> None:
        self._stopping = stopping
        self._seconds = seconds
        self._end: float | None = None
        self._least_end = 0.0

    def begun(self) -> bool:
        if self._end is None and self._stopping.is_set():
            self._end = time.monotonic() + self._seconds
        return self._end is not None

    def over(self) -> bool:
        return self.begun() and time.monotonic() > max(self._end or 0.0, self._least_end)

    def move_files(self) -> None:
        """From now on files are moved: for that a little time is left in any case."""
        self._least_end = time.monotonic() + min(self._seconds, _LEAST_SECONDS)
