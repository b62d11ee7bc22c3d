"""SIGKILL of every part at every phase of a job: which cells there are, one hit, and what it shows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil

from faults import claims, work
from faults.callers import Caller
from faults.cluster import Cluster
from faults.process import Process, wait_for
from faults.records import Event

PHASES = ("validating", "queued", "synthesizing", "training", "evaluating", "exporting", "publishing")
TARGETS = ("child", "worker", "API", "Valkey", "PostgreSQL")
NOT_VALID = {
    ("child", "queued"): "a queued job has no process yet",
    ("child", "publishing"): "the child has ended before its files are published",
}
CELLS = [(target, phase) for phase in PHASES for target in TARGETS if (target, phase) not in NOT_VALID]

END_SECONDS = 180.0
SIGHT_SECONDS = 90.0
MOST_TRIES = 12


class Missed(Exception):
    """The phase was over before the kill took effect: the cell says nothing, and is tried again."""


@dataclass(frozen=True, slots=True)
class Hit:
    """`seconds` from the kill to the job's end; `broken` is empty when every claim held."""

    status: str
    code: str | None
    attempts: int
    seconds: float
    broken: list[str]


@dataclass(slots=True)
class Cell:
    target: str
    phase: str
    hits: list[Hit] = field(default_factory=list)
    misses: int = 0

    def row(self) -> list[object]:
        ends = [hit.status if hit.code is None else f"{hit.status}: {hit.code}" for hit in self.hits]
        counted = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
        attempts = ", ".join(str(hit.attempts) for hit in self.hits)
        seconds = f"{statistics.median(hit.seconds for hit in self.hits):.1f}" if self.hits else "–"
        broken = "; ".join(broken for hit in self.hits for broken in hit.broken) or "none"
        return [self.phase, self.target, len(self.hits), self.misses, counted, attempts, seconds, broken]


COLUMNS = ["phase", "killed", "hits", "misses", "ends", "attempts", "s to the end, median", "claims broken"]


class Matrix:
    """Works on one long-lived cluster: what a kill breaks for good, the next cell runs into."""

    def __init__(self, cluster: Cluster, caller: Caller, inputs: work.Inputs) -> None:
        self._cluster, self._caller, self._inputs = cluster, caller, inputs
        self._records = cluster.records
        self._unseen = ""

    def run(self, cells: Sequence[tuple[str, str]], hits: int) -> list[Cell]:
        found = []
        for target, phase in cells:
            cell = Cell(target, phase)
            found.append(cell)
            while len(cell.hits) < hits and cell.misses < MOST_TRIES:
                try:
                    cell.hits.append(self.hit(target, phase))
                except Missed:
                    cell.misses += 1
            print(*cell.row(), sep=" | ", flush=True)
        return found

    def hit(self, target: str, phase: str) -> Hit:
        """Raises Missed."""
        others: list[str] = []
        if phase == "validating":
            job = self._submit_unseen()
        elif phase == "queued":
            job, others = self._submit_behind_others()
        else:
            job = self._caller.submit(self._job(phase))
        try:
            self._await(job, phase)
            killed_at, restart = self._kill(target, job, phase)
        except Missed:
            for id in (job, *others):
                self._caller.wait(id, END_SECONDS)
            raise
        restart()
        try:
            ended = [self._caller.wait(id, END_SECONDS) for id in (job, *others)]
        except TimeoutError as error:
            print(self._cluster.logs(), flush=True)
            return Hit("stuck", None, 0, END_SECONDS, [str(error)])
        seconds = (datetime.now(UTC) - killed_at).total_seconds()
        broken = self._broken(job, others)
        if not broken and not self._was_hit(target, phase, killed_at, job):
            raise Missed
        code = (ended[0]["error"] or {}).get("code")
        return Hit(ended[0]["status"], code, ended[0]["attempt"], seconds, broken)

    def _broken(self, job: str, others: Sequence[str]) -> list[str]:
        return [
            *(
                broken
                for id in (job, *others)
                for broken in claims.broken_by(self._records, id, self._cluster.max_attempts)
            ),
            *claims.files_are_whole(self._caller, self._records, job),
            *claims.no_process_is_left(self._cluster),
        ]

    # --- jobs that pass through the phase slowly

    def _job(self, phase: str) -> dict[str, Any]:
        inputs = self._inputs
        if phase == "synthesizing":
            return inputs.job(work.synthesizing(200))
        if phase == "training":
            return inputs.job(work.training(1.5))
        if phase == "evaluating":
            return inputs.job(work.SHORT, evaluation={"dataset_id": inputs.images})
        # Exporting a small network takes 20 ms: too short to be hit.
        assert phase == "publishing" or inputs.large is not None
        return inputs.job(work.SHORT, inputs.large)

    def _submit_unseen(self) -> str:
        """A job on a checkpoint that nobody has looked into yet."""
        seed = next(self._inputs.seeds)
        path = work.write_network(self._inputs.folder / "unseen.pt", work.SMALL_FIELDS, seed)
        checkpoint = self._caller.upload(path, work.SMALL_FIELDS)
        self._unseen = checkpoint
        return self._caller.submit(self._inputs.job(work.SHORT, checkpoint))

    def _submit_behind_others(self) -> tuple[str, list[str]]:
        """A short job that waits, and the jobs that keep every worker busy."""
        others = [self._caller.submit(self._inputs.job(work.training(3))) for _ in self._cluster.workers]
        for id in others:
            self._await(id, "training")
        return self._caller.submit(self._inputs.job(work.SHORT)), others

    # --- the moment

    def _await(self, job: str, phase: str) -> None:
        try:
            wait_for(lambda: self._seen(job, phase), SIGHT_SECONDS, f"{job} is {phase}", every=0.001)
        except TimeoutError as error:
            raise Missed from error

    def _seen(self, job: str, phase: str) -> bool:
        if phase == "validating":
            return bool(self._cluster.control.children())
        row = self._records.job(job)
        if row.status not in ("queued", "running"):
            raise Missed
        return bool(phase == (row.status if phase == "queued" else row.phase))

    def _kill(self, target: str, job: str, phase: str) -> tuple[datetime, Callable[[], None]]:
        """When it was dead, and how to bring back what does not come back by itself."""
        cluster = self._cluster
        if target == "PostgreSQL":
            assert cluster.postgres is not None
            cluster.postgres.kill()
            return datetime.now(UTC), cluster.postgres.start
        if target == "child":
            children = self._worker_at(job, phase).children()
            for child in children:
                child.kill()
            if not children or psutil.wait_procs(children, timeout=10)[1]:
                raise Missed
            return datetime.now(UTC), lambda: None
        named = {"API": cluster.apis[0], "Valkey": cluster.broker}
        process = named[target] if target in named else self._worker_at(job, phase)
        process.kill()
        return datetime.now(UTC), process.start

    def _worker_at(self, job: str, phase: str) -> Process:
        """Who works on it; of a queued job, one of those who are busy with the jobs ahead. Raises Missed."""
        if phase == "validating":
            return self._cluster.control
        if phase == "queued":
            return self._cluster.workers[0]
        worker = self._cluster.worker_of(self._records.job(job).worker)
        if worker is None:
            raise Missed
        return worker

    def _was_hit(self, target: str, phase: str, killed_at: datetime, job: str) -> bool:
        if phase == "validating":
            return self._records.decided_at(self._unseen) > killed_at
        return was_hit(target, phase, killed_at, self._records.events(job))


def was_hit(target: str, phase: str, killed_at: datetime, events: Sequence[Event]) -> bool:
    """Whether the job was still in that phase when the kill took effect, by its own events.

    An attempt whose child or worker was killed went no further. Any other kill ends no attempt: the next
    event came after it.
    """
    for event, after in zip(events, [*events[1:], None], strict=True):
        if event.value == phase and event.at <= killed_at:
            if target in ("child", "worker") and phase != "queued":
                return after is None or after.kind == "status"
            return after is None or after.at > killed_at
    return False
