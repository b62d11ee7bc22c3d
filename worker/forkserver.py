"""The process that children are forked from: torch imported once, no secrets in its environment.

Preloading imports and nothing else: a module that runs a torch operator while it is imported
starts threads that a fork does not copy, and every child would hang on its first operator.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from worker import child
from worker.child_output import ChildOutput

PRELOAD = [
    "worker.stripped",
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "safetensors.torch",
    "worker.entries",
]

# multiprocessing reads a child's exit status from a pipe without locking, and starting any child
# polls all the others.
_lock = threading.Lock()

_DESCRIPTORS = "/proc/self/fd/"
# The one that stands for the forkserver's socket.
_socket: int | None = None


def ensure_running() -> None:
    """Starts the forkserver if there is none. Returns at once: it imports torch in the background."""
    with _lock:
        _ensure_running()


def start(order: child.Order) -> tuple[ForkServerProcess, Connection, ChildOutput]:
    """Forks a child for `order`; returns it, the parent's end of its pipe, and what it prints."""
    output = ChildOutput(order.scratch)
    ours, theirs = _context().Pipe(duplex=True)
    printed = output.end()
    arguments = theirs, printed, order
    process = _context().Process(target=child.main, args=arguments, name="zsq-job", daemon=True)
    try:
        with _lock:
            _ensure_running()
            process.start()
            # It starts the forkserver itself if that has just died.
            _hide_socket()
    except BaseException:
        ours.close()
        output.close()
        raise
    finally:
        # The child must hold the only other end: its death then ends the pipe.
        theirs.close()
        printed.close()
    return process, ours, output


def exit_code(process: BaseProcess) -> int | None:
    with _lock:
        return process.exitcode


def _ensure_running() -> None:
    # Python 3.11.0 would listen where a socket has no path, and any user may call (CVE-2022-42919).
    util.abstract_sockets_supported = False  # type: ignore[misc]
    _context().set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
    _hide_socket()


def _hide_socket() -> None:
    """Takes away the path of the forkserver's socket: who calls there gets a process that nothing confines.

    Callers need no key before Python 3.14, and children, copies of the forkserver, have that one too. What is
    left is a descriptor of this process, which children cannot look into. Not where there is no /proc.
    """
    global _socket
    server: Any = forkserver._forkserver
    path = server._forkserver_address
    if sys.platform != "linux" or path.startswith(_DESCRIPTORS):
        return
    descriptor: int | None = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not Path(f"{_DESCRIPTORS}{descriptor}").exists():
            return
        Path(path).unlink()
        server._forkserver_address = f"{_DESCRIPTORS}{descriptor}"
        # The one before was of a forkserver that has died.
        descriptor, _socket = _socket, descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _context() -> ForkServerContext:
    return multiprocessing.get_context("forkserver")
