"""A training whose worker is killed under way, beside the same training unbroken."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from faults import claims, work
from faults.callers import Caller
from faults.cluster import Cluster
from faults.process import wait_for

JOB_SECONDS = 900.0
KILL_AT = 0.6
# A child tells of its steps at most twice a second.
TELLS_EVERY = 0.5
MOST_REPEATED = 0.10


@dataclass(slots=True)
class Resume:
    """`reached` is an upper bound of the steps done when the worker died, `went_on_at` is exact."""

    steps: int
    reached: int = 0
    went_on_at: int = 0
    unbroken: dict[str, Any] = field(default_factory=dict)
    broken_off: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def repeated(self) -> float:
        return max(0, self.reached - self.went_on_at) / self.steps

    def rows(self) -> list[list[object]]:
        first, second = self.unbroken, self.broken_off
        same = "the same" if first["sha256"] == second["sha256"] else "another"
        return [
            ["steps of the training", self.steps],
            ["steps done when the worker was killed, at most", self.reached],
            ["step at which the next attempt went on", self.went_on_at],
            ["steps repeated, at most", f"{100 * self.repeated:.1f} %"],
            ["model.onnx, compared with the unbroken run's", same],
            ["top-1 %, unbroken and killed", f"{first['top1']:.2f} and {second['top1']:.2f}"],
            [
                "seconds of the job, unbroken and killed",
                f"{first['seconds']:.0f} and {second['seconds']:.0f}",
            ],
            ["claims broken", "; ".join(self.broken) or "none"],
        ]


def run(cluster: Cluster, caller: Caller, inputs: work.Inputs, steps: int) -> Resume:
    body = inputs.job(work.training(iterations=steps), evaluation={"dataset_id": inputs.images})
    found = Resume(steps)
    found.unbroken = _ended(caller, caller.submit(body))
    id = caller.submit({**body, "labels": {"killed": "yes"}})
    found.reached = _kill_under_way(cluster, id, steps)
    found.went_on_at = _next_step(cluster, id)
    found.broken_off = _ended(caller, id)
    if found.repeated > MOST_REPEATED:
        found.broken.append(f"more than {100 * MOST_REPEATED:.0f} % of the steps were repeated")
    if abs(found.unbroken["top1"] - found.broken_off["top1"]) > 0.5:
        found.broken.append("another result")
    if found.broken_off["attempt"] != 2:
        found.broken.append(f"{found.broken_off['attempt']} attempts")
    found.broken += claims.broken_by(cluster.records, id, cluster.max_attempts)
    found.broken += claims.no_process_is_left(cluster)
    return found


def _kill_under_way(cluster: Cluster, id: str, steps: int) -> int:
    """Kills its worker; returns the most steps that can have been done by then."""
    records = cluster.records
    began: tuple[float, int] | None = None

    def far_enough() -> bool:
        nonlocal began
        row = records.job(id)
        assert row.status in ("queued", "running"), f"{id} is {row.status}"
        if row.phase == "training" and began is None:
            began = time.monotonic(), int(row.progress["step"])
        return row.phase == "training" and int(row.progress["step"]) >= KILL_AT * steps

    wait_for(far_enough, JOB_SECONDS, f"{id} has done {KILL_AT:.0%} of its steps", every=0.01)
    assert began is not None
    row, seen = records.job(id), time.monotonic()
    worker = cluster.worker_of(row.worker)
    assert worker is not None
    worker.kill()
    step = int(row.progress["step"])
    rate = (step - began[1]) / (seen - began[0])
    unseen = TELLS_EVERY + cluster.heartbeat_seconds + (time.monotonic() - seen)
    worker.start()
    return step + round(rate * unseen)


def _next_step(cluster: Cluster, id: str) -> int:
    """The step that the next attempt's training begins with: a new phase is written at once."""

    def trains_again() -> bool:
        row = cluster.records.job(id)
        return bool(row.attempt > 1 and row.phase == "training")

    wait_for(trains_again, JOB_SECONDS, f"{id} trains again", every=0.002)
    return int(cluster.records.job(id).progress.get("step", 0))


def _ended(caller: Caller, id: str) -> dict[str, Any]:
    job = caller.wait(id, JOB_SECONDS, every=0.5)
    if job["status"] != "succeeded":
        raise RuntimeError(f"{id} ended as {job['status']}: {job['error']}")
    report = caller.call("GET", f"/v1/jobs/{id}/report").json()
    artifacts = caller.call("GET", f"/v1/jobs/{id}/artifacts").json()["items"]
    return {
        "attempt": job["attempt"],
        "top1": report["accuracy"]["onnxruntime"]["top1"],
        "sha256": next(each["sha256"] for each in artifacts if each["name"] == "model.onnx"),
        "seconds": report["timings"]["total"],
    }
