from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import After, IdPath, Limit, problems, streamed
from api.schemas.common import Page
from api.schemas.uploads import DatasetFields, DatasetOut, State
from api.services import uploads
from api.services.receive import receive
from api.settings import settings_of

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post(
    "",
    status_code=201,
    responses={200: {"model": DatasetOut, "description": "Known already."}, **problems(400, 413, 415, 422)},
    openapi_extra=streamed(DatasetFields, raw=True),
)
async def upload_dataset(
    request: Request, response: Response, caller: CallerDep, resources: ResourcesDep
) -> DatasetOut:
    """Uploads a labelled evaluation set, used only to measure.

    The same bytes and fields again give the same dataset, with 200.
    """
    limit = settings_of(request).max_upload_bytes
    async with receive(request, resources.blobs, DatasetFields, limit) as received:
        row, new = await run_sync(
            uploads.save_dataset, resources, caller, received.fields, received.files["file"]
        )
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/datasets/{row.id}"
    return DatasetOut.of(row)


@router.get("", responses=problems(422))
def list_datasets(
    caller: CallerDep,
    resources: ResourcesDep,
    limit: Limit = 50,
    after: After = None,
    state: State | None = None,
) -> Page[DatasetOut]:
    with resources.database.read() as work:
        rows, cursor = work.datasets.page(caller.owner, limit, after, state=state)
    return Page(items=[DatasetOut.of(row) for row in rows], next=cursor)


@router.get("/{id}", responses=problems(404))
def get_dataset(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> DatasetOut:
    with resources.database.read() as work:
        return DatasetOut.of(uploads.find(work.datasets, caller, id))


@router.delete("/{id}", status_code=204, responses=problems(404, 409))
def delete_dataset(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> None:
    """409 while an unfinished job uses it."""
    uploads.delete(resources, lambda work: work.datasets, caller, id)
