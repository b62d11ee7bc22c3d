"""What a child is ordered to do for a job: inputs brought, limits worked out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.spec import QuantizationSpec
from store.errors import BlobCorrupt, BlobMissing
from store.tables import Job
from worker.child import Order
from worker.fetching import Inputs
from worker.outcomes import Limit, Stop
from worker.services import Services
from worker.workspace import Workspace

_GIB = 2**30

log = logging.getLogger(__name__)


def prepare(
    services: Services, job: Job, space: Workspace, entry: str, watch: Callable[[], Stop | None]
) -> tuple[Order, Limit]:
    """The order, and how long it may take of what earlier attempts have left.

    Raises BlobMissing, BlobCorrupt and Unavailable for its inputs, Interrupted for what `watch` says.
    """
    inputs = Inputs(services, space, watch)
    settings, spec = services.settings, QuantizationSpec.from_json(job.spec)
    order = Order(
        entry=entry,
        payload={"spec": job.spec, "output": str(space.output), **_inputs(services, job, inputs)},
        scratch=space.scratch,
        seed=spec.seed,
        device=services.device,
        threads=settings.torch_threads,
        memory_bytes=int(settings.child_memory_gib * _GIB),
        file_bytes=int(settings.child_file_gib * _GIB),
        resume=_kept(job, inputs),
    )
    own = spec.limits.seconds
    if own is not None and own <= settings.job_seconds:
        return order, Limit(own, field="limits.seconds", spent=job.ran_seconds)
    return order, Limit(settings.job_seconds, spent=job.ran_seconds)


def _inputs(services: Services, job: Job, inputs: Inputs) -> dict[str, Any]:
    with services.database.read() as work:
        checkpoint = work.checkpoints.get(job.checkpoint_id) if job.checkpoint_id else None
        dataset = work.datasets.get(job.dataset_id) if job.dataset_id else None
    assert checkpoint is not None, "a checkpoint cannot be deleted while an unfinished job uses it"
    found: dict[str, Any] = {
        "checkpoint": {
            "path": str(inputs.bring(checkpoint.blob_sha256)),
            "sha256": checkpoint.blob_sha256,
            "network": checkpoint.network,
        },
        "dataset": None,
    }
    if dataset is not None:
        found["dataset"] = {
            "path": str(inputs.bring(dataset.blob_sha256)),
            "sha256": dataset.blob_sha256,
            "classes": dataset.classes,
        }
    return found


def _kept(job: Job, inputs: Inputs) -> Path | None:
    """What an earlier attempt kept; None to start anew."""
    if job.resume_sha256 is None:
        return None
    try:
        return inputs.bring(job.resume_sha256)
    except (BlobMissing, BlobCorrupt) as error:
        log.warning(
            "%s: what it would have gone on from cannot be had; it starts anew: %s", job.id, error.detail
        )
        return None
