"""Log lines of the API and of workers: one shape, as JSON for machines or as text for people.

Every line has `time` (RFC 3339, UTC), `level`, `logger` and `message`; besides what was bound around
it (`request_id`, `job_id`, `attempt`, `owner`, …) and what the call gave as `extra`.

    with log_context(request_id="abc"):
        add_log_fields(owner="local")
        log.info("uploaded", extra={"bytes": 12})

Whatever looks like a secret is blanked at the last moment, so that no driver's message gives one away.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from store.settings import LogFormat, LogLevel

OWN = ("api", "core", "store", "worker")
# They repeat for each message and each call what our own lines say better.
_CHATTY = (
    "celery.app.trace",
    "celery.beat",
    "celery.worker.request",
    "celery.worker.strategy",
    "httpx",
    "httpx2",
)

# Celery's and uvicorn's own extras say again what the line says.
_NOT_EXTRA = frozenset({*RESERVED_ATTRS, "color_message", "data"})

_fields: ContextVar[dict[str, Any] | None] = ContextVar("log_fields", default=None)

# Each takes rather too much than too little.
_SECRETS = (
    # A password ends at the last @ of its word: it may hold any other character. On the web, digits and a
    # slash are a port instead.
    (re.compile(r"(\b(?!https?:)[a-z][\w+.-]{0,30}://[^\s:/]*):\S{1,4096}@", re.IGNORECASE), r"\1:***@"),
    (re.compile(r"(\bhttps?://[^\s:/]*):(?!\d{1,5}/)\S{1,4096}@", re.IGNORECASE), r"\1:***@"),
    (re.compile(r"\b(password|passwd|pwd)=('[^']*'|\"[^\"]*\"|)\S*", re.IGNORECASE), r"\1=***"),
    (re.compile(r"\b(Bearer|Basic)\s+\S{8,}", re.IGNORECASE), r"\1 ***"),
    # The id of an API key is none, and says which key to revoke.
    (re.compile(r"(zsq_[0-9a-f]{24}_)[\w-]+"), r"\1***"),
    (re.compile(r"(whsec_)[\w+/=-]{8,}"), r"\1***"),
)


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Binds fields to every line that is written inside, in threads that copy this context too."""
    token = _fields.set({**log_fields(), **_known(fields)})
    try:
        yield
    finally:
        _fields.reset(token)


def add_log_fields(**fields: Any) -> None:
    """Adds to the innermost `log_context`, whoever entered it; nothing happens outside of any."""
    bound = _fields.get()
    if bound is not None:
        bound.update(_known(fields))


def log_fields() -> Mapping[str, Any]:
    """What is bound here."""
    return _fields.get() or {}


def current_request_id() -> str | None:
    """Of the request that this is done for, None where there is none."""
    found = log_fields().get("request_id")
    return None if found is None else str(found)


def without_secrets(text: str) -> str:
    """`redis://:secret@host` -> `redis://:***@host`; other passwords, tokens and API keys likewise."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def configure(format: LogFormat, level: LogLevel, stream: TextIO = sys.stderr) -> None:
    """All logging of this process goes to `stream`, in one shape.

    `level` is for our own packages. Others are heard from INFO on at most: at DEBUG they would write
    down what was uploaded, and the headers that sign requests.
    """
    text = stream.isatty() if format == "auto" else format == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(number, logging.INFO))
    for name in OWN:
        logging.getLogger(name).setLevel(number)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


class LineFormatter(JsonFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **log_fields(),
            **_extra(record),
        }
        if trace := _trace(self, record):
            line["exception"] = trace
        # Before it is written as JSON: there a password may hold backslashes that it does not have.
        return self.jsonify_log_record(_clean(line))


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO    worker.jobs: attempt 1 begins  job_id=job_1 attempt=1`"""

    def format(self, record: logging.LogRecord) -> str:
        # Secrets first: what is escaped or indented afterwards might hide one.
        fields = _clean({**log_fields(), **_extra(record)})
        said = without_secrets(record.getMessage())
        if trace := _trace(self, record):
            said = f"{said}\n{without_secrets(trace)}"
        # Indented, so that no message can pass for a line of its own.
        said = _visible(said).replace("\n", "\n    ")
        around = "".join(f" {key}={_plain(value)}" for key, value in fields.items())
        first, _, rest = said.partition("\n")
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {first}{' ' if around else ''}{around}"
        return f"{line}\n{rest}" if rest else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return _known(merge_record_extra(record, {}, _NOT_EXTRA))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return "\n".join(parts + ([record.stack_info] if record.stack_info else []))


def _visible(text: str) -> str:
    """Without what terminals obey or take for the end of a line; line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if re.fullmatch(r"[\w:./{}+-]+", text) else json.dumps(text)


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {without_secrets(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    # As text here and now: whatever became of an exception or a path later would not be looked at.
    return without_secrets(value if isinstance(value, str) else str(value))


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
