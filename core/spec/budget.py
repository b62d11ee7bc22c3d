"""How long a method trains."""

from __future__ import annotations

from dataclasses import dataclass

from core.spec.fields import CONFIG, Iterations, Seconds


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a method trains: generator iterations, or seconds. Exactly one of the two."""

    __pydantic_config__ = CONFIG

    iterations: Iterations | None = None
    seconds: Seconds | None = None

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.seconds is None):
            raise ValueError("budget takes exactly one of iterations and seconds")
