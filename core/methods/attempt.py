"""One attempt at a method: what it counts, what it has to say, and when it saves."""

from __future__ import annotations

from core.context import RunContext
from core.fake_quant.insert import Student
from core.methods.clock import Clock
from core.methods.save_point import SavePoint
from core.methods.saved_state import identity
from core.spec import GdfqSettings, ZaqSettings


class Attempt:
    """`notes` are sentences for the report; `identity` says whose states it writes and reads."""

    def __init__(self, student: Student, settings: GdfqSettings | ZaqSettings, context: RunContext) -> None:
        self.student, self.settings, self.context = student, settings, context
        self.clock, self.notes = Clock(settings.budget), list[str]()
        self.identity = identity(settings, student, context.seed)
        self.save_point = SavePoint(context, self.identity, self.clock, self.notes)
