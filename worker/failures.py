"""Exceptions and silent deaths -> what the job row and the user are told."""

from __future__ import annotations

import errno
import re
import signal
from typing import TypedDict

from core.errors import DeadlineExceeded, OutOfMemory, ZsqError, is_out_of_memory
from store.errors import StoreError

# Codes of failures that are the machine's: its disk, its installation, what it must reach.
_MACHINE = frozenset({"service_unavailable", "worker_broken", "disk_full"})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What a file that the run has written cannot bring about, by its name or its kind.
_MACHINE_ERRNOS = frozenset(
    (
        *(errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.EAGAIN),
    )
)
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Failure(TypedDict):
    """`detail` is safe to show: no paths, no traceback."""

    code: str
    detail: str
    retryable: bool
    field: str | None


def failure(code: str, detail: str, *, retryable: bool = False, field: str | None = None) -> Failure:
    return Failure(code=code, detail=detail, retryable=retryable, field=field)


def describe(error: BaseException) -> Failure:
    """The failure that an exception stands for; what nobody foresaw becomes `internal_error`."""
    if isinstance(error, ZsqError):
        return failure(error.code, error.detail, retryable=error.retryable, field=error.field)
    if isinstance(error, StoreError):
        return failure(error.code, error.detail, retryable=error.retryable)
    if is_out_of_memory(error):
        return out_of_memory()
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return failure("disk_full", "The worker's disk is full.", retryable=True)
    if isinstance(error, ImportError):
        # Nothing that a user sends is imported, so it is the installation.
        return failure("worker_broken", "This worker's installation is incomplete.", retryable=True)
    return failure(
        "internal_error",
        f"Something went wrong inside zsq ({type(error).__name__}); the worker's log has the details.",
    )


def from_around(error: Exception) -> Failure:
    """A failure outside the child: storage, disk, database. Those pass, so it is worth another try."""
    if _is_the_machines(error):
        return failure(
            "worker_broken",
            f"The worker could not do its part ({type(error).__name__}); its log has the details.",
            retryable=True,
        )
    found = describe(error)
    return Failure({**found, "retryable": found["retryable"] or found["code"] == "internal_error"})


def _is_the_machines(error: Exception) -> bool:
    """Besides a full disk: storage, processes or connections that fail whichever job it is."""
    if isinstance(error, ConnectionError | TimeoutError | EOFError):
        return True
    return isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS


def machine_at_fault(found: Failure) -> bool:
    """Whether the next job on this worker would most likely fail in the same way."""
    return found["retryable"] and found["code"] in _MACHINE


def from_child(data: object) -> Failure:
    """What a child says of its end. It is not trusted, so only the expected fields are read."""
    said = data if isinstance(data, dict) else {}
    code, field = said.get("code"), said.get("field")
    return failure(
        code if isinstance(code, str) and _CODE.fullmatch(code) else "internal_error",
        str(said.get("detail") or "The run ended without saying why.")[:4000],
        retryable=said.get("retryable") is True,
        field=None if field is None else str(field)[:200],
    )


def crashed(exit_code: int | None, *, killed_for_memory: bool) -> Failure:
    """A child that ended without a word: `exit_code` is negative for a signal, as in subprocess."""
    if killed_for_memory:
        return out_of_memory()
    return failure(
        "worker_crashed",
        f"The process that ran the job ended unexpectedly ({ending(exit_code)}).",
        retryable=True,
    )


def ending(exit_code: int | None) -> str:
    """`-9` -> `signal 9, SIGKILL`; `1` -> `exit code 1`."""
    if exit_code is None:
        return "unknown"
    if exit_code < 0:
        try:
            return f"signal {-exit_code}, {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"signal {-exit_code}"
    return f"exit code {exit_code}"


def overdue(seconds: float, field: str | None) -> Failure:
    """A child that ran past its deadline and did not notice it itself."""
    return describe(DeadlineExceeded(f"Stopped after {seconds:g} s, the limit.", field=field))


def file_too_large() -> Failure:
    return failure("file_too_large", "The run wrote more into one file than this server allows.")


def out_of_memory() -> Failure:
    return describe(
        OutOfMemory("The worker ran out of memory. Use a smaller batch, smaller images or a smaller network.")
    )
