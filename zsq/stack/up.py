"""`zsq up`: the stack at a terminal."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

from zsq.stack.stack import Stack

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Told(BaseException):
    """A signal asked for the end. Not an Exception: nothing may take it for a failure."""


def up(port: int | None = None, data_dir: Path | None = None) -> None:
    """Runs the stack until Ctrl-C or SIGTERM; a second one kills what does not end by itself.

    Raises StackError when it cannot start or a part keeps dying.
    """
    stack = Stack(data_dir, port)
    told = False

    def tell(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            stack.hurry()
            return
        told = True
        raise _Told

    # Not put back afterwards: the process is at its end, and another Ctrl-C must not spoil that.
    for number in _SIGNALS:
        signal.signal(number, tell)
    try:
        with stack:
            print(f"zsq is up: {stack.url}   data: {stack.data_dir}   Ctrl-C stops it.", flush=True)
            stack.wait()
    except _Told:
        print("zsq is stopped.", flush=True)
