from __future__ import annotations

import logging
from pathlib import Path

import pytest

from store.logging import log_fields
from tests.worker.doubles import PREFIX
from tests.worker.world import World
from worker.child import Order
from worker.child_log import LINES_PER_CHILD, MESSAGE_CHARACTERS, Repeater
from worker.jobs import run_jobs
from worker.runner import Finished, Limit, run_child


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[logging.LogRecord, dict[str, object]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record, dict(log_fields())))


@pytest.fixture
def lines() -> object:
    handler, root = Lines(), logging.getLogger()
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def test_what_a_child_logs_is_a_line_of_its_job(world: World, lines: Lines) -> None:
    job_id = world.job()
    world.change(lambda work: setattr(work.jobs.get(job_id), "request_id", "r-7"))
    run_jobs(world.services, ("any", "cpu"), entry=PREFIX + "speak")
    assert world.look(job_id).status == "succeeded"
    said = [(record, fields) for record, fields in lines.found if record.name == "worker.child_log"]
    texts = [record.getMessage() for record, _ in said]
    assert texts[0].startswith("from inside") and "deprecated" in texts[1] and len(texts) == 2
    for _, fields in said:
        assert fields == {"job_id": job_id, "attempt": 1, "owner": "local", "request_id": "r-7"}
    assert said[0][0].__dict__["source"] == "core.methods.double"
    assert said[0][0].levelno == logging.WARNING
    own = [fields for record, fields in lines.found if record.name == "worker.attempt"]
    assert own and all(fields["job_id"] == job_id for fields in own)


def test_a_child_that_never_stops_talking_is_heard_up_to_a_bound(tmp_path: Path, lines: Lines) -> None:
    order = Order(entry=PREFIX + "chatter", payload={}, scratch=tmp_path)
    outcome = run_child(
        order, limit=Limit(60), grace_seconds=1, watch=lambda: None, on_progress=lambda news: None
    )
    assert outcome == Finished({"said": 4000}), "and lines of several threads do not mix"
    said = [record for record, _ in lines.found if record.name == "worker.child_log"]
    assert len(said) == LINES_PER_CHILD + 1
    assert all(len(record.getMessage()) <= MESSAGE_CHARACTERS for record in said)
    assert {record.__dict__.get("source", "")[:7] for record in said[:-1]} == {"forged_"}


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "text",
        {},
        {"level": "high", "message": ["a"], "logger": 3},
        {"level": 10**9, "message": None},
        {"level": True, "logger": "a\nb"},
    ],
)
def test_a_line_of_any_shape_does_no_harm(said: object, lines: Lines) -> None:
    Repeater().repeat(said)
    for record, _ in lines.found:
        assert logging.INFO <= record.levelno <= logging.CRITICAL
        assert "\n" not in record.__dict__["source"]
