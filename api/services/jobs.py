"""Jobs: accepted, found, canceled; what a finished one has made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from api.deps import Caller, Resources
from api.errors import NotFound, NotReady
from api.schemas.jobs import JobRequest, QuantizeFields, SubmittedJob
from api.schemas.uploads import DatasetFields
from api.services import quota
from api.services.dispatch import announce_job, announce_upload
from api.services.idempotency import Answer, Once, answered
from api.services.kinds import CHECKPOINT, DATASET
from api.services.uploads import Content, check_room, in_place, made, not_found, put
from api.services.webhooks import refuse_private
from core.errors import InputError
from core.spec import QuantizationSpec
from store import tracing
from store.database import UnitOfWork
from store.garbage import delete_now
from store.logging import current_request_id
from store.queue import Queue
from store.tables import Artifact, Checkpoint, Dataset, Job, JsonObject, Upload, WebhookDelivery, new_id


def submit(resources: Resources, caller: Caller, request: JobRequest, key: str | None = None) -> Answer:
    """A job, or with `reuse` an earlier one; a `key` that was used before gives its answer again.

    Raises NotFound, TooMany, InputError when what it names was rejected, and IdempotencyKeyReused.
    """
    refuse_private(request.webhook, resources)
    with resources.database.write() as work:
        quota.lock(work, resources.access, caller)
        asked = ["jobs", request.model_dump(mode="json")]
        once = Once(work, caller, key, asked, resources.idempotency_lifetime)
        if once.earlier is not None:
            return once.earlier
        checkpoint = work.checkpoints.hold(request.checkpoint_id, caller.owner)
        if checkpoint is None:
            raise not_found("checkpoint", request.checkpoint_id)
        dataset = None
        if request.evaluation:
            dataset = work.datasets.hold(request.evaluation.dataset_id, caller.owner)
            if dataset is None:
                raise not_found("dataset", request.evaluation.dataset_id)
        accepted = _accept(work, resources, caller, request, checkpoint, dataset)
        answer = once.keep(accepted.answer())
    accepted.announce(resources.queue)
    return answer


def quantize(
    resources: Resources,
    caller: Caller,
    fields: QuantizeFields,
    files: Mapping[str, Content],
    key: str | None = None,
) -> Answer:
    """One shot: the checkpoint, the dataset if one came, and the job, all or nothing."""
    refuse_private(fields.webhook, resources)
    sums = {name: file.sha256 for name, file in sorted(files.items())}
    asked = ["quantize", fields.model_dump(mode="json"), sums]
    # Before the bytes are put in place: the answer needs none, and those of then may be deleted by now.
    earlier = answered(resources.database, caller, key, asked, resources.idempotency_lifetime)
    if earlier is not None:
        return earlier
    with in_place(resources, *files.values()) as placed, resources.database.write() as work:
        quota.lock(work, resources.access, caller)
        once = Once(work, caller, key, asked, resources.idempotency_lifetime)
        if once.earlier is not None:  # it came at the same time
            placed.needed = False
            return once.earlier
        if not fields.reuse:
            quota.check_queue(work, resources.access, caller)
        checkpoint, dataset = made(caller, CHECKPOINT, fields, files["file"]), None
        if "dataset" in files:
            dataset = made(caller, DATASET, DatasetFields(), files["dataset"])
        # Both at once: they fit together, or neither is kept.
        check_room(work, resources, caller, *filter(None, (checkpoint, dataset)))
        # Both at once: two requests with the same files the other way round would wait for ever.
        work.blobs.lock(*sums.values())
        checkpoint, _ = put(work, resources, CHECKPOINT, checkpoint, files["file"])
        if dataset is not None:
            dataset, _ = put(work, resources, DATASET, dataset, files["dataset"])
        accepted = _accept(work, resources, caller, fields, checkpoint, dataset)
        answer = once.keep(accepted.answer())
    for upload in filter(None, (checkpoint, dataset)):
        announce_upload(resources.queue, upload)
    accepted.announce(resources.queue)
    return answer


@dataclass(frozen=True, slots=True)
class _Accepted:
    """`earlier` computes the same as `job`, which is new; or it is `job` itself, which was asked for."""

    job: Job
    earlier: Job | None
    checkpoint: Checkpoint
    dataset: Dataset | None

    @property
    def new(self) -> bool:
        return self.job is not self.earlier

    def answer(self) -> Answer:
        status = HTTPStatus.ACCEPTED if self.new else HTTPStatus.OK
        shown = SubmittedJob.after(self.job, self.earlier if self.new else None)
        return Answer(status, shown.model_dump(mode="json"))

    def announce(self, queue: Queue) -> None:
        if self.new:
            announce_job(queue, self.job, self.checkpoint, self.dataset)


def _accept(
    work: UnitOfWork,
    resources: Resources,
    caller: Caller,
    request: JobRequest | QuantizeFields,
    checkpoint: Checkpoint,
    dataset: Dataset | None,
) -> _Accepted:
    _refuse_rejected(checkpoint, "checkpoint", "checkpoint_id")
    if dataset is not None:
        _refuse_rejected(dataset, "dataset", "evaluation.dataset_id")
    spec = request.spec()
    digest = _digest(checkpoint, dataset, spec)
    if request.reuse:
        work.lock_digest(caller.owner, digest)
    earlier = work.jobs.duplicate(caller.owner, digest)
    if request.reuse and earlier is not None:
        return _Accepted(earlier, earlier, checkpoint, dataset)
    quota.check_queue(work, resources.access, caller)
    job = Job(
        id=new_id("job"),
        owner=caller.owner,
        checkpoint_id=checkpoint.id,
        dataset_id=dataset.id if dataset is not None else None,
        spec=spec.to_json(),
        labels=request.labels,
        device=request.device,
        method=spec.method.name,
        digest=digest,
        webhook_url=request.webhook.url if request.webhook else None,
        request_id=current_request_id(),
        traceparent=tracing.traceparent(),
    )
    return _Accepted(work.jobs.add(job), earlier, checkpoint, dataset)


def _digest(checkpoint: Checkpoint, dataset: Dataset | None, spec: QuantizationSpec) -> str:
    """What is computed, by content: of overrides the last that matches counts, so order stays."""
    measured = [dataset.blob_sha256, dataset.classes] if dataset is not None else None
    what = [checkpoint.blob_sha256, checkpoint.network, measured, spec.to_json()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _refuse_rejected(upload: Upload, noun: str, field: str) -> None:
    if upload.state == "rejected":
        why = (upload.error or {}).get("detail", "")
        raise InputError(f"The {noun} {upload.id} was rejected: {why}", code=f"{noun}_rejected", field=field)


def find(work: UnitOfWork, caller: Caller, id: str) -> Job:
    job = work.jobs.of_owner(id, caller.owner)
    if job is None:
        raise not_found("job", id)
    return job


def cancel(resources: Resources, caller: Caller, id: str) -> Job:
    """Asking twice is no error; raises AlreadyEnded when it succeeded or failed before."""
    with resources.database.write() as work:
        find(work, caller, id)
        work.jobs.request_cancel(id)
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
    return work.jobs.report(_succeeded(work, caller, id).id) or {}


def artifacts(work: UnitOfWork, caller: Caller, id: str) -> Sequence[Artifact]:
    return work.artifacts.of_job(_succeeded(work, caller, id).id)


def artifact(work: UnitOfWork, caller: Caller, id: str, name: str) -> Artifact:
    job = _succeeded(work, caller, id)
    found = next((each for each in work.artifacts.of_job(job.id) if each.name == name), None)
    if found is None:
        raise NotFound(f"The job {id} has no artifact {name[:100]!r}.")
    return found


def deliveries(work: UnitOfWork, caller: Caller, id: str) -> Sequence[WebhookDelivery]:
    return work.webhooks.of_job(find(work, caller, id).id)


def _succeeded(work: UnitOfWork, caller: Caller, id: str) -> Job:
    job = find(work, caller, id)
    if job.status != "succeeded":
        raise NotReady(f"The job is {job.status}; only a succeeded one has a report and artifacts.")
    return job
