from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from api.deps import CallerDep, ResourcesDep
from api.errors import UnsupportedMediaType
from api.routes.documented import After, IdempotencyKeyDep, IdPath, Limit, problems, streamed
from api.schemas.common import Page
from api.schemas.jobs import Id, JobOut, JobRequest, QuantizeFields, Status, SubmittedJob
from api.services import jobs
from api.services.idempotency import Answer
from api.services.quota import admitted
from api.services.receive import receive
from api.settings import settings_of
from store.transitions import UNFINISHED

router = APIRouter(prefix="/v1", tags=["jobs"])

# Seconds until another look is worth while; workers write progress about this often.
_POLL = 1
# The share of what a phase still takes after which one is, as long as the pause is no longer than this.
_POLL_SHARE, _LONGEST_POLL = 0.05, 5


async def _json_only(request: Request) -> None:
    """curl's -d without a header says that it sends a form."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(
            f"A job is JSON: send it with Content-Type: application/json, not {kind[:100]}."
        )


def _headers(job_id: str) -> dict[str, str]:
    return {"Location": f"/v1/jobs/{job_id}", "Retry-After": str(_POLL)}


def _answered(answer: Answer) -> Response:
    headers = _headers(answer.body["id"])
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(answer.body, answer.status, headers=headers)


_REPLAYED = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "This answer was given before, to the same `Idempotency-Key`.",
    }
}
_SUBMITTED: dict[int | str, dict[str, Any]] = {
    200: {"model": SubmittedJob, "description": "With `reuse`: an earlier job.", "headers": _REPLAYED},
    202: {"description": "A new job.", "headers": _REPLAYED},
}


@router.post(
    "/jobs",
    status_code=202,
    response_model=SubmittedJob,
    responses={**_SUBMITTED, **problems(400, 404, 413, 415, 422)},
    dependencies=[Depends(_json_only)],
)
def submit_job(
    body: JobRequest, caller: CallerDep, resources: ResourcesDep, idempotency_key: IdempotencyKeyDep
) -> Response:
    """Queues a job. On a pending checkpoint or dataset it waits until that is ready."""
    return _answered(jobs.submit(resources, caller, body, idempotency_key))


@router.post(
    "/quantize",
    status_code=202,
    response_model=SubmittedJob,
    responses={**_SUBMITTED, **problems(400, 413, 415, 422)},
    openapi_extra=streamed(QuantizeFields, raw=False, optional_files=("dataset",)),
)
async def quantize(
    request: Request,
    caller: CallerDep,
    resources: ResourcesDep,
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """One shot: uploads a checkpoint, and a dataset if one is given, and queues a job on them."""
    limit = settings_of(request).max_upload_bytes
    extra = frozenset({"dataset"})
    async with (
        admitted(request, resources, caller) as room,
        receive(
            request, resources.blobs, QuantizeFields, limit, room, optional_files=extra, raw=False
        ) as received,
    ):
        answer = await run_sync(
            jobs.quantize, resources, caller, received.fields, received.files, idempotency_key
        )
    return _answered(answer)


@router.get("/jobs", responses=problems(422))
def list_jobs(
    caller: CallerDep,
    resources: ResourcesDep,
    limit: Limit = 50,
    after: After = None,
    status: Status | None = None,
    checkpoint_id: Id | None = None,
    method: Annotated[str | None, Query(pattern=r"^\w{1,64}$")] = None,
) -> Page[JobOut]:
    with resources.database.read() as work:
        rows, cursor = work.jobs.page(
            caller.owner, limit, after, status=status, checkpoint_id=checkpoint_id, method=method
        )
    return Page(items=[JobOut.of(row) for row in rows], next=cursor)


@router.get("/jobs/{id}", responses=problems(404))
def get_job(id: IdPath, response: Response, caller: CallerDep, resources: ResourcesDep) -> JobOut:
    with resources.database.read() as work:
        job = jobs.find(work, caller, id)
    if job.status in UNFINISHED:
        response.headers["Retry-After"] = str(_pause(job.progress.get("eta_seconds") or 0.0))
    return JobOut.of(job)


def _pause(eta_seconds: float) -> int:
    """Whoever asks again after this hears of an end late by a twentieth at most, and of a long job seldom."""
    return max(_POLL, min(int(_POLL_SHARE * eta_seconds), _LONGEST_POLL))


@router.post("/jobs/{id}/cancel", status_code=202, responses=problems(404, 409))
def cancel_job(id: IdPath, response: Response, caller: CallerDep, resources: ResourcesDep) -> JobOut:
    """Asks for the job to stop; twice is no error. 409 when it has succeeded or failed."""
    response.headers.update(_headers(id))
    return JobOut.of(jobs.cancel(resources, caller, id))


@router.delete("/jobs/{id}", status_code=204, responses=problems(404, 409))
def delete_job(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> None:
    """Deletes the job, its report, artifacts and events. 409 until it has ended."""
    jobs.delete(resources, caller, id)


@router.get("/jobs/{id}/report", responses=problems(404, 409))
def get_report(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> dict[str, Any]:
    with resources.database.read() as work:
        return jobs.report(work, caller, id)
