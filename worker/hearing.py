"""The parent's end of a child's pipe, read in a thread of its own.

A child may write half a message and no more. Whoever reads it then waits for as long as the child
pleases, so that must not be who minds the deadline.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from multiprocessing.connection import Connection, wait
from typing import Any

from worker import messages

# Few, so that a child that says more than is heard has to wait.
WAITING_MESSAGES = 8
# For what an ended child has said, and what whoever it left the pipe to does not go on with.
LAST_WORDS_SECONDS = 1.0

ENDED = object()
TOO_LARGE = object()

log = logging.getLogger(__name__)


class Hearing:
    """`sentinel` tells of the process's end. `close` ends the thread, whatever the child does."""

    def __init__(self, connection: Connection, sentinel: int, name: str) -> None:
        self._connection = connection
        self._sentinel = sentinel
        self._said: queue.Queue[Any] = queue.Queue(WAITING_MESSAGES)
        self._closed = threading.Event()
        self._silent_since: float | None = None
        self._thread = threading.Thread(target=self._read, name=f"hear {name}", daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> Any:
        """The next message, None when none came in time.

        `ENDED` when none will ever come, `TOO_LARGE` for one that is not taken, nor is what follows.
        """
        try:
            message = self._said.get(timeout=seconds)
        except queue.Empty:
            return ENDED if self._has_ended() else None
        self._silent_since = None
        return message

    def ask(self, what: bytes) -> None:
        try:
            self._connection.send_bytes(what)
        except OSError:
            log.debug("the child is gone already")

    def close(self) -> None:
        self._closed.set()
        # Closing alone would not wake a thread that reads, and somebody else may keep the other end.
        with socket.socket(fileno=os.dup(self._connection.fileno())) as pipe:
            try:
                pipe.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("the child has closed the pipe")
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.01)
        self._connection.close()

    def _has_ended(self) -> bool:
        """Whether the process ended a while ago, and nothing has come since."""
        if not wait([self._sentinel], timeout=0):
            return False
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        return now - self._silent_since >= LAST_WORDS_SECONDS

    def _drain(self) -> None:
        while not self._said.empty():
            self._said.get_nowait()

    def _read(self) -> None:
        message: Any = None
        while message not in (ENDED, TOO_LARGE) and not self._closed.is_set():
            try:
                message = messages.receive(self._connection)
            except messages.TooLarge:
                message = TOO_LARGE
            except (EOFError, OSError, ValueError, MemoryError):
                message = ENDED
            self._said.put(message)
