"""When a training's state is saved: often enough to lose little, seldom enough to cost little."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.context import RunContext
from core.errors import HandedBack
from core.methods import saved_state
from core.methods.clock import Clock
from core.methods.saved_state import Identity, TooLarge

BUDGET_SHARE = 0.05  # of the budget, or
SECONDS = 60.0  # since the last save, whichever comes first
FLOOR_SECONDS = 2.0
TIME_SHARE = 0.02  # that saving may take

_ROUNDING = 1e-9

log = logging.getLogger(__name__)


class SavePoint:
    """Reached once an iteration; saves when it is due, and always before a run is handed back.

    A file that cannot be written, or not be read back for its size, costs a note, not the run.
    """

    def __init__(self, context: RunContext, identity: Identity, clock: Clock, notes: list[str]) -> None:
        self.context, self.identity, self.clock, self.notes = context, identity, clock, notes
        self._cost = 0.0
        self._failed = False
        self.mark()

    def mark(self) -> None:
        """What is done until now counts as saved."""
        self._saved_at, self._saved_share = time.monotonic(), self.clock.training_share()

    def reach(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Raises HandedBack where the run is to be handed back."""
        if self.context.keep is None:
            return
        wanted_back = self.context.hand_back()
        if wanted_back or self._is_due():
            self._save(self.context.keep, state)
        if wanted_back:
            raise HandedBack("The worker was told to end; the job goes on in another one.")

    def _is_due(self) -> bool:
        seconds = time.monotonic() - self._saved_at
        if seconds < max(FLOOR_SECONDS, self._cost * (1 / TIME_SHARE - 1)):
            return False
        share = self.clock.training_share() - self._saved_share
        return seconds >= SECONDS or share >= BUDGET_SHARE - _ROUNDING

    def _save(self, keep: Callable[[Path], None], state: Callable[[], Mapping[str, Any]]) -> None:
        began = time.monotonic()
        try:
            path = saved_state.write(self.context.scratch, self.identity, state())
        except (OSError, RuntimeError, TooLarge) as error:
            self._complain(error)
        else:
            keep(path)
        self._cost = time.monotonic() - began
        self.mark()

    def _complain(self, error: Exception) -> None:
        """Once: in the report, and in the log, since a run that is handed back leaves no report."""
        if self._failed:
            return
        self._failed = True
        if isinstance(error, TooLarge):
            reason = str(error)
        else:
            reason = getattr(error.__context__ or error, "strerror", None) or type(error).__name__
        self.notes.append(f"The training's state could not be saved ({reason}).")
        log.warning("the training's state could not be saved: %s", reason)
