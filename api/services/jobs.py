"""Jobs: accepted, found, canceled; what a finished one has made."""

from __future__ import annotations

from collections.abc import Sequence

from api.deps import Caller, Resources
from api.errors import NotFound, NotReady
from api.schemas.jobs import JobRequest, QuantizeFields
from api.schemas.uploads import DatasetFields
from api.services.dispatch import announce_checkpoint, announce_dataset, announce_job
from api.services.uploads import not_found, put_checkpoint, put_dataset
from core.errors import InputError
from core.spec import QuantizationSpec
from store import tracing
from store.blobs import BlobWriter
from store.database import UnitOfWork
from store.errors import AlreadyEnded
from store.garbage import delete_now
from store.logging import current_request_id
from store.tables import Artifact, Checkpoint, Dataset, Job, JsonObject, Upload, new_id
from store.transitions import UNFINISHED


def submit(resources: Resources, caller: Caller, request: JobRequest) -> Job:
    """Raises NotFound, and InputError when what it names was rejected."""
    with resources.database.write() as work:
        checkpoint = work.checkpoints.hold(request.checkpoint_id, caller.owner)
        if checkpoint is None:
            raise not_found("checkpoint", request.checkpoint_id)
        dataset = None
        if request.evaluation:
            dataset = work.datasets.hold(request.evaluation.dataset_id, caller.owner)
            if dataset is None:
                raise not_found("dataset", request.evaluation.dataset_id)
        job = _add(work, caller, request.spec(), checkpoint, dataset, request.labels)
    announce_job(resources.queue, job, checkpoint, dataset)
    return job


def quantize(
    resources: Resources, caller: Caller, fields: QuantizeFields, files: dict[str, BlobWriter]
) -> Job:
    """One shot: the checkpoint, the dataset if one came, and the job, all or nothing."""
    with resources.database.write() as work:
        checkpoint, _ = put_checkpoint(work, caller, fields, files["file"])
        dataset = None
        if "dataset" in files:
            dataset, _ = put_dataset(work, caller, DatasetFields(), files["dataset"])
        job = _add(work, caller, fields.spec(), checkpoint, dataset, fields.labels)
    announce_checkpoint(resources.queue, checkpoint)
    if dataset is not None:
        announce_dataset(resources.queue, dataset)
    announce_job(resources.queue, job, checkpoint, dataset)
    return job


def _add(
    work: UnitOfWork,
    caller: Caller,
    spec: QuantizationSpec,
    checkpoint: Checkpoint,
    dataset: Dataset | None,
    labels: dict[str, str],
) -> Job:
    _refuse_rejected(checkpoint, "checkpoint", "checkpoint_id")
    if dataset is not None:
        _refuse_rejected(dataset, "dataset", "evaluation.dataset_id")
    return work.jobs.add(
        Job(
            id=new_id("job"),
            owner=caller.owner,
            checkpoint_id=checkpoint.id,
            dataset_id=dataset.id if dataset is not None else None,
            spec=spec.to_json(),
            labels=labels,
            method=spec.method.name,
            request_id=current_request_id(),
            traceparent=tracing.traceparent(),
        )
    )


def _refuse_rejected(upload: Upload, noun: str, field: str) -> None:
    if upload.state == "rejected":
        why = (upload.error or {}).get("detail", "")
        raise InputError(f"The {noun} {upload.id} was rejected: {why}", code=f"{noun}_rejected", field=field)


def find(work: UnitOfWork, caller: Caller, id: str) -> Job:
    job = work.jobs.get(id, caller.owner)
    if job is None:
        raise not_found("job", id)
    return job


def cancel(resources: Resources, caller: Caller, id: str) -> Job:
    """Asking twice is no error; raises AlreadyEnded when it succeeded or failed before."""
    with resources.database.write() as work:
        job = find(work, caller, id)
        if job.status in UNFINISHED:
            work.jobs.request_cancel(id)
        elif job.status != "canceled":
            raise AlreadyEnded(f"The job has already {job.status}.")
    with resources.database.read() as work:
        return find(work, caller, id)


def delete(resources: Resources, caller: Caller, id: str) -> None:
    """With its report, artifacts and events. Raises NotFound, and JobUnfinished until it has ended."""
    with resources.database.write() as work:
        find(work, caller, id)
        named = work.blobs.of_job(id)
        work.jobs.delete(id)
    delete_now(resources.database, resources.blobs, named)


def report(work: UnitOfWork, caller: Caller, id: str) -> JsonObject:
    job = _succeeded(work, caller, id)
    return job.report or {}


def artifacts(work: UnitOfWork, caller: Caller, id: str) -> Sequence[Artifact]:
    return work.artifacts.of_job(_succeeded(work, caller, id).id)


def artifact(work: UnitOfWork, caller: Caller, id: str, name: str) -> Artifact:
    job = _succeeded(work, caller, id)
    found = next((each for each in work.artifacts.of_job(job.id) if each.name == name), None)
    if found is None:
        raise NotFound(f"The job {id} has no artifact {name[:100]!r}.")
    return found


def _succeeded(work: UnitOfWork, caller: Caller, id: str) -> Job:
    job = find(work, caller, id)
    if job.status != "succeeded":
        raise NotReady(f"The job is {job.status}; only a succeeded one has a report and artifacts.")
    return job
