"""What a child may do in place of core, by "module:function" name."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save_file

from core.context import Progress, RunContext
from core.errors import CheckpointError, Diverged, HandedBack

PREFIX = "tests.worker.doubles:"


def succeed(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    with context.phase("training"):
        # A real operator: it hangs if the forkserver ran one before the fork.
        loss = float((torch.ones(64, 64) @ torch.ones(64, 64)).mean())
        context.step(3, 4, {"loss": loss})
    return {"echo": payload, "seed": context.seed, "threads": torch.get_num_threads()}


def measure(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Finds numbers that JSON lacks, under way and in the end."""
    found = {"loss": 0.5, "broken": float("nan"), "endless": float("-inf")}
    # Not by a step: those that come soon after another are left out.
    context.emit(Progress("training", 0.5, metrics=found))
    return found


def quantize(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Writes one artifact."""
    with context.phase("exporting"):
        data = Path(payload["checkpoint"]["path"]).read_bytes()
        path = Path(payload["output"]) / "model.onnx"
        path.write_bytes(b"onnx of " + data)
    artifact = {"name": "model.onnx", "path": str(path), "media_type": "application/octet-stream"}
    return {"report": {"bits": payload["spec"]["bits"]}, "artifacts": [artifact]}


def name_a_foreign_file(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return {
        "report": {},
        "artifacts": [{"name": "passwd", "path": "/etc/passwd", "media_type": "application/octet-stream"}],
    }


def inspect(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return {"bytes": len(Path(payload["path"]).read_bytes())}


def refuse(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    raise CheckpointError("No weights in it.", code="empty_file", field="file")


def diverge(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    raise Diverged("The losses became infinite.")


def stumble(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    raise KeyError("/secret/path")


def exhaust_memory(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return {"bytes": torch.empty(1 << 40, dtype=torch.uint8).numel()}


def kill_itself(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def segfault(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def leave(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    os._exit(0)


def run_until_told(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Stops as soon as it is asked, or at its deadline."""
    _tell_pid(payload)
    with context.phase("training"):
        while True:
            context.step(1, 2, {"pid": float(os.getpid())})
            time.sleep(0.02)


def ignore_everything(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Neither hears a cancel nor minds its deadline; SIGTERM only if `mind_sigterm`."""
    _tell_pid(payload)
    if not payload.get("mind_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with context.phase("training"):
        while True:
            time.sleep(0.02)


def save_when_told(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Counts until it is told to hand back; then keeps how far it came."""
    step = _resumed(context)
    with context.phase("training"):
        while not context.hand_back():
            step += 1
            time.sleep(0.02)
    _keep(context, str(step))
    raise HandedBack("Handed back.")


def say_where_it_began(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return {"report": {"resumed": _resumed(context)}, "artifacts": []}


def die_while_saving(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Keeps twice, and is killed in the middle of the third file."""
    for step in (7, 8):
        _keep(context, str(step))
    (context.scratch / "state").write_text("9")
    return kill_itself(payload, context)


def diverge_after_saving(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    _keep(context, "5")
    with context.phase("training"):
        while context.scratch.joinpath("kept-1").exists():
            context.step(1, 2)
            time.sleep(0.02)
    raise Diverged("The losses became infinite.")


def keep_much_and_go_on(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Keeps a state of many pieces, and runs until it is told to stop."""
    _keep(context, "x" * (8 << 20))
    return run_until_told(payload, context)


def keep_what_is_not_its_own(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Does as a child would that strangers have taken over."""
    (context.scratch / "state").symlink_to("/etc/passwd")
    assert context.keep is not None
    context.keep(context.scratch / "state")
    return {"report": {}, "artifacts": []}


def finish_though_told(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Comes to its end just when it is told to hand back."""
    _wait_until_told(context)
    return {"report": {}, "artifacts": []}


def diverge_though_told(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Fails just when it is told to hand back."""
    _wait_until_told(context)
    raise Diverged("The losses became infinite.")


def _wait_until_told(context: RunContext) -> None:
    with context.phase("training"):
        while not context.hand_back():
            time.sleep(0.02)


def _resumed(context: RunContext) -> int:
    return int(context.resume_from.read_text()) if context.resume_from is not None else 0


def _keep(context: RunContext, state: str) -> None:
    path = context.scratch / "state"
    path.write_text(state)
    assert context.keep is not None
    context.keep(path)


def hog(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Sits in native code that never lets go of the interpreter: no thread of its own gets to run."""
    _tell_pid(payload)
    ctypes.PyDLL(None).sleep(600)
    return {}


def spy(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """What it can read of the process `pid`."""
    found = {}
    for name in ("environ", "mem", "auxv"):
        try:
            with Path(f"/proc/{payload['pid']}/{name}").open("rb") as file:
                found[name] = file.read(1).hex()
        except OSError as error:
            found[name] = type(error).__name__
    return found


def show_limits(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    path = context.scratch / "file"
    path.write_text("mine")
    return {
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "file_bytes": resource.getrlimit(resource.RLIMIT_FSIZE),
        "privileges": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh")],
        "no_new_privileges": int(status["NoNewPrivs"]),
        "mode": path.stat().st_mode & 0o777,
    }


def write_too_much(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    writers = {
        "python": lambda path: path.write_bytes(bytes(3 << 20)),
        "torch": lambda path: torch.save(torch.zeros(3 << 20, dtype=torch.uint8), path),
        "safetensors": lambda path: save_file({"a": torch.zeros(3 << 20, dtype=torch.uint8)}, path),
    }
    writers[payload["writer"]](context.scratch / "file")
    return {}


def survive_the_file_limit(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Fails to save, goes on, and ends for a reason of its own."""
    with context.phase("training"):
        with contextlib.suppress(OSError):
            (context.scratch / "state").write_bytes(bytes(3 << 20))
        match payload["then"]:
            case "hand back":
                raise HandedBack("Handed back.")
            case "diverge":
                raise Diverged("The losses became infinite.")
            case _:
                context.step(1, 2)
    raise KeyError("a bug")


def import_what_is_not_installed(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    import a_package_that_nobody_has  # type: ignore[import-not-found]

    return {"package": str(a_package_that_nobody_has)}


def show_environment(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """As it is, and as the process was given it."""
    given = Path("/proc/self/environ")
    return {"environment": dict(os.environ), "given": given.read_text() if given.exists() else ""}


def _tell_pid(payload: dict[str, Any]) -> None:
    if "pid_file" in payload:
        partial = Path(payload["pid_file"] + ".part")
        partial.write_text(str(os.getpid()))
        partial.rename(payload["pid_file"])


def fill_the_disk(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    raise OSError(errno.ENOSPC, "No space left on device")


def speak(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Logs, warns, and tells of two phases."""
    log = logging.getLogger("core.methods.double")
    with context.phase("synthesizing"):
        log.warning("from inside, as postgresql://u:hunter2@host/db")
        warnings.warn("deprecated", UserWarning, stacklevel=1)
    with context.phase("training"):
        log.debug("left out")
    return {
        **quantize(payload, context),
        "report": {"timings": {"training": 0.0, "method": 0.001, "x y": True}},
    }


def chatter(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Says more than anybody wants to read, from several threads, under names of its own."""

    def talk(number: int) -> None:
        for line in range(1000):
            logging.getLogger(f"forged\n{line}").warning("%s", "x" * 10_000)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"said": 4000}


def quantize_anew(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """As `quantize`, with other bytes each time."""
    result = quantize(payload, context)
    Path(result["artifacts"][0]["path"]).write_bytes(os.urandom(1000))
    return result


def say_much(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """So many bytes at once, as `kind` of message."""
    text = "x" * payload["bytes"]
    match payload["kind"]:
        case "progress":
            context.emit(Progress("training", 0.5, metrics={text: 1.0}))
        case "saved":
            _send({"saved": text})
        case "log":
            logging.getLogger("x" * payload["bytes"]).warning("\N{GRINNING FACE}" * payload["bytes"])
        case "result":
            return {"text": text}
    return {}


def say_what_the_file_says(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Each line of the checkpoint is a message, as one would be of a child that its bytes have taken over."""
    path = payload["path"] if "path" in payload else payload["checkpoint"]["path"]
    for line in Path(path).read_bytes().splitlines():
        _send_bytes(line)
    return {}


def _send(message: dict[str, Any]) -> None:
    _send_bytes(json.dumps(message).encode())


def _send_bytes(data: bytes) -> None:
    os.write(_pipe(), struct.pack("!i", len(data)) + data)


def say_half(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Tells how long its message is going to be, and then nothing of it; or dies, and leaves the pipe to
    whoever listens at `heir`."""
    with context.phase("training"):
        os.write(_pipe(), struct.pack("!i", 1000))
        if "heir" in payload:
            with socket.socket(socket.AF_UNIX) as heir:
                heir.connect(payload["heir"])
                socket.send_fds(heir, [b"yours"], [_pipe()])
            os._exit(3)
        while True:
            time.sleep(0.02)


def _pipe() -> int:
    """This child's end of what it tells its parent through."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and "connection" not in frame.f_locals:
        frame = frame.f_back
    assert frame is not None
    return int(frame.f_locals["connection"].fileno())
