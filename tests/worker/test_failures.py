from __future__ import annotations

import errno

import pytest

from core.errors import Canceled, Diverged, HandedBack
from store.errors import BlobCorrupt, BlobMissing, Unavailable
from worker import failures


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (Diverged("NaN."), "diverged", False),
        (Canceled("Stop."), "canceled", False),
        (MemoryError(), "out_of_memory", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", False),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full", True),
        (ImportError("No module named 'timm'"), "worker_broken", True),
        (HandedBack("Later."), "handed_back", False),
        (RuntimeError("shape mismatch at /some/path"), "internal_error", False),
        (BlobMissing("gone"), "blob_missing", False),
    ],
)
def test_every_exception_has_a_code(error: Exception, code: str, retryable: bool) -> None:
    found = failures.describe(error)
    assert (found["code"], found["retryable"]) == (code, retryable)
    assert "/some/path" not in found["detail"]


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (Unavailable("away"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (ConnectionRefusedError(), True),
        (ImportError("No module named 'timm'"), True),
        (FileNotFoundError(errno.ENOENT, "what the child named"), False),
        (KeyError("what the child left out"), False),
        (BlobMissing("gone"), False),
        (BlobCorrupt("other bytes"), False),
    ],
)
def test_the_machines_failures_are_told_from_the_jobs(error: Exception, machine: bool) -> None:
    assert failures.machine_at_fault(failures.from_around(error)) is machine


def test_signals_are_named() -> None:
    assert failures.ending(-11) == "signal 11, SIGSEGV"
    assert failures.ending(3) == "exit code 3"


@pytest.mark.parametrize("said", [None, [], {}, {"code": 5, "detail": "x" * 10_000, "retryable": "yes"}])
def test_a_lying_child_is_cut_to_size(said: object) -> None:
    found = failures.from_child(said)
    assert isinstance(found["code"], str) and len(found["detail"]) <= 4000 and found["retryable"] is False
