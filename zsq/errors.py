"""Every error that the client raises on purpose.

ClientError              detail
├── ApiError             the server answered with a problem: status, code, detail, errors
├── ConnectionLost       no answer, for longer than the client was willing to wait
├── JobNotSucceeded      the job that was waited for failed or was canceled: job
├── DownloadCorrupt      the bytes that arrived are not those that the server announced
└── DemoFailed           a step of `zsq demo` did not give what it should
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsq.models import Job


class ClientError(Exception):
    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ApiError(ClientError):
    """An `application/problem+json` answer (RFC 9457).

    `code` is stable and machine-readable; `errors` locates what a 422 refused, each an object with
    `loc` (or `field`) and `msg` (or `detail`).
    """

    def __init__(self, status: int, code: str, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.errors = list(errors)

    @classmethod
    def from_body(cls, status: int, body: Any, reason: str = "") -> ApiError:
        """From a decoded body; one that is no problem (a proxy's page, say) becomes `http_<status>`."""
        problem = body if isinstance(body, Mapping) else {}
        errors = problem.get("errors")
        return cls(
            status,
            str(problem.get("code") or f"http_{status}"),
            str(problem.get("detail") or problem.get("title") or reason or f"HTTP status {status}"),
            [e for e in errors if isinstance(e, Mapping)] if isinstance(errors, list) else [],
        )


class ConnectionLost(ClientError):
    pass


class JobNotSucceeded(ClientError):
    def __init__(self, job: Job) -> None:
        error = job.error
        super().__init__(f"{error.detail} ({error.code})" if error else f"The job was {job.status}.")
        self.job = job


class DownloadCorrupt(ClientError):
    pass


class DemoFailed(ClientError):
    pass
