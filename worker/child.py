"""What runs inside the child process: one call of core, cut off from database, broker and secrets.

Messages in both directions are JSON, never pickle: the child parses bytes that strangers uploaded,
and the parent must not execute what such a child says.

    child -> parent   {"progress": {...}}, {"log": {...}}, {"saved": "path"} ...
                      then {"result": {...}} or {"error": {...}}
    parent -> child   "cancel", "hand back"; the end of the pipe means that the parent is gone
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import itertools
import json
import logging
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Stopped, ZsqError
from worker import child_log, child_output
from worker.failures import describe, file_too_large
from worker.hardening import confine, met_file_limit, show_memory, survived_file_limit

if TYPE_CHECKING:
    import torch

    from core.context import Progress

CANCEL = b"cancel"
HAND_BACK = b"hand back"
DETAIL_CHARACTERS = 4000

# Any thread may log while another tells of progress; a message must not stand inside of another.
_sending = threading.Lock()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do.

    `entry` is "module:function", called as function(payload, context) and returning JSON data.
    On a `device` other than the CPU it may open local sockets.
    `deadline` is on the clock of `time.monotonic`, which all processes of a machine share.
    `memory_bytes` limits the address space, on the CPU only: CUDA reserves far more than it uses;
    `file_bytes` every file that it writes. `resume` is what an earlier attempt kept.
    """

    entry: str
    payload: dict[str, Any]
    scratch: Path
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    memory_bytes: int | None = None
    file_bytes: int | None = None
    resume: Path | None = None
    deadline: float | None = None
    deadline_field: str | None = None


def main(connection: Connection, output: Connection, order: Order) -> None:
    """The child's whole life."""
    child_output.print_to(output)
    faulthandler.enable(2, all_threads=False)  # where native code crashed, said to the worker's log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the parent's to handle
    child_log.listen(lambda message: _send(connection, message))
    told = {CANCEL: threading.Event(), HAND_BACK: threading.Event()}
    show_memory()
    _volunteer_for_the_oom_killer()
    try:
        if "worker.stripped" not in sys.modules:
            # Its environment may hold secrets then, and a child is a copy of it.
            raise ImportError("the forkserver could not import worker.stripped")
        confine(order.file_bytes, local_sockets=order.device != "cpu")
        # Not before: a thread keeps the privileges that it began with.
        threading.Thread(target=_watch_parent, args=(connection, told), daemon=True).start()
        message = {"result": _carry_out(order, connection, told)}
        _send(connection, message)
    except BaseException as error:
        found = file_too_large() if _is_of_file_limit(error) else describe(error)
        found["detail"] = found["detail"][:DETAIL_CHARACTERS]
        if found["code"] in ("internal_error", "worker_broken"):
            log.exception("%s failed", order.entry)
        _send(connection, {"error": found})


def _carry_out(order: Order, connection: Connection, told: Mapping[bytes, threading.Event]) -> Any:
    # Late, because the parent imports this module and stays free of torch.
    import torch

    from core.context import RunContext

    device = _device(order.device)
    if order.memory_bytes is not None and device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_AS, (order.memory_bytes, order.memory_bytes))
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    module, _, function = order.entry.partition(":")
    context = RunContext(
        scratch=order.scratch,
        seed=order.seed,
        device=device,
        emit=lambda progress: _send(connection, {"progress": _progress(progress)}),
        canceled=lambda: _asked(told[CANCEL]),
        deadline=order.deadline,
        deadline_field=order.deadline_field,
        resume_from=order.resume,
        keep=_keeper(connection, order.scratch),
        hand_back=told[HAND_BACK].is_set,
    )
    return getattr(importlib.import_module(module), function)(order.payload, context)


def _asked(event: threading.Event) -> bool:
    # Core asks at every step: it got past whatever file it could not write.
    survived_file_limit()
    return event.is_set()


def _is_of_file_limit(error: BaseException) -> bool:
    """Whether `error` may come from a file that met its limit: core's own verdicts alone do not.

    Native writers raise errors of their own kinds, which say nothing of it.
    """
    if not met_file_limit() or isinstance(error, Stopped):
        return False
    link: BaseException | None = error
    while isinstance(link, ZsqError):
        link = link.__cause__ or link.__context__
    return link is not None


def _device(name: str) -> torch.device:
    import torch

    from core.context import pick_device

    return pick_device() if name == "auto" else torch.device(name)


def _keeper(connection: Connection, scratch: Path) -> Callable[[Path], None]:
    numbers = itertools.count(1)

    def keep(path: Path) -> None:
        # A name of its own: the parent may not have stored the one before yet.
        kept = scratch / f"kept-{next(numbers)}"
        path.replace(kept)
        _send(connection, {"saved": str(kept)})

    return keep


def _watch_parent(connection: Connection, told: Mapping[bytes, threading.Event]) -> None:
    """Hears what it is told; ends the process when the parent is gone, however the parent died."""
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)
        if message in told:
            told[message].set()


def _volunteer_for_the_oom_killer() -> None:
    # When memory runs out, the job must go and the worker stay.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "phase": progress.phase,
        "progress": {
            "fraction": progress.fraction,
            "step": progress.step,
            "steps": progress.steps,
            "eta_seconds": progress.eta_seconds,
        },
        "metrics": {name: float(value) for name, value in progress.metrics.items()},
    }


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    data = json.dumps(_finite(message), allow_nan=False).encode()
    with _sending:
        connection.send_bytes(data)


def _finite(value: Any) -> Any:
    """NaN and infinity become null: neither JSON nor the database knows them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
