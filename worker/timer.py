"""Calls something again and again from a thread of its own, so that nothing else can hold it up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_STOP_SECONDS = 10.0

log = logging.getLogger(__name__)


class Timer:
    """Calls `action` at once and then `seconds` after each call's end, until `stop`.

    What it raises is logged, and the next call comes all the same.
    """

    def __init__(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._name = name
        self._seconds = seconds
        self._action = action
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for a call that is under way, but not for ever: the process is to end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._action()
            except Exception:
                log.exception("the %s failed; it comes again in %g s", self._name, self._seconds)
            self._stopping.wait(self._seconds)
