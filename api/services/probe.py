"""Questions that may never be answered, asked so that the asker gets away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from store import tracing

Answer = TypeVar("Answer")


class Probe(Generic[Answer]):
    """Asks in a thread of its own, one at a time: who comes while it asks shares the answer.

    So a part that hangs holds one thread, however often it is asked for. The thread is a daemon and
    does not hold up the end of the process either.
    """

    def __init__(self, name: str, ask: Callable[[], Answer]) -> None:
        self.name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._asked: Future[Answer] | None = None

    def answer(self) -> Future[Answer]:
        with self._lock:
            if self._asked is None or self._asked.done():
                self._asked = Future()
                threading.Thread(
                    target=self._run, args=(self._asked,), name=f"probe {self.name}", daemon=True
                ).start()
            return self._asked

    def _run(self, future: Future[Answer]) -> None:
        try:
            with tracing.untraced():
                future.set_result(self._ask())
        except Exception as error:
            future.set_exception(error)
