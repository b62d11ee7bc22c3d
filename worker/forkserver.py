"""The process that children are forked from: torch imported once, no secrets in its environment.

Preloading imports and nothing else: a module that runs a torch operator while it is imported
starts threads that a fork does not copy, and every child would hang on its first operator.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess

from worker import child

PRELOAD = [
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "safetensors.torch",
    "worker.entries",
]

# The child needs no network and no database, so whatever looks like a key is kept from it.
_SECRET = re.compile(
    r"(_URL|_DSN|_HEADERS)$|^AWS_|^PG|SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY",
    re.IGNORECASE,
)

# multiprocessing reads a child's exit status from a pipe without locking, and starting any child
# polls all the others.
_lock = threading.Lock()


def secrets(environment: dict[str, str]) -> set[str]:
    """Names of the variables that a child must not see."""
    return {name for name in environment if _SECRET.search(name)}


def ensure_running() -> None:
    """Starts the forkserver if there is none. Returns at once: it imports torch in the background."""
    context = _context()
    # An idle OpenMP thread otherwise burns its core for 200 ms after each operator.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context.set_forkserver_preload(PRELOAD)
    with _lock, _without_secrets():
        forkserver.ensure_running()


def start(order: child.Order) -> tuple[ForkServerProcess, Connection]:
    """Forks a child for `order`; returns it and the parent's end of its pipe."""
    ensure_running()
    ours, theirs = _context().Pipe(duplex=True)
    process = _context().Process(target=child.main, args=(theirs, order), name="zsq-job", daemon=True)
    try:
        with _lock:
            process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        # The child must hold the only other end: its death then ends the pipe.
        theirs.close()
    return process, ours


def exit_code(process: BaseProcess) -> int | None:
    with _lock:
        return process.exitcode


def _context() -> ForkServerContext:
    return multiprocessing.get_context("forkserver")


@contextmanager
def _without_secrets() -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in secrets(dict(os.environ))}
    try:
        yield
    finally:
        os.environ.update(hidden)
