"""The short form of `benchmarks/reliability.py`: faults on a zsq of real processes, and what still holds."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CELLS = [
    ("worker", "validating"),
    ("Valkey", "queued"),
    ("PostgreSQL", "synthesizing"),
    ("child", "training"),
    ("API", "evaluating"),
    ("worker", "publishing"),
]


class World:
    """A cluster with two APIs and three workers, and the programs in benchmarks/faults that strain it."""

    def __init__(self, cluster: Any, caller: Any, folder: Path) -> None:
        self.cluster, self.caller = cluster, caller
        self.inputs = importlib.import_module("faults.work").Inputs.upload(
            caller, folder, images=3000, large=False
        )


@pytest.fixture(scope="module")
def world(harness: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cluster, callers = importlib.import_module("faults.cluster"), importlib.import_module("faults.callers")
    with cluster.Cluster(cluster.Shape(apis=2, workers=3, blobs="s3")) as running:
        with callers.Caller(running.urls) as caller:
            yield World(running, caller, tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(("target", "phase"), CELLS)
def test_a_job_ends_once_whatever_is_killed_under_it(world: World, target: str, phase: str) -> None:
    kill_matrix = importlib.import_module("faults.kill_matrix")
    (cell,) = kill_matrix.Matrix(world.cluster, world.caller, world.inputs).run([(target, phase)], hits=1)
    (hit,) = cell.hits
    assert (hit.status, hit.broken) == ("succeeded", []), world.cluster.logs()
    assert hit.attempts >= (2 if target == "child" or phase == "publishing" else 1)


def test_many_clients_lose_nothing_and_get_nothing_twice_while_workers_die(world: World) -> None:
    crowd = importlib.import_module("faults.crowd")
    # Two kills cannot spend the three attempts of a job.
    found = crowd.run(world.cluster, world.inputs, jobs=12, clients=4, every=2.0, most_kills=2)
    assert found.broken == [], world.cluster.logs()
    assert found.ends == {"succeeded": 12} and found.results == 12
    assert found.sent > 12 and found.kills == 2


def test_a_worker_that_slept_through_its_lease_changes_nothing(world: World) -> None:
    stale = importlib.import_module("faults.stale")
    found = stale.run(world.cluster, world.caller, world.inputs, "training", awake_seconds=3.0)
    assert found.broken == [], world.cluster.logs()
    assert found.attempts == 2


def test_no_blob_is_lost_and_none_is_left_over(world: World) -> None:
    """Runs last: over all that the others have left."""
    claims = importlib.import_module("faults.claims")
    assert claims.blobs_are_named(world.cluster.records, 60) == [], world.cluster.logs()
