"""News, stops, timings and seeds."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.context import PHASE_WEIGHTS, WEIGHTS_WITHOUT_TRAINING, Progress, RunContext
from core.errors import Canceled, DeadlineExceeded, HandedBack


class Listener:
    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.news: list[Progress] = []
        self.context = RunContext(tmp_path, emit=self.news.append, **options)


def test_a_change_of_phase_is_always_news_and_steps_only_now_and_then(tmp_path: Path) -> None:
    listener = Listener(tmp_path, interval=60.0)
    for phase in ("loading", "training"):
        with listener.context.phase(phase):
            for step in range(100):
                listener.context.step(step + 1, 100)
    assert [news.phase for news in listener.news] == ["loading", "training"]


def test_every_step_is_news_when_nothing_holds_it_back(tmp_path: Path) -> None:
    listener = Listener(tmp_path, interval=0.0)
    with listener.context.phase("training"):
        for step in (1, 2, 3, 4):
            listener.context.step(step, 4, {"loss": 1.0 / step})
    assert [news.step for news in listener.news] == [0, 1, 2, 3, 4]
    last = listener.news[-1]
    assert (last.steps, last.metrics, last.eta_seconds) == (4, {"loss": 0.25}, 0.0)
    assert listener.news[1].eta_seconds is not None
    assert listener.news[0].eta_seconds is None


@pytest.mark.parametrize("weights", [PHASE_WEIGHTS, WEIGHTS_WITHOUT_TRAINING])
def test_the_fraction_never_falls_and_ends_at_one(tmp_path: Path, weights: dict[str, float]) -> None:
    listener = Listener(tmp_path, interval=0.0)
    listener.context.weights = weights
    for phase in weights:
        with listener.context.phase(phase):
            for passes in range(2):  # a phase may count its steps anew
                for step in range(3 + passes):
                    listener.context.step(step, 3)
    fractions = [news.fraction for news in listener.news]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == pytest.approx(1.0)
    assert sum(weights.values()) == pytest.approx(1.0)


def test_phases_are_timed_and_summed(tmp_path: Path) -> None:
    context = RunContext(tmp_path)
    for _ in range(2):
        with context.phase("loading"):
            time.sleep(0.01)
    with pytest.raises(RuntimeError), context.phase("training"):
        raise RuntimeError
    assert context.timings["loading"] >= 0.02
    assert set(context.timings) == {"loading", "training"}


def test_a_phase_inside_another_is_part_of_it(tmp_path: Path) -> None:
    listener = Listener(tmp_path, interval=0.0)
    with listener.context.phase("baseline"), listener.context.phase("synthesizing"):
        listener.context.step(1, 2)
    assert {news.phase for news in listener.news} == {"baseline"}
    assert set(listener.context.timings) == {"baseline"}


def test_a_canceled_run_stops_at_the_next_step_or_phase(tmp_path: Path) -> None:
    context = RunContext(tmp_path, canceled=lambda: True)
    with pytest.raises(Canceled):
        context.step(1, 2)
    with pytest.raises(Canceled), context.phase("loading"):
        pytest.fail("the phase began")


def test_a_run_past_its_deadline_stops_and_says_what_to_raise(tmp_path: Path) -> None:
    RunContext(tmp_path, deadline=time.monotonic() + 60).check()
    with pytest.raises(DeadlineExceeded) as caught:
        RunContext(tmp_path, deadline=time.monotonic() - 1).check()
    assert caught.value.field == "limits.seconds"
    with pytest.raises(DeadlineExceeded) as caught:
        RunContext(tmp_path, deadline=time.monotonic() - 1, deadline_field=None).check()
    assert caught.value.field is None and "limits.seconds" not in caught.value.detail


def test_a_run_that_is_wanted_back_stops_at_once_where_nothing_is_saved(tmp_path: Path) -> None:
    context = RunContext(tmp_path, hand_back=lambda: True, keep=lambda path: None)
    with pytest.raises(HandedBack):
        context.check()
    with context.saving():
        context.check()
        context.step(1, 2)
    with pytest.raises(HandedBack):
        context.check()
    alone = RunContext(tmp_path, hand_back=lambda: True)
    with pytest.raises(HandedBack), alone.saving():
        alone.check()


def test_a_phase_begins_where_an_earlier_attempt_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("core.context.time", SimpleNamespace(monotonic=lambda: now[0]))
    listener = Listener(tmp_path, interval=0.0)
    with listener.context.phase("training", 6, 10):
        now[0] += 4.0
        listener.context.step(8, 10)
    first, second = listener.news
    assert (first.step, first.steps) == (6, 10)
    assert first.fraction == pytest.approx(0.6 * PHASE_WEIGHTS["training"])
    assert second.eta_seconds == pytest.approx(4.0), "two steps took four seconds, and two are left"


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    def draw(seed: int) -> tuple[float, float, float]:
        generator = RunContext(tmp_path, seed=seed).seed_everything()
        return random.random(), float(torch.rand(1)), float(torch.rand(1, generator=generator))

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_contexts_share_nothing(tmp_path: Path) -> None:
    first, second = RunContext(tmp_path), RunContext(tmp_path)
    first.timings["loading"] = 1.0
    assert second.timings == {}
