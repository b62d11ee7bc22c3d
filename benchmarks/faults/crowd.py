"""Many clients, each sending every job twice or more, while workers are killed one after the other."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from faults import claims, work
from faults.callers import Caller
from faults.cluster import Cluster
from store.transitions import ENDED

JOB_SECONDS = 1800.0
POLL_SECONDS = 1.0
TELL_SECONDS = 30.0


@dataclass(slots=True)
class Crowd:
    """What became of it. `sent` counts submissions, copies with the same key included."""

    jobs: int
    clients: int
    sent: int = 0
    kills: int = 0
    repeats: int = 0
    seconds: float = 0.0
    attempts: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    results: int = 0
    broken: list[str] = field(default_factory=list)

    def rows(self) -> list[list[object]]:
        return [
            ["jobs asked for, each with a seed and a key of its own", self.jobs],
            ["clients", self.clients],
            ["submissions sent, copies with the same key included", self.sent],
            ["calls that a client had to repeat", self.repeats],
            ["workers killed", self.kills],
            ["seconds", f"{self.seconds:.0f}"],
            ["jobs by their end", _counted(self.ends)],
            ["jobs by the attempts they took", _counted(self.attempts)],
            ["distinct results", self.results],
            ["claims broken", "; ".join(self.broken) or "none"],
        ]


def run(
    cluster: Cluster,
    inputs: work.Inputs,
    *,
    jobs: int,
    clients: int,
    every: float,
    most_kills: int | None = None,
) -> Crowd:
    """`every`: seconds between two kills. Each client sends its share and waits for its end."""
    crowd, began = Crowd(jobs, clients), time.monotonic()
    before = {row.id for row in cluster.records.jobs()}
    numbers = itertools.count()
    done = threading.Event()
    lock = threading.Lock()
    ids: dict[int, str] = {}

    def client() -> None:
        with ExitStack() as stack:
            # Each of the others begins with another API.
            urls = [cluster.urls[turn:] + cluster.urls[:turn] for turn in range(len(cluster.urls))]
            callers = [stack.enter_context(Caller(each, over=done)) for each in urls]
            mine: list[str] = []
            while not done.is_set() and (number := next(numbers)) < jobs:
                found = _send(callers, inputs, number)
                with lock:
                    crowd.sent += len(found)
                    ids[number] = found[0]
                    if len(set(found)) > 1:
                        crowd.broken.append(f"one key made several jobs: {sorted(set(found))}")
                mine.append(found[0])
            for id in mine:
                callers[0].wait(id, JOB_SECONDS, every=POLL_SECONDS)
            with lock:
                crowd.repeats += sum(caller.repeats for caller in callers)

    def tell() -> None:
        statuses = [row.status for row in cluster.records.jobs() if row.id not in before]
        ended = sum(status in ENDED for status in statuses)
        at = f"after {time.monotonic() - began:.0f} s"
        print(f"crowd: {at} {ended} of {jobs} jobs have ended, {crowd.kills} workers killed", flush=True)

    killer = threading.Thread(target=lambda: _kill_in_turns(cluster, crowd, every, most_kills, done))
    killer.start()
    try:
        with ThreadPoolExecutor(clients, "client") as pool:
            try:
                _wait([pool.submit(client) for _ in range(clients)], tell)
            finally:
                done.set()  # before the pool is left: that waits for its clients, as they for their jobs
    finally:
        killer.join()
    crowd.seconds = time.monotonic() - began
    made = {row.id: row for row in cluster.records.jobs() if row.id not in before}
    _count(crowd, cluster, ids, made)
    return crowd


def _wait(clients: Collection[Future[None]], tell: Callable[[], None]) -> None:
    """Raises what the first client raises; `tell` is called now and then."""
    left = set(clients)
    while left:
        ended, left = wait(left, TELL_SECONDS, FIRST_EXCEPTION)
        for client in ended:
            client.result()
        if left:
            tell()


def _send(callers: Sequence[Caller], inputs: work.Inputs, number: int) -> list[str]:
    """The ids of the answers: one request, sent once to three times at once, with one key."""
    body = {**inputs.job(work.SHORT), "labels": {"number": str(number)}}
    key = uuid.uuid4().hex
    copies = random.Random(number).randint(1, 3)
    with ThreadPoolExecutor(copies) as pool:
        return list(pool.map(lambda turn: callers[turn % len(callers)].submit(body, key), range(copies)))


def _kill_in_turns(
    cluster: Cluster, crowd: Crowd, every: float, most: int | None, done: threading.Event
) -> None:
    """Each time the next worker that has a job: one that still starts has nothing to lose."""
    turns = itertools.cycle(cluster.workers)
    while crowd.kills != most and not done.wait(every):
        worker = next(turns)
        while not worker.children():
            if done.wait(0.02):
                return
            worker = next(turns)
        worker.kill()
        worker.start()
        crowd.kills += 1


def _count(crowd: Crowd, cluster: Cluster, ids: dict[int, str], made: dict[str, Any]) -> None:
    records = cluster.records
    for id in made.keys() - ids.values():
        crowd.broken.append(f"nobody was told of {id}")
    if not claims.distinct(ids.values()) or len(ids) != crowd.jobs:
        crowd.broken.append(f"{crowd.jobs} jobs were asked for, {len(set(ids.values()))} were made")
    sums = set()
    for id in sorted(set(ids.values())):
        job = records.job(id)
        crowd.attempts[job.attempt] += 1
        crowd.ends[job.status if job.error is None else f"{job.status}: {job.error.get('code')}"] += 1
        crowd.broken += claims.broken_by(records, id, cluster.max_attempts)
        if job.status == "succeeded":
            sums.add(records.artifacts(id).get("report.json"))
    crowd.results = len(sums)
    if crowd.results != crowd.jobs:
        crowd.broken.append(f"{crowd.jobs} jobs were asked for, {crowd.results} have a result of their own")
    crowd.broken += claims.no_process_is_left(cluster)


def _counted(counter: Counter[Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items(), key=str)) or "none"
