"""Word to the workers, after the commit. A message that gets lost is sent again by the sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from store.queue import Queue
from store.tables import Checkpoint, Dataset, Job, Upload

log = logging.getLogger(__name__)


def announce_upload(queue: Queue, row: Upload) -> None:
    if row.state == "pending":
        _send(queue.inspect_checkpoint if isinstance(row, Checkpoint) else queue.inspect_dataset, row.id)


def announce_job(queue: Queue, row: Job, checkpoint: Checkpoint, dataset: Dataset | None) -> None:
    """A job on a pending upload waits: it is sent when the upload has become ready."""
    if checkpoint.state == "ready" and (dataset is None or dataset.state == "ready"):
        _send(partial(queue.quantize, device=row.device), row.id)


def _send(send: Callable[[str], None], id: str) -> None:
    try:
        send(id)
    except Exception as error:  # whatever the transport raises: the row is committed, the caller has it
        log.warning("could not enqueue %s, the sweep will: %s", id, error)
