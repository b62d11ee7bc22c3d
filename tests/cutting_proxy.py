"""A TCP proxy that drops connections when told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit


class CuttingProxy:
    """`cut_after`: how many bytes each of the coming connections carries, after the first answer's headers,
    before it is dropped."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after: list[int] = []
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nobody listens any more, and whoever was connected is cut off."""
        for each in (self._listener, *self._open):
            _drop(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                for way in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=way, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        left: int | None = None
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and left is None and self.cut_after:
                    left = data.index(b"\r\n\r\n") + 4 + self.cut_after.pop(0)
                sink.sendall(data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    break
        _drop(source)
        _drop(sink)


def _drop(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
