"""Pollers and event streams beside a running job: how fast they are answered, how much they slow it."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Literal

from faults import work
from faults.callers import Caller
from faults.cluster import Cluster
from faults.wire import Wire, WireError

JOB_SECONDS = 900.0
# At least: of what takes long the API asks for more, in `Retry-After`.
POLITE_SECONDS = 1.0
MOST_SLOWED = 1.15
DATABASES: tuple[Literal["sqlite", "postgresql"], ...] = ("sqlite", "postgresql")


@dataclass(slots=True)
class Answers:
    """Milliseconds of every answer, and whatever was no answer."""

    milliseconds: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.milliseconds, n=100, method="inclusive")[percent - 1]

    @property
    def rate(self) -> float:
        return len(self.milliseconds) / self.seconds


@dataclass(slots=True)
class Load:
    """`alone` and `beside` are the seconds of the same training without and with the crowd around it."""

    database: str
    pollers: int
    streams: int
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    polite: Answers = field(default_factory=Answers)
    hurried: Answers = field(default_factory=Answers)
    events: int = 0
    unfinished_streams: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def slowed(self) -> float:
        return statistics.median(self.beside) / statistics.median(self.alone)

    def row(self) -> list[object]:
        return [
            self.database,
            f"{self.polite.rate:.0f}",
            f"{self.polite.percentile(50):.1f} / {self.polite.percentile(99):.1f}",
            self.polite.errors,
            self.events,
            f"{statistics.median(self.alone):.1f} → {statistics.median(self.beside):.1f}",
            f"{self.slowed:.2f}",
            f"{self.hurried.rate:.0f}",
            f"{self.hurried.percentile(50):.0f} / {self.hurried.percentile(99):.0f}",
            "; ".join(self.broken) or "none",
        ]


COLUMNS = [
    "database",
    "polls a second",
    "p50 / p99 ms",
    "errors",
    "events streamed",
    "training s, alone → beside them",
    "ratio",
    "polls a second without pause",
    "p50 / p99 ms",
    "claims broken",
]


def run(
    cluster: Cluster,
    caller: Caller,
    inputs: work.Inputs,
    *,
    pollers: int,
    streams: int,
    steps: int,
    repeats: int,
    hurried_seconds: float = 10.0,
) -> Load:
    """Trainings alone and beside the crowd in turns, so that a slow minute of the machine hits both."""
    found = Load(cluster.shape.database, pollers, streams)
    method = work.training(iterations=steps)
    for _ in range(repeats):
        id = caller.submit(inputs.job(method))
        found.alone.append(_training_seconds(caller, id))
        id = caller.submit(inputs.job(method))
        asyncio.run(_beside(cluster, id, found))
        found.beside.append(_training_seconds(caller, id))
    asyncio.run(_hurried(cluster, id, found, hurried_seconds))
    if found.slowed > MOST_SLOWED:
        found.broken.append(f"the job was slowed by more than {100 * (MOST_SLOWED - 1):.0f} %")
    if found.polite.errors or found.hurried.errors:
        found.broken.append("a poll was not answered")
    if found.unfinished_streams:
        found.broken.append(f"{found.unfinished_streams} streams ended before their job")
    return found


def _training_seconds(caller: Caller, id: str) -> float:
    ended = caller.wait(id, JOB_SECONDS, every=1.0)
    if ended["status"] != "succeeded":
        raise RuntimeError(f"{id} ended as {ended['status']}: {ended['error']}")
    report = caller.call("GET", f"/v1/jobs/{id}/report").json()
    return float(report["timings"]["training"])


async def _beside(cluster: Cluster, id: str, found: Load) -> None:
    """Everybody follows the job until it has ended."""
    url, began = cluster.urls[0], time.perf_counter()
    polls = [_poll(url, id, found.polite, number / found.pollers) for number in range(found.pollers)]
    follows = [_follow(url, id, found) for _ in range(found.streams)]
    await asyncio.gather(*polls, *follows)
    found.polite.seconds += time.perf_counter() - began


async def _poll(url: str, id: str, answers: Answers, begin: float) -> None:
    """Begins within the first interval at a time of its own, as strangers to each other do."""
    wire = Wire(url)
    await asyncio.sleep(begin * POLITE_SECONDS)
    while await _ask(wire, id, answers) in ("queued", "running"):
        await asyncio.sleep(POLITE_SECONDS)
    wire.close()


async def _ask(wire: Wire, id: str, answers: Answers) -> str:
    begin = time.perf_counter()
    try:
        job = await wire.json(f"/v1/jobs/{id}")
    except WireError:
        answers.errors += 1
        return "running"
    answers.milliseconds.append(1e3 * (time.perf_counter() - begin))
    return str(job["status"])


async def _follow(url: str, id: str, found: Load) -> None:
    """Reads the stream to its end, which comes with the job's."""
    last = b""
    try:
        async for line in Wire(url).events(f"/v1/jobs/{id}/events"):
            found.events += line.startswith(b"event:")
            last = line if line.startswith(b"data:") else last
    except WireError:
        found.broken.append("a stream was not answered")
    found.unfinished_streams += b"succeeded" not in last


async def _hurried(cluster: Cluster, id: str, found: Load, seconds: float) -> None:
    """The same clients asking again as soon as they are answered, beside no job."""
    began = time.perf_counter()

    async def hurry() -> None:
        wire = Wire(cluster.urls[0])
        while time.perf_counter() - began < seconds:
            await _ask(wire, id, found.hurried)
        wire.close()

    await asyncio.gather(*(hurry() for _ in range(found.pollers)))
    found.hurried.seconds = time.perf_counter() - began
