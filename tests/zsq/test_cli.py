"""The command line as a user types it, against a scripted server."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from zsq.cli import app
from zsq.client import Client
from zsq.commands.quantize import method_json

REPORT: dict[str, Any] = {
    "accuracy": {
        "float32": {"correct": 713, "total": 719, "top1": 99.17, "top5": 100.0, "ci95": [98.19, 99.62]},
        "minmax": {"correct": 500, "total": 719, "top1": 69.54, "top5": 95.0, "ci95": [66.08, 72.79]},
        "student": {"correct": 700, "total": 719, "top1": 97.36, "top5": 100.0, "ci95": [95.91, 98.3]},
        "onnxruntime": {"correct": 699, "total": 719, "top1": 97.22, "top5": 100.0, "ci95": [95.75, 98.2]},
    },
    "artifact": {"bytes": 150_000, "ideal_bytes": 140_000, "float32_bytes": 1_100_000, "profile": "packed"},
    "latency": [
        {
            "threads": 2,
            "float32": {"median_ms": 2.0, "p90_ms": 3.0},
            "quantized": {"median_ms": 1.0, "p90_ms": 1.5},
            "onnxruntime_int8": {"median_ms": 1.25, "p90_ms": 1.75},
        }
    ],
    "verification": {"integer_mac_share": 0.995},
}


def job(status: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": "job_1",
        "status": status,
        "method": "zaq",
        "progress": {"fraction": 0.4, "step": 2, "steps": 5},
        **fields,
    }


class Fake(ThreadingHTTPServer):
    """`answers[(method, path)]`: the coming answers as (status, JSON or bytes), the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.bodies: dict[str, bytes] = {}
        self.queries: dict[str, str] = {}
        self.headers: dict[str, Any] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Fake

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.queries[path] = query
        self.server.headers[path] = self.headers
        self.server.bodies[path] = self.rfile.read(int(self.headers["content-length"] or 0))
        answers = self.server.answers.get(
            (self.command, path), [(404, {"code": "not_found", "detail": "No."})]
        )
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("ZSQ_SERVER_URL", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("up", "quantize", "jobs", "checkpoints", "datasets", "methods", "architectures", "demo"):
        assert command in result.output


def test_quantize_uploads_waits_downloads_and_shows_the_report(fake: Fake, tmp_path: Path) -> None:
    network, images = tmp_path / "network.pt", tmp_path / "images.npz"
    network.write_bytes(b"weights")
    images.write_bytes(b"images")
    fake.answers = {
        ("POST", "/v1/checkpoints"): [(201, {"id": "ckpt_1", "state": "pending"})],
        ("POST", "/v1/datasets"): [(201, {"id": "data_1", "state": "pending"})],
        ("POST", "/v1/jobs"): [(202, job("queued"))],
        ("GET", "/v1/jobs/job_1"): [
            (200, job("running", phase="training", metrics={"loss": 0.25})),
            (200, job("succeeded")),
        ],
        ("GET", "/v1/jobs/job_1/artifacts"): [
            (200, {"items": [{"name": "model.onnx"}, {"name": "report.json"}]})
        ],
        ("GET", "/v1/jobs/job_1/artifacts/model.onnx"): [(200, b"onnx")],
        ("GET", "/v1/jobs/job_1/artifacts/report.json"): [(200, REPORT)],
        ("GET", "/v1/jobs/job_1/report"): [(200, REPORT)],
    }
    out = tmp_path / "out"
    result = run(
        "quantize", str(network), "--architecture", "cifar/resnet8", "--bits", "w4a4",
        "--profile", "portable", "--dataset", str(images), "--iterations", "3", "--seed", "5",
        "--out", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (out / "model.onnx").read_bytes() == b"onnx" and json.loads(
        (out / "report.json").read_text()
    ) == REPORT
    sent = json.loads(fake.bodies["/v1/jobs"])
    assert sent["method"] == {"name": "zaq", "budget": {"iterations": 3}}
    assert sent["export"] == {"profile": "portable"}
    assert (sent["bits"], sent["seed"], sent["evaluation"]) == ("w4a4", 5, {"dataset_id": "data_1"})
    for shown in (
        "training",
        "loss 0.25",
        "69.54 %",
        "500 of 719",
        "97.22 %",
        "699 of 719",
        "2 threads, median",
        "2.00×",
        "99.5%",
    ):
        assert shown in result.output, shown
    assert "\x1b" not in result.output


def test_class_names_are_a_list_or_the_lines_of_a_file(fake: Fake, tmp_path: Path) -> None:
    fake.answers = {
        ("POST", "/v1/checkpoints"): [(201, {"id": "ckpt_1", "state": "pending"})],
        ("POST", "/v1/datasets"): [(201, {"id": "data_1", "state": "pending"})],
        ("POST", "/v1/jobs"): [(202, job("queued"))],
    }
    network, names = tmp_path / "network.pt", tmp_path / "names.txt"
    network.write_bytes(b"weights")
    names.write_text("tench, Tinca tinca\nKäfer\n", encoding="utf-8")
    upload = ("checkpoints", "upload", str(network), "-a", "cifar/resnet8", "--classes")
    for words, expected in [
        ((*upload, "cat,dog"), '["cat", "dog"]'),
        ((*upload, f"@{names}"), '["tench, Tinca tinca", "Käfer"]'),
        (("quantize", str(network), "-a", "cifar/resnet8", "--detach", "--classes", "cat"), '["cat"]'),
    ]:
        assert run(*words).exit_code == 0
        assert f'name="classes"\r\n\r\n{expected}\r\n'.encode() in fake.bodies["/v1/checkpoints"]
    assert run("datasets", "upload", str(network), "--classes", f"@{names}").exit_code == 0
    assert "Käfer".encode() in fake.bodies["/v1/datasets"]
    missing = run(*upload, "@nowhere.txt")
    assert missing.exit_code == 2 and "--classes" in missing.stderr


def test_an_uploaded_checkpoint_needs_no_architecture(fake: Fake) -> None:
    fake.answers = {("POST", "/v1/jobs"): [(202, job("queued"))]}
    result = run("quantize", "ckpt_1", "--dataset", "data_1", "--detach")
    assert (result.exit_code, result.stdout.strip()) == (0, "job_1")
    assert json.loads(fake.bodies["/v1/jobs"])["checkpoint_id"] == "ckpt_1"


def test_an_earlier_job_that_computes_the_same_is_named(fake: Fake, tmp_path: Path) -> None:
    fake.answers = {
        ("POST", "/v1/jobs"): [(202, job("queued", duplicate_of="job_0"))],
        ("GET", "/v1/jobs/job_1"): [(200, job("succeeded"))],
        ("GET", "/v1/jobs/job_1/artifacts"): [(200, {"items": []})],
        ("GET", "/v1/jobs/job_1/report"): [(200, REPORT)],
    }
    result = run("quantize", "ckpt_1", "--out", str(tmp_path))
    assert "job_0 computes the same (--reuse takes it)" in result.output
    assert run("quantize", "ckpt_1", "--reuse", "--detach").exit_code == 0
    assert json.loads(fake.bodies["/v1/jobs"])["reuse"] is True


def test_quantize_outlives_a_server_that_is_away_when_the_job_has_ended(fake: Fake, tmp_path: Path) -> None:
    away = (503, {"code": "service_unavailable"})
    fake.answers = {
        ("POST", "/v1/jobs"): [(202, job("queued"))],
        ("GET", "/v1/jobs/job_1"): [(200, job("succeeded"))],
        ("GET", "/v1/jobs/job_1/artifacts"): [away, (200, {"items": []})],
        ("GET", "/v1/jobs/job_1/report"): [away, (200, REPORT)],
    }
    result = run("quantize", "ckpt_1", "--out", str(tmp_path))
    assert result.exit_code == 0 and "69.54 %" in result.output


def test_a_file_without_architecture_is_a_usage_error(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    result = run("quantize", str(tmp_path / "a.pt"))
    assert result.exit_code == 2 and "--architecture" in result.stderr


def test_a_problem_goes_to_standard_error_with_code_and_place(fake: Fake) -> None:
    problem = {
        "code": "validation_error",
        "detail": "Not like that.",
        "errors": [{"loc": ["bits"], "msg": "w0?"}],
    }
    fake.answers = {("POST", "/v1/jobs"): [(422, problem)]}
    result = run("quantize", "ckpt_1", "--bits", "w0a0")
    assert result.exit_code == 1 and result.stdout == ""
    assert "Not like that. (validation_error)" in result.stderr and "bits: w0?" in result.stderr


def test_a_failed_job_fails_the_command(fake: Fake) -> None:
    failed = job("failed", error={"code": "diverged", "detail": "The losses became NaN."})
    fake.answers = {("GET", "/v1/jobs/job_1"): [(200, failed)]}
    result = run("jobs", "watch", "job_1")
    assert result.exit_code == 1 and "The losses became NaN. (diverged)" in result.stderr


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Client, job_id: str, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "wait", interrupted)
    result = run("jobs", "watch", "job_1")
    assert result.exit_code == 130
    assert f"zsq jobs watch job_1 --server {fake.url}" in result.stderr
    assert f"zsq jobs cancel job_1 --server {fake.url}" in result.stderr


def test_no_server_is_said_plainly() -> None:
    result = run("jobs", "list", "--server", "http://127.0.0.1:9")
    assert result.exit_code == 1 and "zsq up" in result.stderr and "Traceback" not in result.stderr


def test_lists_show_what_there_is(fake: Fake) -> None:
    rejected = {"code": "truncated_file", "detail": "It ends early."}
    fake.answers = {
        ("GET", "/v1/jobs"): [(200, {"items": [job("running")], "next": None})],
        ("GET", "/v1/checkpoints"): [
            (
                200,
                {
                    "items": [{"id": "ckpt_1", "state": "rejected", "bytes": 2048, "error": rejected}],
                    "next": None,
                },
            )
        ],
        ("GET", "/v1/datasets"): [(200, {"items": [], "next": None})],
        ("GET", "/v1/methods"): [
            (200, {"items": [{"name": "zaq", "summary": "Adversarial."}], "next": None})
        ],
        ("GET", "/v1/architectures"): [
            (200, {"items": [{"name": "cifar/resnet8", "input_shape": [3, 32, 32]}]})
        ],
    }
    assert "job_1  running  40%" in run("jobs", "list").output
    checkpoints = run("checkpoints", "list").output
    assert "ckpt_1" in checkpoints and "rejected" in checkpoints and "2.0 KiB" in checkpoints
    assert run("datasets", "list").output == "None yet.\n"
    assert "Adversarial." in run("methods").output
    assert "cifar/resnet8  3×32×32" in run("architectures", "cifar").output
    assert fake.queries["/v1/architectures"] == "contains=cifar"
    run("architectures")
    assert fake.queries["/v1/architectures"] == ""
    assert json.loads(run("jobs", "list", "--json").stdout) == [job("running")]


def test_cancel_and_delete(fake: Fake) -> None:
    fake.answers = {
        ("POST", "/v1/jobs/job_1/cancel"): [(202, job("running"))],
        ("DELETE", "/v1/checkpoints/ckpt_1"): [(409, {"code": "checkpoint_in_use", "detail": "In use."})],
        ("DELETE", "/v1/datasets/data_1"): [(204, b"")],
        ("DELETE", "/v1/jobs/job_1"): [(204, b"")],
        ("DELETE", "/v1/jobs/job_2"): [(409, {"code": "job_unfinished", "detail": "It is running."})],
    }
    assert run("jobs", "cancel", "job_1").output == "job_1: running, stopping\n"
    assert run("datasets", "delete", "data_1").exit_code == 0
    assert run("jobs", "delete", "job_1").exit_code == 0
    running = run("jobs", "delete", "job_2")
    assert running.exit_code == 1 and "It is running. (job_unfinished)" in running.stderr
    refused = run("checkpoints", "delete", "ckpt_1")
    assert refused.exit_code == 1 and "checkpoint_in_use" in refused.stderr


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((None, None, None, []), "zaq"),
        (("paper", None, None, []), {"name": "zaq", "preset": "paper"}),
        ((None, None, 2.5, []), {"name": "zaq", "budget": {"seconds": 2.5}}),
        (
            (None, None, None, ["alpha=0.1", "discrepancy=crm", "fold_bn=true"]),
            {"name": "zaq", "alpha": 0.1, "discrepancy": "crm", "fold_bn": True},
        ),
    ],
)
def test_method_is_a_name_or_an_object_with_what_was_asked(asked: Any, expected: Any) -> None:
    assert method_json("zaq", *asked) == expected


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_command_that_calls_a_server_takes_a_key() -> None:
    found = dict(commands(get_command(app)))
    calling = {path for path, command in found.items() if "server" in {each.name for each in command.params}}
    assert {("jobs", "list"), ("quantize",), ("limits",), ("checkpoints", "upload")} <= calling
    calling -= {("doctor",)}  # asks /readyz alone, which is open
    for path in calling:
        assert "api_key" in {each.name for each in found[path].params}, path


def test_the_key_comes_from_the_option_or_the_environment(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers = {("GET", "/v1/jobs"): [(200, {"items": [], "next": None})]}
    monkeypatch.setenv("ZSQ_API_KEY", "from-env")
    for words, key in ((("jobs", "list"), "from-env"), (("jobs", "list", "--api-key", "given"), "given")):
        assert run(*words).exit_code == 0
        assert fake.headers["/v1/jobs"]["authorization"] == f"Bearer {key}"


def test_a_server_that_asks_for_a_key_says_so_plainly(fake: Fake) -> None:
    fake.answers = {("GET", "/v1/jobs"): [(401, {"code": "unauthorized", "detail": "No."})]}
    result = run("jobs", "list")
    assert result.exit_code == 1 and "ZSQ_API_KEY" in result.stderr and "zsq keys create" in result.stderr


def test_limits_show_what_is_used_and_allowed(fake: Fake) -> None:
    found = {
        "owner": "ann",
        "key_id": "key_1",
        "stored_bytes": {"used": 3 * 2**20, "allowed": 2**30},
        "queued_jobs": {"used": 2, "allowed": 1000},
        "uploads": {"used": 0, "allowed": None},
        "calls_per_minute": None,
        "upload_bytes": 2**20,
    }
    fake.answers = {("GET", "/v1/limits"): [(200, found)]}
    shown = run("limits").stdout
    for text in ("You are ann, with key_1.", "3.0 MiB", "1024.0 MiB", "1000", "no limit", "not counted"):
        assert text in shown, text
    assert json.loads(run("limits", "--json").stdout) == found
