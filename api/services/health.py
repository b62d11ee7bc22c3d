"""Whether what the API stands on answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, wait

from api.deps import Resources
from api.schemas.health import Check
from api.services.probe import Probe
from store.database import Database
from store.migrate import schema_state

log = logging.getLogger(__name__)

# All parts are asked at once, so this is also the longest that the whole answer takes.
LIMIT_SECONDS = 2.5


class Health:
    """The parts, asked at the same time; one that hangs counts as away after `LIMIT_SECONDS`.

    Workers are no part of it: without them the API still takes jobs, and taking it out of service
    would help nobody. Their own metrics and the age of the oldest queued job tell of them.
    """

    def __init__(self, resources: Resources) -> None:
        asks: dict[str, Callable[[], Check]] = {
            "database": _answering(resources.database.ping),
            "migrations": lambda: _schema(resources.database),
            "broker": _answering(resources.queue.ping),
            "blobs": _answering(resources.blobs.ping),
        }
        self._probes = [Probe(name, ask) for name, ask in asks.items()]

    def check(self) -> dict[str, Check]:
        answers = {probe.name: probe.answer() for probe in self._probes}
        wait(answers.values(), timeout=LIMIT_SECONDS)
        checks = {name: _check(name, answer) for name, answer in answers.items()}
        if not checks["database"].ok:
            del checks["migrations"]  # nobody knows
        return checks


def _answering(ping: Callable[[], None]) -> Callable[[], Check]:
    def ask() -> Check:
        ping()
        return Check(ok=True)

    return ask


def _schema(database: Database) -> Check:
    state = schema_state(database)
    if state == "behind":
        return Check(ok=False, detail="The database lacks migrations: run python -m store.migrate.")
    # While versions are exchanged one by one, the newer one has migrated already.
    return Check(ok=True, detail="The database is newer than this API." if state == "ahead" else None)


def _check(name: str, answer: Future[Check]) -> Check:
    if not answer.done():
        log.warning("%s does not answer within %g s", name, LIMIT_SECONDS)
        return Check(ok=False, detail=f"The {name} did not answer within {LIMIT_SECONDS:g} s.")
    if error := answer.exception():  # each driver has its own; a URL's password must not come out
        log.warning("%s does not answer: %s", name, error)
        return Check(ok=False, detail=f"The {name} does not answer ({type(error).__name__}).")
    return answer.result()
