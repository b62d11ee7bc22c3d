from __future__ import annotations

from collections.abc import Iterator

import pytest

from store.blobs import BlobStore, make_blobs
from store.database import Database, make_engine


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(make_engine(database_url))
    yield database
    database.dispose()


@pytest.fixture
def blobs(blobs_url: str) -> BlobStore:
    return make_blobs(blobs_url)
