"""Off, and half there. A whole trace is received in tests/integration/test_observability.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# FastAPI itself loads the bare API.
OURS = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation")


def run(code: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", f"OURS = {OURS}\n{code}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


USE = """
import sys, tempfile
from store import tracing
from store.database import Database, make_engine
tracing.start("zsq-test")
engine = make_engine(f"sqlite:///{tempfile.mkdtemp()}/zsq.db")
tracing.instrument_engine(engine)
with tracing.untraced(), tracing.span("work", parent=None, job_id="job_1") as span:
    Database(engine).ping()
    parent = tracing.traceparent()
tracing.stop()
print("parent:", parent)
print("loaded:", sorted(name for name in sys.modules if name.startswith(OURS))[:3])
"""
APP = """
import sys, tempfile
from pathlib import Path
from api.app import create_app
from api.settings import ApiSettings
import worker.app
create_app(ApiSettings(data_dir=Path(tempfile.mkdtemp())))
print("loaded:", sorted(name for name in sys.modules if name.startswith(OURS))[:3])
"""


@pytest.mark.parametrize("code", [USE, APP])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_without_an_endpoint_nothing_is_loaded(code: str, environment: dict[str, str]) -> None:
    assert "loaded: []" in run(code, **environment)


def test_an_endpoint_without_the_packages_is_one_warning_and_no_failure() -> None:
    missing = "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
    said = run(missing + USE, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert said.count("pip install 'zsq[otel]'") == 1
    assert "parent: None" in said


def test_an_endpoint_that_is_away_holds_nothing_up() -> None:
    said = run(USE, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert "parent: 00-" in said
