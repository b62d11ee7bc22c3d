"""`python -m store.doctor`: whether what the service keeps things in is there and fit for use."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select

from store.blobs import BlobStore, make_blobs
from store.database import Database
from store.findings import Check, Failure, Finding, examine, settings_finding, tell, variables
from store.migrate import schema_state
from store.queue import Queue
from store.settings import StoreSettings

GIB = 2**30
FREE_DISK_GIB, FREE_MEMORY_GIB = 5, 2
SKEW_SECONDS = 5.0


def findings() -> list[Finding]:
    settings_found = settings_finding("storage settings", StoreSettings)
    if settings_found.level == "failure":
        return [settings_found]
    settings = StoreSettings()
    database = Database.from_settings(settings)
    start = "Is it running, and is {} right? `zsq up` starts all parts on this machine."
    checks = [
        Check(
            "data folder", lambda: data_folder(settings.data_dir), "Set ZSQ_DATA_DIR to a folder of yours."
        ),
        Check("memory", memory, "See /proc/meminfo."),
        Check("broker", lambda: broker(settings), start.format("ZSQ_BROKER_URL")),
        Check(
            "blobs",
            lambda: blobs(make_blobs(settings.blobs_url, settings.s3_endpoint)),
            start.format("ZSQ_BLOBS_URL"),
        ),
    ]
    if is_missing(database):
        advice = "`zsq up` and python -m store.migrate make one."
        return [settings_found, *examine(checks), Finding("database", "warning", "there is none yet", advice)]
    checks += [
        Check("database", lambda: reachable(database), start.format("ZSQ_DATABASE_URL")),
        Check("migrations", lambda: migrations(database), "Make the database reachable first."),
        Check("clock", lambda: clock(database), "Make the database reachable first."),
    ]
    return [settings_found, *examine(checks)]


def is_missing(database: Database) -> bool:
    """A file that SQLite would make, empty, as soon as anybody looks."""
    url = database.engine.url
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


def data_folder(folder: Path) -> str | Finding:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"zsq")
    free = shutil.disk_usage(folder).free / GIB
    detail = f"{folder} is writable, {free:.1f} GiB free"
    if free < FREE_DISK_GIB:
        return Finding("data folder", "warning", detail, "Uploads and jobs need room: free some.")
    return detail


def memory() -> str | Finding:
    """What can be had without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) / 2**20 for name, rest in (line.split(":") for line in lines)}
    detail = f"{sizes['MemAvailable']:.1f} of {sizes['MemTotal']:.1f} GiB available"
    if sizes["MemAvailable"] < FREE_MEMORY_GIB:
        return Finding("memory", "warning", detail, "Jobs may be killed: stop other programs.")
    return detail


def reachable(database: Database) -> str:
    database.ping()
    return database.engine.url.render_as_string(hide_password=True)


def migrations(database: Database) -> str | Finding:
    state = schema_state(database)
    if state == "behind":
        raise Failure("the database lacks migrations", "Run python -m store.migrate (`zsq up` does).")
    if state == "ahead":
        advice = "Install the version of zsq that migrated it, here too."
        return Finding("migrations", "warning", "the database is newer than this zsq", advice)
    return "the newest"


def clock(database: Database) -> str | Finding:
    """Leases are compared with the clock of whoever looks, so the clocks must agree."""
    if database.engine.dialect.name == "sqlite":
        return "the database is on this machine"
    with database.connect() as connection:
        before = datetime.now(UTC)
        theirs = connection.scalar(select(func.clock_timestamp()))
        after = datetime.now(UTC)
    assert isinstance(theirs, datetime)
    skew = (theirs - before - (after - before) / 2).total_seconds()
    detail = f"{abs(skew):.2f} s {'behind' if skew > 0 else 'ahead of'} the database"
    if abs(skew) > SKEW_SECONDS:
        return Finding("clock", "warning", detail, "Let NTP keep the time on both machines.")
    return detail


def broker(settings: StoreSettings) -> str | Finding:
    queue = Queue(settings.broker_url)
    try:
        waiting = queue.depths()
    except Exception:
        if "broker_url" in settings.model_fields_set:
            raise
        advice = "Fine, if `zsq up` is to start one; else set ZSQ_BROKER_URL."
        return Finding("broker", "warning", "none is set, and none answers at the default address", advice)
    finally:
        queue.close()
    return ", ".join(f"{name}: {count}" for name, count in waiting.items()) + " messages"


def blobs(store: BlobStore) -> str:
    """Writes a few bytes, reads them, removes them."""
    data = b"zsq doctor " + os.urandom(16)
    with store.writer() as writer:
        writer.write(data)
        written = writer.commit()
    try:
        with store.open(written.sha256) as file:
            if file.read() != data:
                raise Failure("what was written reads otherwise", "Do not use this blob store.")
    finally:
        store.delete(written.sha256)
    return "written, read and removed"


if __name__ == "__main__":
    tell(findings(), variables(StoreSettings))
