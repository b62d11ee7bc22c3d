"""Which device a worker computes on: the CPU, or a GPU of its own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from worker.child import Order
from worker.held import Held, take
from worker.outcomes import Finished, Limit
from worker.runner import run_child

_COUNT_SECONDS = 120.0


class NoDevice(Exception):
    """There is no GPU, or none is free. The message is for whoever started the worker."""


def gpus() -> list[str]:
    """The unique id of each GPU, in CUDA's order. Raises NoDevice.

    Asked in a child: a process that has initialised CUDA cannot start children that use it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        outcome = run_child(
            Order(entry="worker.entries:gpus", payload={}, scratch=Path(scratch), device="auto"),
            limit=Limit(_COUNT_SECONDS),
            grace_seconds=1.0,
            watch=lambda: None,
            on_progress=lambda news: None,
        )
    if not isinstance(outcome, Finished):
        raise NoDevice(f"The GPUs could not be counted: {outcome}")
    return [str(id) for id in outcome.value["gpus"]]


def take_gpu(wanted: str, found: Sequence[str], locks: Path) -> str:
    """`cuda:N`, which no other worker takes as long as this process lives. Raises NoDevice.

    `wanted` is `auto` or `cuda` for any, or the one. Locks are by unique id: in containers each worker may
    see a GPU of its own as the first one.
    """
    if wanted == "cpu":
        raise NoDevice("ZSQ_DEVICE=cpu keeps this worker from GPUs; `python -m worker cpu` needs none.")
    if not found:
        raise NoDevice("No GPU that CUDA can use was found; `python -m worker cpu` needs none.")
    one = wanted.partition(":")[2]
    if one and int(one) >= len(found):
        raise NoDevice(f"ZSQ_DEVICE={wanted}, but there are {len(found)} GPUs.")
    locks.mkdir(parents=True, exist_ok=True)
    for index in [int(one)] if one else range(len(found)):
        try:
            take(locks / f"{re.sub('[^0-9A-Za-z-]', '_', found[index])}.lock")
        except Held:
            continue
        return f"cuda:{index}"
    which = f"GPU {one} is" if one else f"Each of the {len(found)} GPUs is"
    raise NoDevice(f"{which} in use by another worker (see {locks}).")
