from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import After, Limit, problems
from api.routes.uploads import upload_router
from api.schemas.common import Page
from api.schemas.uploads import CheckpointOut, State
from api.services.kinds import CHECKPOINT

router = upload_router(CHECKPOINT)


@router.get("", responses=problems(422))
def list_checkpoints(
    caller: CallerDep,
    resources: ResourcesDep,
    limit: Limit = 50,
    after: After = None,
    state: State | None = None,
    architecture: Annotated[str | None, Query(pattern=r"^[\w./-]{1,128}$")] = None,
) -> Page[CheckpointOut]:
    with resources.database.read() as work:
        rows, cursor = work.checkpoints.page(
            caller.owner, limit, after, state=state, architecture=architecture
        )
    return Page(items=[CheckpointOut.of(row) for row in rows], next=cursor)
