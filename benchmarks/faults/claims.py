"""What must hold of every job and of the whole, whatever was killed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from faults.callers import Caller
from faults.cluster import Cluster
from faults.process import wait_for
from faults.records import Records

ARTIFACTS = frozenset({"model.onnx", "report.json", "samples.png", "student.safetensors"})


def broken_by(records: Records, job_id: str, max_attempts: int) -> list[str]:
    """What an ended job breaks of: ended once, clear code or all artifacts, attempts bounded."""
    job, events = records.job(job_id), records.events(job_id)
    ends = [event.value for event in events if event.ends]
    broken = []
    if ends != [job.status]:
        broken.append(f"{job_id} is {job.status}, and its events tell of these ends: {ends}")
    starts = [event for event in events if event.kind == "status" and event.value == "running"]
    if job.attempt > max_attempts:
        broken.append(f"{job_id} was started {job.attempt} times")
    if len(starts) < 1 and job.status == "succeeded":
        broken.append(f"{job_id} succeeded without having begun")
    artifacts = records.artifacts(job_id)
    if (job.status == "succeeded") != (set(artifacts) >= ARTIFACTS) or (
        job.status != "succeeded" and artifacts
    ):
        broken.append(f"{job_id} is {job.status} and has {sorted(artifacts)}")
    if job.status == "failed" and not (job.error or {}).get("code"):
        broken.append(f"{job_id} failed without a code")
    if job.status == "failed" and (job.error or {}).get("code") == "internal_error":
        broken.append(f"{job_id} failed with no clear code: {job.error}")
    return broken


def files_are_whole(caller: Caller, records: Records, job_id: str) -> list[str]:
    """Downloads every artifact and compares its sum."""
    return [
        f"{job_id}: {name} has another sum than its row"
        for name, sha256 in records.artifacts(job_id).items()
        if hashlib.sha256(caller.artifact(job_id, name)).hexdigest() != sha256
    ]


def no_process_is_left(cluster: Cluster, seconds: float = 15) -> list[str]:
    """Once no job runs: no child of a worker, and nothing at all of those that were killed."""
    try:
        wait_for(lambda: not (cluster.left_over() or cluster.jobs_running()), seconds, "they end")
    except TimeoutError:
        return [f"still alive: {process}" for process in [*cluster.left_over(), *cluster.jobs_running()]]
    return []


def blobs_are_named(records: Records, seconds: float) -> list[str]:
    """After collection the store holds what rows name, and nothing else."""
    lost = records.named_blobs() - records.stored_blobs()
    broken = [f"named by a row and not stored: {sha256}" for sha256 in sorted(lost)]
    try:
        wait_for(lambda: records.stored_blobs() <= records.named_blobs(), seconds, "collection", every=0.5)
    except TimeoutError:
        orphans = records.stored_blobs() - records.named_blobs()
        broken += [f"stored and named by no row: {sha256}" for sha256 in sorted(orphans)]
    return broken


def distinct(values: Iterable[str]) -> bool:
    found = list(values)
    return len(found) == len(set(found))
