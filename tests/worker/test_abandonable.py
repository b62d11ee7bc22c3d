from __future__ import annotations

import threading

import pytest

from store.logging import log_context, log_fields
from tests.worker.waiting import wait_for
from worker.abandonable import AbandonableCalls, TooMany


def test_a_call_returns_or_raises_and_knows_whom_it_works_for() -> None:
    calls = AbandonableCalls("test", 1)
    with log_context(job_id="job_1"):
        assert calls.start(lambda: log_fields()["job_id"]).result(30) == "job_1"
    with pytest.raises(ZeroDivisionError):
        calls.start(lambda: 1 / 0).result(30)


def test_what_does_not_return_takes_a_place_until_it_does() -> None:
    calls, free = AbandonableCalls("test", 2), threading.Event()
    held = [calls.start(lambda: free.wait(60)) for _ in range(2)]
    with pytest.raises(TooMany):
        calls.start(lambda: True)
    assert not any(call.cancel() for call in held)
    free.set()
    assert all(call.result(30) for call in held)
    assert wait_for(lambda: calls.start(lambda: True).result(30))


def test_nobody_waits_at_the_end_of_the_process_for_what_does_not_return() -> None:
    free = threading.Event()
    call = AbandonableCalls("a call in a test", 1).start(lambda: free.wait(60))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "a call in a test"]
    assert thread.daemon
    free.set()
    assert call.result(30)
