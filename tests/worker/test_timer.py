from __future__ import annotations

import threading

from tests.worker.waiting import wait_for
from worker.timer import Timer


def test_it_calls_again_after_an_error_until_it_is_stopped() -> None:
    calls: list[str] = []

    def act() -> None:
        calls.append(threading.current_thread().name)
        raise RuntimeError("no")

    timer = Timer("sweep", 0.01, act)
    timer.start()
    assert wait_for(lambda: len(calls) >= 3)
    timer.stop()
    assert not timer.running and set(calls) == {"sweep"}


def test_a_stop_ends_a_long_wait_and_a_timer_that_never_began() -> None:
    called = threading.Event()
    timer = Timer("sweep", 3600, called.set)
    timer.stop()
    timer = Timer("sweep", 3600, called.set)
    timer.start()
    assert called.wait(60)
    timer.stop()
    assert not timer.running
