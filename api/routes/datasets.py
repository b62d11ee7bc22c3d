from __future__ import annotations

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import After, Limit, problems
from api.routes.uploads import upload_router
from api.schemas.common import Page
from api.schemas.uploads import DatasetOut, State
from api.services.kinds import DATASET

router = upload_router(DATASET)


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
