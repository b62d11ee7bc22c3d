"""Every error that core raises on purpose.

    ZsqError                     code, detail, field
    ├── InputError               what the user sent cannot be used; trying again will not help
    │   ├── SpecError            a bit specification or option that does not fit this network
    │   ├── CheckpointError      the checkpoint file
    │   ├── ArchitectureError    the architecture: unknown, not traceable, an operator we cannot place
    │   └── DatasetError         the evaluation set
    ├── RunError                 the run itself went wrong
    │   ├── Diverged             training produced NaN or infinity and could not be brought back
    │   ├── OutOfMemory          the device has too little memory even for the smallest batch
    │   └── ExportError          the exporter or ONNX Runtime refused what we wrote
    └── Stopped                  the run was told to stop
        ├── Canceled             by its owner
        ├── DeadlineExceeded     by `limits.seconds`
        └── HandedBack           by a worker that shuts down; another one goes on with it

`code` is stable and machine-readable (snake_case); `detail` is a sentence for people that says what
is wrong and what to do; `field` names the offending input where there is one. HTTP status codes
live in `api/errors.py` alone.
"""

from __future__ import annotations

import errno
from typing import Any

_ALLOCATOR_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


class ZsqError(Exception):
    """Base of the tree. `retryable` says whether the same job may succeed if run again."""

    default_code = "internal_error"
    retryable = False

    def __init__(self, detail: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive Exception's own pickling, and errors cross from the
        # child process to its parent.
        return (_rebuild, (type(self), self.detail, self.code, self.field))


def _rebuild(kind: type[ZsqError], detail: str, code: str, field: str | None) -> ZsqError:
    return kind(detail, code=code, field=field)


class InputError(ZsqError):
    default_code = "invalid_input"


class SpecError(InputError):
    default_code = "invalid_spec"


class CheckpointError(InputError):
    default_code = "invalid_checkpoint"


class ArchitectureError(InputError):
    default_code = "unknown_architecture"


class DatasetError(InputError):
    default_code = "invalid_dataset"


class RunError(ZsqError):
    default_code = "run_failed"


class Diverged(RunError):
    default_code = "diverged"


class OutOfMemory(RunError):
    default_code = "out_of_memory"


class ExportError(RunError):
    default_code = "export_failed"


class Stopped(ZsqError):
    default_code = "stopped"


class Canceled(Stopped):
    default_code = "canceled"


class DeadlineExceeded(Stopped):
    default_code = "deadline_exceeded"


class HandedBack(Stopped):
    default_code = "handed_back"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the operating system or torch could not allocate, on an accelerator or on the CPU."""
    # torch.OutOfMemoryError by name, since this module is read without torch; the CPU allocator
    # raises a plain RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _ALLOCATOR_MESSAGES)
