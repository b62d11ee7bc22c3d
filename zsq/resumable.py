"""Uploads that survive lost connections: tus 1.0, piece by piece, from wherever the server has got to."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from zsq.download import OnBytes
from zsq.errors import ApiError, ClientError, ConnectionLost
from zsq.transport import PASSING, Transport

# A piece is what is lost at most, and what is held in memory.
PIECE_BYTES = 8 << 20
# For telling a server that may not be there that nothing more comes.
_LEAVING_SECONDS = 5.0
_TUS = {"tus-resumable": "1.0.0"}
# The server has other bytes by now, got these damaged, or is not there for the moment.
_LOOK_AGAIN = frozenset({408, 409, 460, *PASSING})


def upload(
    transport: Transport,
    kind: str,
    path: Path,
    fields: Mapping[str, str],
    *,
    patience: float = 60.0,
    on_bytes: OnBytes | None = None,
) -> dict[str, Any]:
    """The checkpoint or dataset (`kind`) of the file, as the server shows it.

    Raises `ApiError` when the server refuses, before the first byte where it can, and `ConnectionLost`
    when nothing new arrives there for `patience` seconds. What breaks off, by Ctrl-C too, is given up
    there: nobody would go on with it, and it would count against the owner's limits until it expires.
    """
    total = path.stat().st_size
    said = {"kind": kind, **fields}
    headers = {"upload-length": str(total), "upload-metadata": _metadata(said)}
    begun = transport.call("POST", "/v1/uploads", headers=_TUS | headers)
    url = begun.headers["location"]
    try:
        with path.open("rb") as file:
            resource = _Sending(transport, url, file, total, patience, on_bytes).run()
    except BaseException:
        with suppress(ClientError):
            give_up(transport, url, timeout=_LEAVING_SECONDS)
        raise
    found: dict[str, Any] = transport.call("GET", resource, patience=patience).json()
    return found


def give_up(transport: Transport, url: str, **options: Any) -> None:
    """Deletes what has come of an upload. Raises `ApiError`, `not_found` when there is none."""
    transport.call("DELETE", url, headers=_TUS, **options)


class _Sending:
    def __init__(
        self,
        transport: Transport,
        url: str,
        file: BinaryIO,
        total: int,
        patience: float,
        on_bytes: OnBytes | None,
    ) -> None:
        self._transport = transport
        self._url = url
        self._file = file
        self._total = total
        self._patience = patience
        self._on_bytes = on_bytes

    def run(self) -> str:
        """Sends until the server names what has become of the file."""
        offset, furthest, give_up = 0, 0, time.monotonic() + self._patience
        while True:
            before = offset
            try:
                answer = self._send(offset)
                offset = int(answer.headers["upload-offset"])
                if "zsq-resource" in answer.headers:
                    return str(answer.headers["zsq-resource"])
                if offset <= before:  # all may be there, and be joined for another request
                    raise ConnectionLost(f"{self._transport.base_url} takes no more of {self._url}.")
            except ConnectionLost:
                if time.monotonic() > give_up:
                    raise
                offset = self._where()
            except ApiError as error:
                if error.status not in _LOOK_AGAIN or time.monotonic() > give_up:
                    raise
                offset = self._where()
            if offset > furthest:
                furthest, give_up = offset, time.monotonic() + self._patience
                if self._on_bytes:
                    self._on_bytes(offset, self._total)

    def _send(self, offset: int) -> httpx.Response:
        """The next piece; at the end, none: then the server only says what became of the file."""
        self._file.seek(offset)
        piece = self._file.read(PIECE_BYTES)
        headers = {
            **_TUS,
            "content-type": "application/offset+octet-stream",
            "upload-offset": str(offset),
            "upload-checksum": f"sha256 {_base64(hashlib.sha256(piece).digest())}",
        }
        return self._transport.call("PATCH", self._url, content=piece, headers=headers)

    def _where(self) -> int:
        self._transport.sleep(0.2)
        answer = self._transport.call("HEAD", self._url, headers=_TUS, patience=self._patience)
        return int(answer.headers["upload-offset"])


def _metadata(fields: Mapping[str, str]) -> str:
    return ",".join(f"{name} {_base64(value.encode())}" for name, value in fields.items())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
