"""A child has read a stranger's file: what it says goes into a database only as text that it can hold."""

from __future__ import annotations

import json

import pytest

from core.context import PHASE_WEIGHTS, WEIGHTS_WITHOUT_TRAINING
from tests.worker.world import World
from worker import messages
from worker.inspections import inspect

FROM_A_CHILD = "tests.hostile.measured:"


def test_text_that_no_database_holds_is_replaced() -> None:
    said = {"a\0": ["\ud800b", {"c": "d\udfff"}], "e": 1.5, "ä": None}
    assert messages.read(json.dumps(said).encode()) == {"a�": ["�b", {"c": "d�"}], "e": 1.5, "ä": None}


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        messages.read(data)


def test_a_refusal_in_such_text_reaches_the_row(world: World) -> None:
    id = world.checkpoint(state="pending")
    inspect(world.services, "checkpoint", id, entry=FROM_A_CHILD + "complain_in_pieces")
    row = world.change(lambda work: work.checkpoints.get(id))
    assert (row.state, row.error["detail"]) == ("rejected", "a null � and half a character �.")


def test_a_result_that_is_no_object_is_a_failure(world: World) -> None:
    id = world.checkpoint(state="pending")
    inspect(world.services, "checkpoint", id, entry=FROM_A_CHILD + "answer_nonsense")
    row = world.change(lambda work: work.checkpoints.get(id))
    assert (row.state, row.error["code"]) == ("rejected", "internal_error")


def test_the_phases_are_those_of_core() -> None:
    assert set(PHASE_WEIGHTS) | set(WEIGHTS_WITHOUT_TRAINING) == messages.PHASES


@pytest.mark.parametrize("phase", ["mining", 5, ["training"], None])
def test_only_known_phases_and_finite_numbers_are_news(phase: object) -> None:
    numbers = {"a": 1, "b": 1.5, "c": None, "d": float("inf"), "e": True, "f": "1", "g": [], "h": 10**400}
    said = {"phase": phase, "progress": numbers, "metrics": {**numbers, "n" * 65: 1}, "more": 1}
    kept = {"a": 1, "b": 1.5, "c": None}
    assert messages.news(said) == {"phase": None, "progress": kept, "metrics": kept}
    assert messages.news({"phase": "training"})["phase"] == "training"


@pytest.mark.parametrize("said", [None, 5, [], {"progress": 5, "metrics": []}])
def test_news_that_are_none_are_empty(said: object) -> None:
    assert messages.news(said) == {"phase": None, "progress": {}, "metrics": {}}


def test_so_many_metrics_are_kept_and_no_more() -> None:
    kept = messages.news({"metrics": {str(number): 1.0 for number in range(1000)}})["metrics"]
    assert len(kept) == messages.MAX_METRICS
