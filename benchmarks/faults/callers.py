"""A client that does not give up: it goes to the next API when one does not answer, and asks again."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

PASSING = frozenset({429, 502, 503, 504})
DELAY = 0.1


class Over(Exception):
    """Nobody wants the answer any longer."""


class Caller:
    """Every call is repeated until it is answered, for `patience` seconds; raises httpx's errors then.

    Submissions carry an `Idempotency-Key`, since a connection that broke says nothing about whether
    the job was made. Once `over` is set, whatever waits raises Over.
    """

    def __init__(
        self, urls: Sequence[str], patience: float = 60, over: threading.Event | None = None
    ) -> None:
        self._urls = itertools.cycle(urls)
        self._url = next(self._urls)
        self._http = httpx.Client(timeout=httpx.Timeout(30, connect=5), trust_env=False)
        self._patience = patience
        self._over = over or threading.Event()
        self.repeats = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The 2xx answer; any other that does not pass is raised."""
        end = time.monotonic() + self._patience
        while True:
            try:
                response = self._http.request(method, self._url + path, **options)
                if response.status_code not in PASSING or time.monotonic() > end:
                    break
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
            self.repeats += 1
            self._url = next(self._urls)
            self._sleep(DELAY)
        if response.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {response.status_code} {response.text[:500]}",
                request=response.request,
                response=response,
            )
        return response

    def upload(self, path: Path, fields: dict[str, str], kind: str = "checkpoints") -> str:
        """The id of the checkpoint or dataset; pending."""
        data = path.read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        return str(
            self.call("POST", f"/v1/{kind}", params=fields, content=data, headers=headers).json()["id"]
        )

    def submit(self, body: dict[str, Any], key: str | None = None) -> str:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return str(self.call("POST", "/v1/jobs", json=body, headers=headers).json()["id"])

    def job(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v1/jobs/{id}").json()
        return found

    def wait(self, id: str, seconds: float, every: float = 0.1) -> dict[str, Any]:
        """The job once it has ended. Raises TimeoutError: it is stuck."""
        end = time.monotonic() + seconds
        while (job := self.job(id))["status"] in ("queued", "running"):
            if time.monotonic() > end:
                raise TimeoutError(f"{id} has not ended within {seconds:g} s: {job}")
            self._sleep(every)
        return job

    def artifact(self, id: str, name: str) -> bytes:
        return self.call("GET", f"/v1/jobs/{id}/artifacts/{name}").content

    def _sleep(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise Over
