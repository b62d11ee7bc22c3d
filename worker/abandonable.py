"""Calls that may never return (a name server, a lost mount), in threads that can be left behind.

Not an executor's threads: those are waited for when its owner ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

_Result = TypeVar("_Result")


class TooMany(Exception):
    """So many calls have not returned that no other is begun."""


class AbandonableCalls:
    """At most `most` at once, those included for which nobody waits any longer."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._free = threading.BoundedSemaphore(most)

    def start(self, call: Callable[[], _Result]) -> Future[_Result]:
        """The call in a thread of its own, in this context; it cannot be canceled. Raises TooMany."""
        if not self._free.acquire(blocking=False):
            raise TooMany(f"too many wait already ({self._name})")
        future: Future[_Result] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = call()
            except BaseException as error:
                self._free.release()
                future.set_exception(error)
            else:
                self._free.release()
                future.set_result(result)

        try:
            threading.Thread(target=copy_context().run, args=(run,), name=self._name, daemon=True).start()
        except RuntimeError:  # this process may have no more threads
            self._free.release()
            raise
        return future
