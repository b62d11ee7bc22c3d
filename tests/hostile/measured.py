"""The real inspections, inside the child, with what the child did written down beside them."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.context import RunContext
from core.errors import CheckpointError
from worker import entries

PREFIX = "tests.hostile.measured:"
RECORDS = "measured"
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen")
_REACHES = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "urllib.Request")
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
)
_FORBIDDEN = {
    *_RUNS,
    *_REACHES,
    *_CHANGES,
    "pickle.find_class",
    "pty.spawn",
    "shutil.rmtree",
    "tempfile.mkdtemp",
}


def inspect_checkpoint(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return _measured(entries.inspect_checkpoint, payload, context)


def inspect_dataset(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return _measured(entries.inspect_dataset, payload, context)


def run_programs(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """What no inspection may do, so that a test can see that it would be seen."""

    def entry(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
        with contextlib.suppress(PermissionError):  # the kernel's answer, where it confines children
            subprocess.run(["true"], check=True)
        pickle.loads(pickle.dumps(Path("x")))
        (context.scratch / "file").write_text("x")
        return {"held": len(bytearray(256 << 20))}

    return _measured(entry, payload, context)


def complain_in_pieces(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """A sentence that no database takes as it is."""
    raise CheckpointError("a null \0 and half a character \ud800.")


def answer_nonsense(payload: dict[str, Any], context: RunContext) -> Any:
    return ["no", "object"]


def _measured(
    entry: Callable[[dict[str, Any], RunContext], dict[str, Any]],
    payload: dict[str, Any],
    context: RunContext,
) -> dict[str, Any]:
    """Writes {"events", "kibibytes", "seconds"} into `<data>/measured/<sha256>` for the test to read."""
    # <data>/work/<id>/input/<sha256>
    record = Path(payload["path"]).parents[3] / RECORDS / str(payload["sha256"])
    events: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (event in _FORBIDDEN or (event == "open" and _writes(arguments))):
            events.append(f"{event} {arguments!r}"[:300])

    before, began = _peak(), time.monotonic()
    sys.addaudithook(hook)
    try:
        return entry(payload, context)
    finally:
        watching = False
        measures = {
            "events": events,
            "kibibytes": _peak() - before,
            "seconds": time.monotonic() - began,
        }
        record.write_text(json.dumps(measures))


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    text = isinstance(mode, str) and bool(set(mode) & set("wax+"))
    return text or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _peak() -> int:
    """The most memory that this process ever held, in KiB; a fork begins with what it shares."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
