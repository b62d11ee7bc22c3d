from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.world import World


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> Iterator[World]:
    """On SQLite, and again on PostgreSQL."""
    world = World(tmp_path, database_url)
    yield world
    world.services.database.dispose()
