from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from store.migrate import upgrade
from store.tables import Checkpoint, Dataset
from tests.hostile.measured import PREFIX, RECORDS
from tests.worker.world import World
from worker.inspections import KindName, inspect

# A checkpoint for `cifar/resnet8` with gray images of 8 x 8 pixels: small_network() of the integration tests.
NETWORK = {"architecture": "cifar/resnet8", "input_shape": [1, 8, 8]}


@dataclass
class Inspector:
    """A worker's inspections, with the child that reads the file watched from inside."""

    world: World
    folder: Path

    def look(
        self, kind: KindName, data: bytes, entry: str | None = None
    ) -> tuple[Checkpoint | Dataset, dict[str, Any]]:
        """The row as the inspection left it, and what the child did."""
        if kind == "checkpoint":
            id = self.world.checkpoint(data, state="pending")
            self.world.change(lambda work: setattr(work.checkpoints.get(id), "network", NETWORK))
        else:
            id = self.world.dataset(data, state="pending")
        inspect(self.world.services, kind, id, entry=PREFIX + (entry or f"inspect_{kind}"))
        rows = {"checkpoint": lambda work: work.checkpoints, "dataset": lambda work: work.datasets}
        row = self.world.change(lambda work: rows[kind](work).get(id))
        record = self.folder / RECORDS / row.blob_sha256
        return row, json.loads(record.read_text()) if record.exists() else {}


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / RECORDS).mkdir()
    url = f"sqlite:///{folder / 'zsq.db'}"
    upgrade(url)
    world = World(folder, url)
    world.services.settings.child_memory_gib = 8  # the least there is
    world.services.settings.inspection_seconds = 60
    yield Inspector(world, folder)
    world.services.database.dispose()
