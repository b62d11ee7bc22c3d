"""Inputs on their way into a workspace, given up when nobody wants them any longer or they take too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

from store.errors import Unavailable
from worker.abandonable import AbandonableCalls, TooMany
from worker.outcomes import Stop
from worker.services import Services
from worker.workspace import Workspace

_ASK_SECONDS = 0.1
# Of a store that hangs for good, so many jobs and inspections may have been given up.
_FETCHES = AbandonableCalls("fetching inputs", 32)


class Interrupted(Exception):
    """Told to stop, for `reason`."""

    def __init__(self, reason: Stop) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Inputs:
    """Of one attempt or inspection: all together may take `ZSQ_FETCH_SECONDS`. `watch` says why to stop."""

    def __init__(self, services: Services, space: Workspace, watch: Callable[[], Stop | None]) -> None:
        self._blobs = services.blobs
        self._space = space
        self._watch = watch
        self._seconds = services.settings.fetch_seconds
        self._end = time.monotonic() + self._seconds

    def bring(self, sha256: str) -> Path:
        """As `Workspace.bring`, and raises Interrupted, and Unavailable when the time is over.

        A read from a mount that is lost never comes back, and a connection may bring a byte now and then.
        So it happens in a thread that is left behind, and which ends when its next piece comes.
        """
        given_up = threading.Event()
        try:
            call = _FETCHES.start(
                lambda: self._space.bring(self._blobs, sha256, lambda: not given_up.is_set())
            )
        except TooMany as error:
            raise Unavailable("The blob store hangs. Try again soon.") from error
        try:
            while not wait([call], _ASK_SECONDS).done:
                self._ask()
        finally:
            given_up.set()
        path = call.result()
        assert path is not None, "nobody has given it up"
        return path

    def _ask(self) -> None:
        if (reason := self._watch()) is not None:
            raise Interrupted(reason)
        if time.monotonic() > self._end:
            raise Unavailable(
                f"The blob store did not give the files within {self._seconds:g} s. Try again soon."
            )
