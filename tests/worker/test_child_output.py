"""What a child prints is no line of its worker's log."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.escapes import PREFIX
from worker.child import Order
from worker.child_output import LAST_BYTES, ChildOutput
from worker.outcomes import Failed, Limit, Outcome
from worker.runner import run_child


def run(scratch: Path, entry: str, payload: dict[str, object]) -> Outcome:
    return run_child(
        Order(entry=PREFIX + entry, payload=payload, scratch=scratch),
        limit=Limit(60),
        grace_seconds=1,
        watch=lambda: None,
        on_progress=lambda news: None,
    )


def test_a_child_forges_no_line_of_its_workers_log(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    forged = json.dumps({"level": "error", "logger": "worker.jobs", "message": "lost", "job_id": "job_other"})
    script = f"""
import json
from pathlib import Path
from store.logging import configure, log_context
from tests.worker.test_child_output import run
if __name__ == "__main__":
    configure("json", "INFO")
    with log_context(job_id="job_own"):
        outcome = run(Path({str(tmp_path)!r}), "forge", {{"line": {forged!r}, "log": {str(log)!r}}})
    Path({str(tmp_path / "said")!r}).write_text(json.dumps(outcome.value))
"""
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, stderr=file, check=True, timeout=120)
    said = json.loads((tmp_path / "said").read_text())
    assert said["log"] == [] and said["opened"] >= 3
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["logger"], line["job_id"]) == ("worker.child_output", "job_own")
    assert line["message"].count("job_other") == 3, "twice printed by Python, once by C"


def test_the_last_words_of_one_that_crashed_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = run(tmp_path, "crash", {"depth": 200})
    assert isinstance(outcome, Failed) and "SIGSEGV" in outcome.failure["detail"], outcome
    (said,) = [record.getMessage() for record in caplog.records if record.name == "worker.child_output"]
    assert "Fatal Python error: Segmentation fault" in said and said.count("in a_layer_of") > 90
    assert list(tmp_path.iterdir()) == []


def test_no_more_than_the_end_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = ChildOutput(tmp_path)
    with output.end() as end:
        os.write(end.fileno(), b"first" + b"x" * 10**6 + b"\xfflast\n")
        os.lseek(end.fileno(), 0, os.SEEK_SET)
    output.close()
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("the child printed 1000011 bytes") and message.endswith(
        "x\N{REPLACEMENT CHARACTER}last"
    )
    assert LAST_BYTES <= len(message) + 1 <= LAST_BYTES + 100 and record.levelno == logging.WARNING


def test_silence_is_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ChildOutput(tmp_path).close()
    assert not caplog.records
