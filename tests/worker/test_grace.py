from __future__ import annotations

import threading

import pytest

from worker import grace
from worker.grace import Grace


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(Clock, "now", 1000.0)
    monkeypatch.setattr(grace.time, "monotonic", lambda: Clock.now)
    return Clock


def test_it_begins_with_the_stop_and_lasts_as_long_as_it_is_set(clock: type[Clock]) -> None:
    stopping = threading.Event()
    found = Grace(stopping, 20)
    found.move_files()
    clock.now += 1000
    assert not found.begun() and not found.over()
    stopping.set()
    assert found.begun() and not found.over()
    clock.now += 19
    assert not found.over()
    clock.now += 2
    assert found.over()


@pytest.mark.parametrize(("seconds", "left"), [(20.0, 5.0), (0.5, 0.5)])
def test_what_is_ready_at_its_end_has_a_little_time_to_be_stored(
    clock: type[Clock], seconds: float, left: float
) -> None:
    stopping = threading.Event()
    stopping.set()
    found = Grace(stopping, seconds)
    assert found.begun()
    clock.now += seconds + 1
    found.move_files()
    assert not found.over()
    clock.now += left + 0.1
    assert found.over()
