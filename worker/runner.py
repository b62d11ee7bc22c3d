"""Supervises one child process: progress in, cancel, deadline and kill out.

The child may do anything, hang, crash or lie; this module always returns, always within the grace
periods, and never leaves the child running.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from core.errors import HandedBack
from worker import failures, forkserver, messages
from worker.child import CANCEL, HAND_BACK, Order
from worker.child_log import Repeater
from worker.hearing import ENDED, TOO_LARGE, Hearing
from worker.outcomes import Failed, Finished, Limit, Outcome, Stop, Stopped

POLL_SECONDS = 0.1
KILL_GRACE_SECONDS = 2.0

log = logging.getLogger(__name__)


def run_child(
    order: Order,
    *,
    limit: Limit,
    grace_seconds: float,
    watch: Callable[[], Stop | None],
    on_progress: Callable[[dict[str, Any]], None],
    on_saved: Callable[[object], None] = lambda path: None,
    hand_back_seconds: float = 0.0,
) -> Outcome:
    """Runs `order` in a child and waits for its end.

    `watch` is asked about ten times a second whether to stop; it must not block, and neither must
    `on_progress` and `on_saved`, which is given the path of what the child keeps, as the child said it. A
    cancel is first asked of the child, after `grace_seconds` SIGTERM follows, then SIGKILL; the same past
    the limit, and at a shutdown after `hand_back_seconds`. A lost lease kills at once.
    """
    memory_kills = _memory_kills()
    deadline = time.monotonic() + limit.left
    order = replace(order, deadline=deadline, deadline_field=limit.field)
    process, connection, output = forkserver.start(order)
    hearing = Hearing(connection, process.sentinel, order.entry)
    stopping: _Stopping | None = None
    repeater, news = Repeater(), messages.News()
    try:
        while True:
            message = hearing.next(POLL_SECONDS)
            if message is ENDED:
                code = _reap(process)
                if stopping is not None:
                    return stopping.outcome
                log.warning("child of %s ended without a word: %s", order.entry, failures.ending(code))
                killed = code == -signal.SIGKILL and _memory_kills() > memory_kills
                return Failed(failures.crashed(code, killed_for_memory=killed))
            if message is TOO_LARGE:
                log.warning("child of %s said more at once than is taken", order.entry)
                return Failed(
                    failures.failure("message_too_large", "The run said more than this server takes.")
                )
            if isinstance(message, dict) and "log" in message:
                repeater.repeat(message["log"])
            elif message is not None:
                outcome = _interpret(message, stopping, lambda said: on_progress(news.read(said)), on_saved)
                if outcome is not None:
                    return outcome
            reason = watch()
            if reason is Stop.LOST or (reason is Stop.HANDED_BACK and not hand_back_seconds):
                return Stopped(reason)
            if reason is Stop.CANCELED and (stopping is None or stopping.outcome == _HANDED_BACK):
                stopping = _Stopping(Stopped(reason), grace_seconds)
                hearing.ask(CANCEL)
            elif stopping is None and reason is Stop.HANDED_BACK:
                stopping = _Stopping(_HANDED_BACK, hand_back_seconds)
                hearing.ask(HAND_BACK)
            elif stopping is None and time.monotonic() > deadline:
                # The child knows its deadline and reports it itself, unless it hangs.
                stopping = _Stopping(Failed(failures.overdue(limit.seconds, limit.field)), grace_seconds)
            if stopping is not None:
                stopping.press(process)
    finally:
        # Whatever it said is said, and nothing it could still do is wanted.
        _signal(process, signal.SIGKILL)
        hearing.close()
        _reap(process)
        output.close()


_HANDED_BACK = Stopped(Stop.HANDED_BACK)


class _Stopping:
    """A child that was told to stop: patience, then SIGTERM, then SIGKILL."""

    def __init__(self, outcome: Outcome, grace_seconds: float) -> None:
        self.outcome = outcome
        now = time.monotonic()
        self._due = [
            (now + grace_seconds, signal.SIGTERM),
            (now + grace_seconds + KILL_GRACE_SECONDS, signal.SIGKILL),
        ]

    def judge(self, said: Finished | Failed) -> Outcome:
        """What counts when the child ends by itself after all: at a shutdown whatever it says, unless it says
        that it stopped; past the deadline its own words for that."""
        code = said.failure["code"] if isinstance(said, Failed) else None
        if self.outcome == _HANDED_BACK:
            return self.outcome if code == HandedBack.default_code else said
        return (
            said
            if isinstance(self.outcome, Failed) and self.outcome.failure["code"] == code
            else self.outcome
        )

    def press(self, process: BaseProcess) -> None:
        while self._due and time.monotonic() >= self._due[0][0]:
            _signal(process, self._due.pop(0)[1])


def _interpret(
    message: Any,
    stopping: _Stopping | None,
    on_progress: Callable[[object], None],
    on_saved: Callable[[object], None],
) -> Outcome | None:
    if not isinstance(message, dict):
        return Failed(failures.from_child(None))
    if "progress" in message:
        on_progress(message["progress"])
        return None
    if "saved" in message:
        on_saved(message["saved"])
        return None
    said: Finished | Failed
    if isinstance(message.get("result"), dict):
        said = Finished(message["result"])
    else:
        said = Failed(failures.from_child(message.get("error")))
    return said if stopping is None else stopping.judge(said)


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    # Not Process.kill(): it would read the exit status outside the lock.
    if forkserver.exit_code(process) is None and process.pid is not None:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            log.debug("the child is gone already")


def _reap(process: BaseProcess) -> int | None:
    """The exit code; waits a moment for it, since the pipe closes before the process has ended."""
    end = time.monotonic() + 10
    while (code := forkserver.exit_code(process)) is None and time.monotonic() < end:
        if not wait([process.sentinel], timeout=0.5):
            _signal(process, signal.SIGKILL)
    return code


def _memory_kills() -> int:
    """How many processes the kernel has killed for memory so far, in this container or machine."""
    total = 0
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total
