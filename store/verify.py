"""`python -m store.verify [--deep]`: whether every blob that a row names is there.

`--deep` reads each of them and compares its sha256, which takes as long as reading all of it takes.
Exits with 1 when anything that is needed is missing or has other bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from store.blob_repository import Named
from store.blobs import BlobStore, make_blobs
from store.database import Database
from store.errors import BlobMissing
from store.settings import store_settings


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` is missing or damaged; `named` are the rows that name these bytes."""

    sha256: str
    what: str
    named: tuple[Named, ...]

    @property
    def serious(self) -> bool:
        return any(each.needed for each in self.named)


def verify(database: Database, blobs: BlobStore, *, deep: bool = False) -> tuple[int, list[Fault]]:
    """(How many blobs the rows name, what is wrong with them.) Raises Unavailable."""
    rows: dict[str, list[Named]] = defaultdict(list)
    with database.read() as work:
        for named in work.blobs.named():
            rows[named.sha256].append(named)
    return len(rows), list(_faults(rows, blobs, deep))


def _faults(rows: dict[str, list[Named]], blobs: BlobStore, deep: bool) -> Iterator[Fault]:
    for sha256, named in rows.items():
        if not blobs.exists(sha256):
            yield Fault(sha256, "missing", tuple(named))
        elif deep and not _intact(blobs, sha256):
            yield Fault(sha256, "damaged", tuple(named))


def _intact(blobs: BlobStore, sha256: str) -> bool:
    try:
        with blobs.open(sha256) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256  # type: ignore[arg-type]
    except BlobMissing:  # deleted since
        return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m store.verify", description=__doc__)
    parser.add_argument("--deep", action="store_true", help="read every blob and compare its sha256")
    deep = parser.parse_args().deep
    settings = store_settings()
    database = Database.from_settings(settings)
    count, faults = verify(database, make_blobs(settings.blobs_url, settings.s3_endpoint), deep=deep)
    for fault in faults:
        for named in fault.named:
            weight = "" if named.needed else " (it begins anew)"
            print(f"{fault.what} {fault.sha256}: {named.by}{weight}")
    print(f"{count} blobs are named, {len(faults)} of them missing or damaged")
    sys.exit(any(fault.serious for fault in faults))


if __name__ == "__main__":
    main()
