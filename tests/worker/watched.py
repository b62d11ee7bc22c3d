"""The real calls of core inside a real child, with what they ask of the system for processes and network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from core import pipeline
from core.context import RunContext
from core.spec import MinMaxConfig
from worker import entries

PREFIX = "tests.worker.watched:"
_EVENTS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
_NETWORK = ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo")


def quantize(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """With short measurements: those take seconds."""
    pipeline._LATENCY_SECONDS = 0.1
    pipeline.baseline_config = lambda shape: MinMaxConfig(images=16, iterations=2)
    return _watched(entries.quantize, payload, context)


def inspect_checkpoint(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return _watched(entries.inspect_checkpoint, payload, context)


def inspect_dataset(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return _watched(entries.inspect_dataset, payload, context)


def _watched(
    entry: Callable[[dict[str, Any], RunContext], dict[str, Any]],
    payload: dict[str, Any],
    context: RunContext,
) -> dict[str, Any]:
    asked: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # Where the system does not name the processor in a file, `platform` asks a program, in vain.
        if event in (*_EVENTS, *_NETWORK) and "uname" not in repr(arguments):
            asked.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    return {"done": entry(payload, context), "asked": asked}
