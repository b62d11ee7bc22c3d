from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.routes.documented import problems
from api.schemas.catalogue import ArchitectureOut, MethodOut
from api.schemas.common import Page
from api.services import catalogue

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/methods", responses=problems())
def list_methods() -> Page[MethodOut]:
    """What `method` of a job takes: options as JSON Schema, presets, literature."""
    return Page(items=[MethodOut(**each) for each in catalogue.methods()])


@router.get("/architectures", responses=problems())
def list_architectures(contains: Annotated[str, Query(max_length=100)] = "") -> Page[ArchitectureOut]:
    """What `architecture` of a checkpoint takes, with the defaults of each."""
    return Page(items=[ArchitectureOut(**each) for each in catalogue.architectures(contains)])
