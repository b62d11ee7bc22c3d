"""What people see while they wait: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from zsq.errors import ApiError, ClientError
from zsq.models import Job

PLAIN_SECONDS = 5.0  # between two plain lines within one phase


def console() -> Console:
    """Standard output. Piped or redirected, lines keep their length and carry no control codes."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160, color_system=None)


def print_error(error: ClientError) -> None:
    """On standard error: what went wrong, where in the request, and the code."""
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    code = f" [dim]({escape(error.code)})[/dim]" if isinstance(error, ApiError) else ""
    out.print(f"[red]error:[/red] {escape(error.detail)}{code}")
    for located in error.errors if isinstance(error, ApiError) else ():
        place = located.get("loc") or located.get("field") or ""
        place = ".".join(str(part) for part in place) if isinstance(place, list | tuple) else str(place)
        said = str(located.get("msg") or located.get("detail") or "")
        out.print(f"  {escape(place)}: {escape(said)}" if place else f"  {escape(said)}")


def duration(seconds: float | None) -> str:
    """`75` -> `1:15`; seconds below a minute keep their unit."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def news(job: Job) -> str:
    """One line on how far a job is: phase, steps, rest, losses."""
    parts = [job.phase or job.status if job.status == "running" else job.status]
    if job.status == "running" and job.progress.steps:
        parts.append(f"{job.progress.step}/{job.progress.steps}")
        if job.progress.eta_seconds is not None:
            parts.append(f"{duration(job.progress.eta_seconds)} left")
    if job.status == "running" and job.progress.steps:
        parts += [f"{name} {value:.3g}" for name, value in job.metrics.items() if _is_number(value)][:3]
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return "  ".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class JobProgress:
    """A context whose `show` is given to `Client.wait` as `on_change`."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._bar: Progress | None = None
        self._last_key: tuple[str, str | None] | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._out.is_terminal and not self._out.is_dumb_terminal:
            self._bar = Progress(
                BarColumn(30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
                console=self._out,
                transient=False,
            )
            self._bar.start()
            self._task = self._bar.add_task("queued", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, job: Job) -> None:
        fraction = 1.0 if job.status == "succeeded" else job.progress.fraction
        if self._bar:
            self._bar.update(self._task, completed=fraction, description=escape(news(job)))
            return
        key = (job.status, job.phase)
        now = time.monotonic()
        if key != self._last_key or now - self._last_line >= PLAIN_SECONDS:
            self._last_key, self._last_line = key, now
            self._out.print(f"{fraction:4.0%}  {news(job)}", markup=False)
            sys.stdout.flush()
