"""Saving is due by budget or clock, never costs more than its share, and comes before handing back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from core.errors import HandedBack
from core.methods import save_point, saved_state
from core.methods.clock import Clock
from core.methods.save_point import FLOOR_SECONDS, SECONDS, TIME_SHARE, SavePoint
from core.networks import archive
from core.spec import Budget
from tests.core.methods.interrupted import Attempts
from tests.core.methods.trained import GDFQ, ZAQ, TrainedConfig, context


class Rehearsal:
    """Iterations of `seconds` each, and saves of `cost` seconds, on a clock of its own."""

    def __init__(
        self, tmp_path: Path, patch: pytest.MonkeyPatch, iterations: int, cost: float = 0.0, **options: Any
    ) -> None:
        self.now, self.cost, self.saved_at = 100.0, cost, list[int]()
        clock = SimpleNamespace(monotonic=lambda: self.now)
        patch.setattr(save_point, "time", clock)
        self.clock = Clock(Budget(iterations=iterations))
        run = context(tmp_path, **{"keep": self.keep, **options})
        self.notes: list[str] = []
        self.point = SavePoint(run, {}, self.clock, self.notes)

    def keep(self, path: Path) -> None:
        self.now += self.cost
        self.saved_at.append(torch.load(path, weights_only=True)["state"]["iteration"])
        path.unlink()

    def play(self, iterations: int, seconds: float) -> list[int]:
        for _ in range(iterations):
            self.now += seconds
            self.clock.iterations += 1
            self.point.reach(lambda: {"iteration": self.clock.iterations})
        return self.saved_at


def test_a_twentieth_of_the_budget_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Rehearsal(tmp_path, monkeypatch, 40).play(40, seconds=5.0)
    assert played == list(range(2, 41, 2))


def test_a_minute_is_saved_where_the_budget_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Rehearsal(tmp_path, monkeypatch, 100_000).play(100, seconds=5.0)
    assert played == list(range(int(SECONDS / 5), 101, int(SECONDS / 5)))


def test_saves_that_cost_much_are_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first one: nobody knows yet what it costs."""
    first, gap = int(SECONDS / 5), round(10.0 * (1 / TIME_SHARE - 1) / 5)
    played = Rehearsal(tmp_path, monkeypatch, 250, cost=10.0).play(250, seconds=5.0)
    assert played == [first, first + gap, first + 2 * gap]


def test_iterations_that_take_no_time_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = Rehearsal(tmp_path, monkeypatch, 10)
    assert rehearsal.play(10, seconds=FLOOR_SECONDS / 100) == []


def test_without_anybody_to_keep_it_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = Rehearsal(tmp_path, monkeypatch, 10, keep=None, hand_back=lambda: True)
    rehearsal.play(10, seconds=100.0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_handed_back_is_saved_first_whenever_that_was_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(tmp_path, monkeypatch, 1000, hand_back=lambda: rehearsal.clock.iterations == 3)
    with pytest.raises(HandedBack):
        rehearsal.play(10, seconds=0.0)
    assert rehearsal.saved_at == [3]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("broken stream")])
def test_a_save_that_fails_costs_a_note_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write(*_: object) -> Path:
        raise error

    rehearsal = Rehearsal(tmp_path, monkeypatch, 10, hand_back=lambda: rehearsal.clock.iterations == 10)
    with monkeypatch.context() as patch:
        patch.setattr(saved_state, "write", write)
        rehearsal.play(5, seconds=5.0)
    assert len(rehearsal.notes) == 1 and "could not be saved" in rehearsal.notes[0]
    assert rehearsal.play(1, seconds=5.0) == [6]


def test_a_state_that_is_too_large_is_told_of_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 10)
    rehearsal = Rehearsal(tmp_path, monkeypatch, 10, hand_back=lambda: rehearsal.clock.iterations == 9)
    with pytest.raises(HandedBack):
        rehearsal.play(10, seconds=5.0)
    assert rehearsal.saved_at == [] and list(tmp_path.iterdir()) == []
    (note,), (line,) = rehearsal.notes, caplog.messages
    assert "at most 10 are read back" in note and "at most 10 are read back" in line


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("config", [ZAQ, GDFQ], ids=["zaq", "gdfq"])
def test_a_worker_that_shuts_down_waits_for_the_end_of_the_iteration(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks in the middle of the second one."""
    attempts = Attempts(teacher, config, tmp_path)
    asked: list[int] = []

    def hand_back() -> bool:
        return bool(asked)

    def canceled() -> bool:
        if attempts.iterations == [1]:
            asked.append(1)
        return False

    with pytest.raises(HandedBack):
        attempts.run(hand_back=hand_back, canceled=canceled)
    assert attempts.iterations == [1, 2]
    found = torch.load(attempts.kept[-1], weights_only=True)
    assert found["state"]["clock"]["iterations"] == 2


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("phase", ["synthesizing", "training"])
def test_without_keep_a_run_that_is_wanted_back_ends_at_once(
    teacher: fx.GraphModule, tmp_path: Path, phase: str
) -> None:
    attempts = Attempts(teacher, ZAQ, tmp_path, keep=None)
    with pytest.raises(HandedBack):
        attempts.run(hand_back=lambda: attempts.news[-1:] != [] and attempts.news[-1].phase == phase)
    assert attempts.iterations == []
    assert list(tmp_path.iterdir()) == []
