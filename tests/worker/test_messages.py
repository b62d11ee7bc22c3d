"""A child has read a stranger's file: what it says goes into a database only as text that it can hold."""

from __future__ import annotations

import json

import pytest

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
