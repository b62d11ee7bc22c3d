from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import PurePosixPath
from typing import Any

import pytest

from store.database import Database
from store.findings import Check, examine
from store.logging import add_log_fields, configure, current_request_id, log_context, without_secrets
from store.settings import LogFormat, LogLevel, StoreSettings

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Log:
    """Configured logging, and what it wrote."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def configure(self, format: LogFormat = "json", level: LogLevel = "info") -> None:
        configure(format, level, self.stream)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def log() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = Log()
    log.configure()
    yield log
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("api", "core", "store", "worker", "celery.app.trace", "celery.beat", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET)


ours = logging.getLogger("worker.jobs")


def test_a_line_is_one_object_with_what_was_bound(log: Log) -> None:
    with log_context(request_id="r-1", owner=None):
        add_log_fields(owner="local")
        with log_context(job_id="job_1", attempt=2):
            ours.warning("it %s\nin two lines", "broke", extra={"bytes": 3})
            assert current_request_id() == "r-1"
        ours.info("after")
    ours.info("outside")
    inside, after, outside = log.lines()
    assert RFC_3339.fullmatch(inside.pop("time"))
    assert inside == {
        "level": "warning",
        "logger": "worker.jobs",
        "message": "it broke\nin two lines",
        "request_id": "r-1",
        "owner": "local",
        "job_id": "job_1",
        "attempt": 2,
        "bytes": 3,
    }
    assert after.keys() - {"time", "level", "logger", "message"} == {"request_id", "owner"}
    assert outside.keys() == {"time", "level", "logger", "message"}


def test_threads_that_copy_the_context_write_the_same_fields(log: Log) -> None:
    with log_context(job_id="job_1"):
        thread = threading.Thread(target=copy_context().run, args=(ours.info, "from a thread"))
        thread.start()
        thread.join()
        add_log_fields(owner="late")
    assert log.lines()[0]["job_id"] == "job_1"


def test_an_exception_stays_within_its_line(log: Log) -> None:
    try:
        raise ValueError("what happened")
    except ValueError:
        ours.exception("broke")
    (line,) = log.lines()
    assert line["message"] == "broke"
    assert line["exception"].startswith("Traceback") and "what happened" in line["exception"]


SECRETS = [
    "postgresql://zsq:{}@db.example/zsq",
    "postgresql+psycopg://zsq:{}@db.example/zsq?connect_timeout=5",
    "redis://:{}@127.0.0.1:6379/0",
    "host=db user=zsq password={} dbname=zsq",
    "Authorization: Bearer {}",
]


@pytest.mark.parametrize("format", ["json", "text"])
@pytest.mark.parametrize("text", SECRETS)
def test_no_secret_is_written_wherever_it_stands(log: Log, format: LogFormat, text: str) -> None:
    log.configure(format)
    secret = "hunter2-%2F\\x"
    said = text.format(secret)
    with log_context(owner=said):
        try:
            raise ConnectionError(said)
        except ConnectionError:
            ours.exception("cannot reach %s", said, extra={"url": said, "all": [{"url": said}]})
    assert "hunter2" not in log.text()
    assert log.text().count("***") == 5


class Settings:
    def __repr__(self) -> str:
        return "Settings(broker='redis://:hunter2@cache.example')"


URL = "redis://:hunter2@cache.example"


@pytest.mark.parametrize("format", ["json", "text"])
@pytest.mark.parametrize(
    "value",
    [
        ValueError(URL),
        {URL},
        frozenset([URL]),
        URL.encode(),
        Settings(),
        {URL: 1},
        [ValueError({"url": URL})],
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_is_written_of_whatever_kind_it_is(log: Log, format: LogFormat, value: Any) -> None:
    log.configure(format)
    ours.warning("broke", extra={"error": value, "all": [{"one": value}]})
    assert "hunter2" not in log.text()
    assert log.text().count("***@cache.example") == 2


def test_numbers_and_what_is_not_there_stay_what_they_are(log: Log) -> None:
    ours.info("said", extra={"some": {"a": 1, "b": 0.5, "c": True, "d": None}, "path": PurePosixPath("/a")})
    (line,) = log.lines()
    assert line["some"] == {"a": 1, "b": 0.5, "c": True, "d": None} and line["path"] == "/a"


@pytest.mark.parametrize(
    "password",
    [
        "hunter2/hunter2",
        "p@hunter2",
        "hunter2'hunter2",
        'hunter2"hunter2',
        "hunter2:hunter2",
        "12/hunter2",
        "#?&,;<{hunter2",
    ],
)
@pytest.mark.parametrize("format", ["json", "text"])
def test_a_password_in_a_url_may_hold_any_character(log: Log, format: LogFormat, password: str) -> None:
    log.configure(format)
    for url in ("redis://:{}@cache.example:6379/0", "postgresql+psycopg://me@corp:{}@db.example/zsq"):
        ours.info("cannot reach %r", url.format(password), extra={"url": url.format(password)})
    assert "hunter2" not in log.text()
    assert log.text().count("***@cache.example:6379/0") == log.text().count("***@db.example/zsq") == 2


@pytest.mark.parametrize("password", ["a&hunter2", "a,hunter2", "a'hunter2", "'a hunter2'", '"a hunter2"'])
def test_a_password_in_a_dsn_may_hold_any_character(password: str) -> None:
    assert without_secrets(f"host=db password={password} dbname=zsq") == "host=db password=*** dbname=zsq"


@pytest.mark.parametrize("format", ["json", "text"])
def test_bare_keys_and_webhook_secrets_are_not_written(
    log: Log, format: LogFormat, database: Database
) -> None:
    log.configure(format)
    with database.write() as work:
        row, key = work.keys.create("a", None, None)
        secret = work.webhooks.secret("a")
    for text in (key, f"key={key},", f"'{secret}'", f"x{secret}"):
        ours.info("sent %s", text, extra={"said": text})
    parts = (key.rpartition(f"{row.id.removeprefix('key_')}_")[2], secret.removeprefix("whsec_"))
    assert not [part for part in parts if part[:12] in log.text() or part[-12:] in log.text()]
    assert log.text().count(f"zsq_{row.id.removeprefix('key_')}_***") == 4, "the id says which key it is"


def test_a_secret_that_is_cut_off_is_not_shown() -> None:
    """What a long message is shortened to may lack the end by which a password is known."""

    def ask() -> str:
        raise ConnectionError(f"{'x' * 250} redis://:{'hunter2' * 20}@cache.example")

    (finding,) = examine([Check("broker", ask, "Start it.")])
    assert "hunter2" not in finding.detail and len(finding.detail) <= 300


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1/of/a@b",
        "user@example.org: hello",
        "12:30 a@b",
        "GET /v1/jobs/{id} 200",
        "zsq_job_attempts_total",
    ],
)
def test_what_is_no_secret_stays(log: Log, text: str) -> None:
    ours.info("%s", text)
    assert log.lines()[0]["message"] == text


def test_text_is_for_people_and_lines_cannot_be_forged(log: Log) -> None:
    log.configure("text")
    with log_context(job_id="job_1"):
        ours.info("first\n2026-01-01T00:00:00.000Z ERROR   worker: forged", extra={"name_": "two words"})
    first, second = log.text().splitlines()
    assert RFC_3339.match(first)
    assert first.endswith('INFO    worker.jobs: first  job_id=job_1 name_="two words"')
    assert second.startswith("    ")


HOSTILE = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "return": "first\rINFO forged",
    "line": "first\u2028INFO forged\u2029INFO forged\x85INFO forged\x0bINFO forged\x0cINFO forged",
    "c1": "\x9b2J\x90",
    "bidi": "\u202egpj.exe\u2066\u200f",
    "delete": "a\x08\x7f",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("format", ["json", "text"])
def test_what_a_user_sends_cannot_drive_a_terminal_or_forge_a_line(
    log: Log, format: LogFormat, text: str
) -> None:
    log.configure(format)
    with log_context(owner=text):
        try:
            raise ValueError(text)
        except ValueError:
            ours.exception("broke on %s", text, extra={"name_": text, "all": [{text: text}]})
    written = log.text()
    assert all(each.isprintable() or each == "\n" for each in written)
    if format == "json":
        (line,) = log.lines()
        assert line["message"] == f"broke on {text}" and line["owner"] == text
    else:
        first, *rest = written.split("\n")
        assert RFC_3339.match(first) and text.encode("unicode_escape").decode() in first
        assert rest[0] == "    Traceback (most recent call last):", "a traceback keeps its lines"
        assert all(line.startswith("    ") for line in rest[:-1]) and rest[-1] == ""


def test_text_that_is_merely_foreign_stays(log: Log) -> None:
    log.configure("text")
    ours.info("Größe\t量子化 → 4 bit 🙂")
    assert "Größe\t量子化 → 4 bit 🙂" in log.text()


def test_levels_are_ours_and_others_are_never_heard_below_info(log: Log) -> None:
    log.configure("json", "debug")
    ours.debug("ours")
    logging.getLogger("python_multipart").debug("every byte of an upload")
    logging.getLogger("celery.app.trace").info("Task zsq.deliver succeeded")
    assert [line["message"] for line in log.lines()] == ["ours"]
    log.configure("json", "error")
    ours.warning("left out")
    logging.getLogger("botocore").warning("left out, too")
    assert len(log.lines()) == 1


def test_warnings_are_lines_too(log: Log) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated", UserWarning, stacklevel=1)
    assert "deprecated" in log.lines()[0]["message"]


def test_auto_is_text_on_a_terminal_alone(log: Log) -> None:
    log.configure("auto")
    ours.info("piped")
    assert json.loads(log.text())
    log.stream = type("Terminal", (io.StringIO,), {"isatty": lambda self: True})()
    log.configure("auto")
    ours.info("seen")
    assert "worker.jobs: seen" in log.text()


def test_settings_take_any_case_and_nothing_unknown() -> None:
    assert StoreSettings(log_format="JSON", log_level="DEBUG").log_level == "debug"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log_format"):
        StoreSettings(log_format="xml")  # type: ignore[arg-type]
