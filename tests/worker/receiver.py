"""A webhook's receiver: a real HTTP server on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.http_server import Handler, listening


@dataclass
class Receiver:
    """Answers with `statuses` in turn, the last one for ever; `pause` is how long it thinks before."""

    statuses: list[int]
    pause: float = 0.0
    url: str = ""
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def answer(self) -> int:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextmanager
def receiving(*statuses: int, pause: float = 0.0) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses), pause)

    class Receiving(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.heard.append((self.path, headers, body))
            time.sleep(receiver.pause)
            self.answer(receiver.answer(), location=f"{receiver.url}/elsewhere")

    with listening(Receiving) as receiver.url:
        yield receiver
