"""Shows that an inspection goes on, so that the sweep does not send it again while it runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any

from store import tracing
from store.database import Database, UnitOfWork
from store.repositories import UploadRepository
from worker.timer import Timer


class InspectionLease:
    """Renews the `mark` of an inspection that has begun, every so many seconds, in a thread of its own.

    Who lets it run out is not stopped: what was sent again or begun anew meanwhile has another mark, and
    whatever is written with this one changes nothing.
    """

    def __init__(
        self,
        database: Database,
        rows: Callable[[UnitOfWork], UploadRepository[Any]],
        id: str,
        mark: datetime,
        *,
        every: float,
    ) -> None:
        self._database = database
        self._rows = rows
        self._id = id
        self.mark = mark
        self._timer = Timer(f"lease of {id}", every, self.beat)

    def __enter__(self) -> InspectionLease:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.stop()

    def beat(self) -> None:
        with tracing.untraced(), self._database.write() as work:
            mark = self._rows(work).keep_inspecting(self._id, self.mark)
        self.mark = mark or self.mark
