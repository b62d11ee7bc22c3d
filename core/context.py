"""What a run is told about the world around it: device, seed, progress, stops, scratch, what was saved."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.errors import Canceled, DeadlineExceeded, HandedBack

# The share of a job's time that each phase usually takes; only the progress bar depends on it.
# "baseline" is the round-to-nearest network that the method's result is compared with.
PHASE_WEIGHTS: Mapping[str, float] = {
    "loading": 0.02,
    "baseline": 0.06,
    "synthesizing": 0.12,
    "training": 0.67,
    "evaluating": 0.05,
    "exporting": 0.02,
    "verifying": 0.06,
}
WEIGHTS_WITHOUT_TRAINING: Mapping[str, float] = {
    "loading": 0.05,
    "synthesizing": 0.65,
    "evaluating": 0.1,
    "exporting": 0.05,
    "verifying": 0.15,
}


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of news from a run.

    `fraction` is of the whole job in [0, 1] and never falls; `step` of `steps` counts within the
    phase; `eta_seconds` estimates the rest of the phase; `metrics` are the current losses.
    """

    phase: str
    fraction: float
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def pick_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(slots=True)
class RunContext:
    """Handed to every long-running function of core.

    `emit` receives news at most once every `interval` seconds, and at every change of phase.
    `canceled` is asked at every step. `deadline` is on the clock of `time.monotonic`;
    `deadline_field` names the user's option that set it, None when it is the server's own.

    `resume_from` is a file that an earlier attempt at the same run handed to its `keep`. `keep` takes a
    finished file under `scratch`, of another name each time, and whoever receives it deletes it; without
    it nothing is saved. `hand_back` says that the machine is wanted back: save and end.
    """

    scratch: Path
    seed: int = 0
    device: torch.device = field(default_factory=pick_device)
    emit: Callable[[Progress], None] = lambda progress: None
    canceled: Callable[[], bool] = lambda: False
    deadline: float | None = None
    deadline_field: str | None = "limits.seconds"
    resume_from: Path | None = None
    keep: Callable[[Path], None] | None = None
    hand_back: Callable[[], bool] = lambda: False
    interval: float = 0.5
    timings: dict[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=lambda: PHASE_WEIGHTS)
    _depth: int = field(default=0, init=False)
    _phase: str = field(default="loading", init=False)
    _phase_began: float = field(default=0.0, init=False)
    _phase_share: float = field(default=0.0, init=False)
    _saving: bool = field(default=False, init=False)
    _done: float = field(default=0.0, init=False)
    _furthest: float = field(default=0.0, init=False)
    _last_emit: float = field(default=0.0, init=False)

    def seed_everything(self) -> torch.Generator:
        """Seeds Python's and torch's generators; returns a CPU generator of the same seed."""
        random.seed(self.seed)
        torch.manual_seed(self.seed)
        return torch.Generator().manual_seed(self.seed)

    @contextmanager
    def phase(self, name: str, step: int = 0, steps: int = 0) -> Iterator[None]:
        """Names the phase, times it into `timings[name]` (seconds, summed over repeats).

        `step` of `steps` were done by an earlier attempt. A phase inside another is part of it, and not
        told apart.
        """
        self.check()
        if self._depth:
            yield
            return
        self._phase, self._phase_began, self._phase_share = name, time.monotonic(), _share(step, steps)
        self._send(Progress(name, self._fraction(self._phase_share), step, steps), force=True)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            seconds = time.monotonic() - self._phase_began
            self.timings[name] = self.timings.get(name, 0.0) + seconds
            self._done = min(1.0, self._done + self.weights.get(name, 0.0))

    def step(self, step: int, steps: int, metrics: Mapping[str, float] | None = None) -> None:
        """Reports that `step` of `steps` is done, and stops the run if it was told to stop."""
        self.check()
        share = _share(step, steps)
        elapsed, here = time.monotonic() - self._phase_began, share - self._phase_share
        self._send(
            Progress(
                phase=self._phase,
                fraction=self._fraction(share),
                step=step,
                steps=steps,
                eta_seconds=elapsed * (1 - share) / here if here > 0 else None,
                metrics=dict(metrics or {}),
            )
        )

    def _fraction(self, share: float) -> float:
        # A phase of several passes counts its steps anew; the bar waits until it is past where it was.
        now = self._done + self.weights.get(self._phase, 0.0) * share
        self._furthest = min(1.0, max(self._furthest, now))
        return self._furthest

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, save points (`core.methods.save_point`) heed `hand_back` in place of `check`."""
        self._saving = self.keep is not None
        try:
            yield
        finally:
            self._saving = False

    def check(self) -> None:
        """Raises `Canceled`, `DeadlineExceeded` or `HandedBack` when the run must stop."""
        if self.canceled():
            raise Canceled("The job was canceled.")
        if self.deadline is not None and time.monotonic() > self.deadline:
            what = self.deadline_field or "the longest time that this server gives a job"
            raise DeadlineExceeded(
                f"The job ran past {what}. Raise the limit, or give the method a smaller budget.",
                field=self.deadline_field,
            )
        if not self._saving and self.hand_back():
            raise HandedBack("The worker was told to end; the job goes on in another one.")

    def _send(self, progress: Progress, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._last_emit >= self.interval:
            self._last_emit = now
            self.emit(progress)


def _share(step: int, steps: int) -> float:
    return min(1.0, step / steps) if steps else 0.0
