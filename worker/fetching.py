"""Inputs on their way into a workspace, given up when nobody wants them any longer or they take too long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worker.outcomes import Stop
from worker.services import Services
from worker.transfers import Transfers
from worker.workspace import Workspace


class Inputs:
    """Of one attempt or inspection: all together may take `ZSQ_FETCH_SECONDS`. `watch` says why to stop."""

    def __init__(self, services: Services, space: Workspace, watch: Callable[[], Stop | None]) -> None:
        self._blobs = services.blobs
        self._space = space
        self._transfers = Transfers(watch, services.settings.fetch_seconds)

    def bring(self, sha256: str) -> Path:
        """As `Workspace.bring`, and raises Interrupted, and Unavailable when the time is over."""
        path = self._transfers.run(lambda go_on: self._space.bring(self._blobs, sha256, go_on))
        assert path is not None, "nobody has given it up"
        return path
