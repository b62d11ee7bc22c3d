"""A child has read a stranger's file: what it says goes into a database only as text that it can hold."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from api.schemas.jobs import ProgressOut
from core.context import PHASE_WEIGHTS, WEIGHTS_WITHOUT_TRAINING, Progress
from store.watch_repository import Look
from tests.generated import REPEATABLE
from tests.worker.world import World
from worker import lease, messages
from worker.child import _progress as as_sent
from worker.inspections import inspect
from worker.messages import News

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
    assert News().read(said) == {"phase": None, "progress": {}, "metrics": {"a": 1, "b": 1.5, "c": None}}
    assert News().read({"phase": "training"})["phase"] == "training"


def test_progress_is_what_core_says() -> None:
    said = Progress("training", 0.5, 3, 4, 1.5, {"loss": 2.0})
    assert News().read(as_sent(said)) == as_sent(said)
    assert News().read(as_sent(Progress("loading", 0.0))) == as_sent(Progress("loading", 0.0))


LIES: list[dict[str, Any]] = [
    {"fraction": None},
    {"fraction": 1.5},
    {"fraction": -1},
    {"fraction": "0.5"},
    {"step": 0.5},
    {"step": None},
    {"step": -1},
    {"steps": 2**63},
    {"steps": [1]},
    {"steps": True},
    {"eta_seconds": 1e300},
    {"eta_seconds": -1.0},
    {"eta_seconds": {}},
    {"another": 1},
]


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_progress_is_left_out(lie: dict[str, Any]) -> None:
    assert News().read({"progress": {"step": 3, **lie}})["progress"] == {
        name: 3 for name in ("step",) if name not in lie
    }


TEXT = st.text(st.characters(codec=None), max_size=5)
FLAT = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(FLAT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)
NUMBERS = st.fixed_dictionaries(
    dict.fromkeys(("fraction", "step", "steps", "eta_seconds", "another", "\0", "\ud800"), FLAT | JSON)
)
SAID = st.fixed_dictionaries({"phase": JSON, "progress": NUMBERS | JSON, "metrics": NUMBERS | JSON})


@settings(REPEATABLE, max_examples=200)
@given(SAID | JSON)
def test_whatever_passes_as_news_the_api_can_show(said: Any) -> None:
    found = News().read(messages.read(json.dumps(said).encode()))
    look = Look("running", newest_event=1, attempt=1, **found)
    shown = json.loads(ProgressOut.of(look).model_dump_json())
    assert shown["metrics"] == found["metrics"] and set(found) == {"phase", "progress", "metrics"}
    assert {name: shown["progress"][name] for name in found["progress"]} == found["progress"]


def test_phases_change_so_many_times_and_then_no_more() -> None:
    news, phases = News(), itertools.cycle(["training", "evaluating"])
    told = [news.read({"phase": next(phases), "progress": {"step": step}}) for step in range(1000)]
    changes = [
        one["phase"]
        for one, before in zip(told, [{"phase": None}, *told], strict=False)
        if one["phase"] != before["phase"]
    ]
    assert len(changes) == messages.PHASES_PER_CHILD
    assert told[-1]["progress"] == {"step": 999}, "all else goes on"


def test_a_run_has_fewer_phases_than_are_told_of() -> None:
    assert len(messages.PHASES) * 2 < lease.PROMPT_PHASES < messages.PHASES_PER_CHILD


def test_how_deep_a_message_may_be_nested() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    TypeAdapter(Any).dump_json(messages.read(nested(messages.MAX_DEPTH)))
    with pytest.raises(ValueError):
        messages.read(nested(messages.MAX_DEPTH + 2))


@pytest.mark.parametrize("said", [None, 5, [], {"progress": 5, "metrics": []}])
def test_news_that_are_none_are_empty(said: object) -> None:
    assert News().read(said) == {"phase": None, "progress": {}, "metrics": {}}


def test_so_many_metrics_are_kept_and_no_more() -> None:
    kept = News().read({"metrics": {str(number): 1.0 for number in range(1000)}})["metrics"]
    assert len(kept) == messages.MAX_METRICS
