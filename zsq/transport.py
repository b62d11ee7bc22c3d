"""HTTP with the manners of this API: problems become `ApiError`, short outages are waited out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Self

import httpx

from zsq.errors import ApiError, ClientError, ConnectionLost

_GET_A_KEY = (
    "Set ZSQ_API_KEY (or --api-key, or Client's api_key). `zsq keys create --owner NAME`, where the server "
    "runs, makes one."
)

# Answers that say "later", not "no": a restarting server, or a proxy in front of one.
PASSING = frozenset({429, 502, 503, 504})
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0


def retry_after(response: httpx.Response) -> float | None:
    """The answer's `Retry-After` in seconds, where it is a plain number."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


class Transport:
    """One server. `patience` is for how many seconds in a row a call may find no one there."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.sleep = sleep
        self._has_key = bool(api_key)
        headers = {"user-agent": "zsq"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
                raise ClientError("The API key holds characters that no key has. Was it copied whole?")
            headers["authorization"] = f"Bearer {api_key}"
        # Reads may take long (a server hashing what it received), finding out that no one is there may not.
        timeout = httpx.Timeout(60.0, connect=5.0)
        try:
            self._http = httpx.Client(
                base_url=self.base_url, timeout=timeout, transport=transport, headers=headers
            )
        except httpx.InvalidURL as error:
            raise ClientError(f"{base_url} is no server's address: {error}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, *, patience: float = 0.0, **options: Any) -> httpx.Response:
        """Sends, and returns the 2xx answer. With `patience` the call must be safe to repeat, and is
        repeated too when its answer breaks off.

        Raises `ApiError` for a problem, `ConnectionLost` when no one answered in time.
        """
        with closing(self._send(method, path, patience, options, whole=True)) as response:
            if response.is_error:
                raise self._problem(response)
        return response

    @contextmanager
    def stream(
        self, method: str, path: str, *, patience: float = 0.0, **options: Any
    ) -> Iterator[httpx.Response]:
        """As `call`, but the body is left to be read. Losses while it is read are the caller's."""
        response = self._send(method, path, patience, options, whole=False)
        try:
            if response.is_error:
                raise self._problem(response)
            yield response
        finally:
            response.close()

    def _send(
        self, method: str, path: str, patience: float, options: dict[str, Any], *, whole: bool
    ) -> httpx.Response:
        give_up = time.monotonic() + patience
        delay = FIRST_DELAY
        while True:
            wait = delay
            try:
                response = self._http.send(self._http.build_request(method, path, **options), stream=True)
                if response.status_code not in PASSING or time.monotonic() + wait > give_up:
                    return _read(response) if whole else response
                wait = min(retry_after(response) or delay, LONGEST_DELAY)
                response.close()
            except httpx.TransportError as error:
                if time.monotonic() + wait > give_up:
                    raise self.lost(error) from error
            self.sleep(wait)
            delay = min(delay * 2, LONGEST_DELAY)

    def lost(self, error: httpx.TransportError) -> ConnectionLost:
        reason = str(error) or type(error).__name__
        return ConnectionLost(
            f"No answer from {self.base_url}: {reason}. Is the server running there (zsq up)? "
            "--server or ZSQ_SERVER_URL names another."
        )

    def _problem(self, response: httpx.Response) -> ApiError:
        try:
            response.read()
            body = response.json()
        except (httpx.TransportError, ValueError):
            body = None
        error = ApiError.from_body(response.status_code, body, response.reason_phrase)
        if error.status != httpx.codes.UNAUTHORIZED:
            return error
        why = "The API key that was sent is not good there." if self._has_key else "No API key was sent."
        return ApiError(error.status, error.code, f"{self.base_url} refused: {why} {_GET_A_KEY}")


def _read(response: httpx.Response) -> httpx.Response:
    """Of a refusal the status is enough, should the rest be lost."""
    try:
        if response.is_success:
            response.read()
    except httpx.TransportError:
        response.close()
        raise
    return response
