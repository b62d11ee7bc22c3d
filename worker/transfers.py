"""Calls to the blob store, given up when nobody wants their end any longer or they take too long."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import BinaryIO, TypeVar

from store.blobs import BlobRef, BlobStore
from store.errors import Unavailable
from worker.abandonable import AbandonableCalls, TooMany
from worker.outcomes import Stop

_ASK_SECONDS = 0.1
# So long may a transaction, for which others wait, ask whether bytes are there.
LOOK_SECONDS = 10.0
# Of a store that hangs for good, so many of all jobs and inspections may have been given up.
_CALLS = AbandonableCalls("blob store", 32)

_Result = TypeVar("_Result")


class Interrupted(BaseException):
    """Told to stop, for `reason`. No Exception: who bears failures for a while must not bear this one."""

    def __init__(self, reason: Stop) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Transfers:
    """For one purpose: all together may take `seconds`. `watch` says why to stop, or raises it."""

    def __init__(self, watch: Callable[[], Stop | None], seconds: float) -> None:
        self._watch = watch
        self._end = time.monotonic() + seconds

    def run(self, call: Callable[[Callable[[], bool]], _Result], *, at_most: float = math.inf) -> _Result:
        """What `call` returns. Raises what it raises, Interrupted, and Unavailable when the time is over.

        A call to a mount that is lost never comes back, and a connection may bring a byte now and then. So
        it happens in a thread that is left behind. `call` is given what says whether to go on: asked
        between two pieces, it ends then. One that is left behind may end at any time later, or never: it must
        do nothing that is wrong by then, such as to touch the database.
        """
        given_up = threading.Event()
        end = min(self._end, time.monotonic() + at_most)
        try:
            future = _CALLS.start(lambda: call(lambda: not given_up.is_set()))
        except TooMany as error:
            raise Unavailable("The blob store hangs. Try again soon.") from error
        try:
            while not wait([future], _ASK_SECONDS).done:
                self._ask(end)
        finally:
            given_up.set()
        return future.result()

    def _ask(self, end: float) -> None:
        if (reason := self._watch()) is not None:
            raise Interrupted(reason)
        if time.monotonic() > end:
            raise Unavailable("The blob store did not take or give the files in time. Try again soon.")


class Guarded:
    """What publishing asks of a store. Bytes that a call stores when it has been left behind are no job's:
    no row names them, and the collector finds them."""

    def __init__(self, blobs: BlobStore, transfers: Transfers) -> None:
        self._blobs = blobs
        self._transfers = transfers

    def put_file(self, file: BinaryIO) -> BlobRef:
        """As the store's. To close the file ends a call that was left behind, at its next piece."""
        return self._transfers.run(lambda go_on: self._blobs.put_file(file))

    def exists(self, sha256: str) -> bool:
        """As the store's, for transactions: it is given up soon."""
        return self._transfers.run(lambda go_on: self._blobs.exists(sha256), at_most=LOOK_SECONDS)


def answers(blobs: BlobStore, stopping: threading.Event) -> bool:
    """Whether the store can be used just now. Of a worker that is told to stop only one that answers at once
    is: what the store is needed for then can be done later."""

    def watch() -> Stop | None:
        return Stop.HANDED_BACK if stopping.is_set() else None

    try:
        Transfers(watch, LOOK_SECONDS).run(lambda go_on: blobs.ping())
    except (Interrupted, Unavailable):
        return False
    return True
