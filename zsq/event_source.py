"""`text/event-stream`, as https://html.spec.whatwg.org/multipage/server-sent-events.html has it be read."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """`id` is where to go on behind it: its own, else that of the last message that had one."""

    event: str
    data: str
    id: str


class EventSource:
    """What lasts from one connection to the next: the last id, and `retry`, the seconds between the two."""

    def __init__(self, last_id: str = "", retry: float = 2.0) -> None:
        self.last_id = last_id
        self.retry = retry

    def read(self, chunks: Iterable[bytes]) -> Iterator[Message]:
        """The messages of one connection. One that breaks off in the middle of a message has not sent it."""
        event, data, id = "", list[str](), self.last_id
        for line in _lines(chunks):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                self.last_id = id
                if data:
                    yield Message(event or "message", "\n".join(data), id)
                event, data = "", []
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)
            elif name == "id" and "\0" not in value:
                id = value
            elif name == "retry" and value.isascii() and value.isdigit():
                self.retry = int(value) / 1000


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines end with LF, CR or both, and with nothing else that Python takes for an end.

    A CR at the end of a chunk waits for the next one, which may begin with its LF.
    """
    utf8 = codecs.getincrementaldecoder("utf-8-sig")("replace")
    text = io.IncrementalNewlineDecoder(utf8, translate=True)
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + text.decode(chunk)).split("\n")
        yield from lines
    yield from (rest + text.decode(b"", final=True)).split("\n")[:-1]
