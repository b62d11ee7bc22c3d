"""A worker that sleeps through its lease and wakes when another one has done its job."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from faults import claims, work
from faults.callers import Caller
from faults.cluster import Cluster
from faults.process import thaw, wait_for

JOB_SECONDS = 120.0
AWAKE_SECONDS = 8.0


@dataclass(slots=True)
class Stale:
    phase: str
    attempts: int = 0
    asleep: float = 0.0
    awake: float = 0.0
    broken: list[str] = field(default_factory=list)

    def row(self) -> list[object]:
        broken = "; ".join(self.broken) or "none"
        return [self.phase, self.attempts, f"{self.asleep:.1f}", f"{self.awake:g}", broken]


COLUMNS = ["asleep since", "attempts", "s asleep", "s watched awake", "claims broken"]


def run(
    cluster: Cluster,
    caller: Caller,
    inputs: work.Inputs,
    phase: str,
    awake_seconds: float = AWAKE_SECONDS,
) -> Stale:
    """`phase`: training, where the child works, or publishing, where the worker itself does."""
    body = inputs.job(work.training(3)) if phase == "training" else inputs.job(work.SHORT, inputs.large)
    found = Stale(phase, awake=awake_seconds)
    id = caller.submit(body)
    wait_for(lambda: cluster.records.job(id).phase == phase, JOB_SECONDS, f"{id} is {phase}", every=0.001)
    sleeper = cluster.worker_of(cluster.records.job(id).worker)
    assert sleeper is not None
    asleep, began = sleeper.freeze(), time.monotonic()
    try:
        caller.wait(id, JOB_SECONDS)
        # The worker that did the job lets go of the training's state a moment after its end.
        wait_for(lambda: cluster.records.whole_job(id)["row"]["resume_sha256"] is None, JOB_SECONDS, "tidied")
        before = cluster.records.whole_job(id)
        blobs = cluster.records.named_blobs()
    finally:
        found.asleep = time.monotonic() - began
        thaw(asleep)
    # What it still had to say, it says within some heartbeats.
    end = time.monotonic() + awake_seconds
    while time.monotonic() < end and not found.broken:
        found.broken += (
            [] if cluster.records.whole_job(id) == before else ["the row, its events or artifacts"]
        )
        found.broken += [] if cluster.records.named_blobs() == blobs else ["the blobs that rows name"]
        time.sleep(0.1)
    found.attempts = int(before["row"]["attempt"])
    if found.attempts < 2 or before["row"]["worker"].endswith(f":{sleeper.pid}"):
        found.broken.append("the sleeping worker did the job itself: nothing is shown")
    found.broken += claims.broken_by(cluster.records, id, cluster.max_attempts)
    found.broken += claims.no_process_is_left(cluster)
    # It must be of use again.
    follower = [caller.submit(inputs.job(work.training(1))) for _ in cluster.workers]
    ended = [caller.wait(each, JOB_SECONDS)["status"] for each in follower]
    if set(ended) != {"succeeded"}:
        found.broken.append(f"afterwards, jobs ended as {ended}")
    return found
