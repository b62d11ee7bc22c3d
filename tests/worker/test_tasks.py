from __future__ import annotations

import pytest

from tests.worker.world import World
from worker import tasks


def test_bytes_are_collected_though_rows_cannot_be_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(services: object) -> None:
        raise ConnectionError("the database broke off")

    world.configure(collect_grace_seconds=0)
    unnamed = world.blob(b"named by nobody")
    monkeypatch.setattr(tasks, "services", lambda: world.services)
    monkeypatch.setattr(tasks.retention, "expire", broken)
    tasks.collect()
    assert not world.services.blobs.exists(unnamed)
