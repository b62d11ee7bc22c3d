from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from store.database import Database
from store.tables import PartialUpload, new_id, utc_now

LATER = utc_now() + timedelta(hours=1)


def added(database: Database, length: int = 10) -> str:
    with database.write() as work:
        row = PartialUpload(
            id=new_id("up"), owner="local", kind="checkpoint", fields={}, length=length, offset=0
        )
        row.expires_at = LATER
        return work.partial_uploads.add(row).id


def append(database: Database, id: str, sha256: str, size: int) -> None:
    with database.write() as work:
        row = work.partial_uploads.hold(id, "local")
        assert row is not None
        work.partial_uploads.append(row, sha256, size, LATER)


def test_parts_come_back_in_the_order_of_their_bytes(database: Database) -> None:
    id = added(database)
    append(database, id, "ff" * 32, 3)
    append(database, id, "aa" * 32, 4)
    with database.read() as work:
        row = work.partial_uploads.get(id, "local")
        assert row is not None and row.offset == 7
        parts = [(part.offset, part.bytes, part.blob_sha256[:2]) for part in work.partial_uploads.parts(id)]
        assert parts == [(0, 3, "ff"), (3, 4, "aa")]
        assert work.partial_uploads.count_parts(id) == 2
        assert work.partial_uploads.get(id, "somebody else") is None


def test_pages_are_newest_first_and_hold_what_is_begun(database: Database) -> None:
    ids = [added(database) for _ in range(5)]
    with database.write() as work:
        row = work.partial_uploads.hold(ids[3], "local")
        assert row is not None
        work.partial_uploads.complete(row, "ckpt_1")
    with database.read() as work:
        first, cursor = work.partial_uploads.page("local", 3)
        rest, end = work.partial_uploads.page("local", 3, cursor)
        assert work.partial_uploads.page("somebody else", 3) == ([], None)
    left = sorted({*ids} - {ids[3]}, reverse=True)
    assert [row.id for row in first] == left[:3]
    assert [row.id for row in rest] == left[3:] and end is None


def test_a_part_keeps_its_bytes_in_use_until_the_upload_is_complete_or_gone(database: Database) -> None:
    ids = [added(database), added(database)]
    sha256s = ("12" * 32, "34" * 32)
    for id, sha256 in zip(ids, sha256s, strict=True):
        append(database, id, sha256, 10)
    with database.write() as work:
        assert work.blobs.in_use(sha256s) == set(sha256s)
        row = work.partial_uploads.hold(ids[0], "local")
        assert row is not None
        work.partial_uploads.complete(row, "ckpt_1")
        work.partial_uploads.delete(ids[1])
    with database.read() as work:
        assert work.blobs.in_use(sha256s) == set()
        kept = work.partial_uploads.get(ids[0], "local")
        assert kept is not None and kept.resource_id == "ckpt_1"
        assert work.partial_uploads.get(ids[1], "local") is None


def test_one_at_a_time_appends(database: Database) -> None:
    id = added(database, length=16)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append(database, id, f"{n:02x}" * 32, 1), range(16)))
    with database.read() as work:
        assert [part.offset for part in work.partial_uploads.parts(id)] == list(range(16))
