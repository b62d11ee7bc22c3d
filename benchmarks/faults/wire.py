"""GET over one kept connection, with so little work that hundreds of clients leave the server its cores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit


class WireError(Exception):
    """No answer, or one that is no 200."""


class Wire:
    """For servers that answer with a `Content-Length` and keep connections, as uvicorn does."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def json(self, path: str) -> dict[str, Any]:
        """Raises WireError."""
        try:
            reader, length = await self._ask(path, "application/json")
            found: dict[str, Any] = json.loads(await reader.readexactly(length))
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            self.close()
            raise WireError(str(error)) from error
        return found

    async def events(self, path: str) -> AsyncIterator[bytes]:
        """The lines of a stream of events, until the server ends it. Raises WireError."""
        try:
            reader, _ = await self._ask(path, "text/event-stream")
            # In chunks; a line of an event is never cut, since each chunk holds whole events.
            while (line := await reader.readline()) not in (b"0\r\n", b""):
                yield line
        except OSError as error:
            raise WireError(str(error)) from error
        finally:
            self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None

    async def _ask(self, path: str, accept: str) -> tuple[asyncio.StreamReader, int]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAccept: {accept}\r\n\r\n"
        writer.write(head.encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        if lines[0].split()[1] != "200":
            self.close()
            raise WireError(lines[0])
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return reader, int(headers.get("content-length", 0))
