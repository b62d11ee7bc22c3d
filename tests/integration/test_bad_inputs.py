"""Whatever is sent: a clear answer with a code, nothing lost, everything still running afterwards.

One stack takes all of it. The last test looks at what is left: the same processes, no file that no
row explains, none of the programs in the malicious files ever run, and a good job still works.
"""

from __future__ import annotations

import io
import json
import pickle
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch

from tests.integration import bad_files as files
from tests.integration.bad_cases import CHECKPOINTS, DATASETS, RESNET, Case, Sources, small_network
from tests.integration.conftest import FAST
from tests.integration.running import LONG, QUICK
from tests.waiting import until
from zsq.stack import Stack

MAX_UPLOAD_BYTES = 4 << 20
CALM_SECONDS = 60.0
OCTETS = "application/octet-stream"
JSON = {"Content-Type": "application/json"}
GOOD_FIELDS = {**RESNET, "mean": "0.5", "std": "0.25"}
TABLES: dict[str, dict[str, Case]] = {"checkpoints": CHECKPOINTS, "datasets": DATASETS}


@dataclass
class World:
    """The stack, the good files in it, and who ran when it had just started."""

    stack: Stack
    http: httpx.Client
    data_dir: Path
    said: list[str]
    traps: Path
    family: dict[str, set[int]]
    checkpoint: str = ""
    dataset: str = ""
    sent: dict[tuple[str, str], httpx.Response] = field(default_factory=dict)

    def upload(self, kind: str, data: bytes, fields: dict[str, str]) -> httpx.Response:
        return self.http.post(f"/v1/{kind}", data=fields, files={"file": ("file", data)})

    def good_upload(self, kind: str, data: bytes, fields: dict[str, str]) -> str:
        answer = self.upload(kind, data, fields)
        assert answer.status_code in (200, 201), answer.text
        found = self.decided(kind, answer.json()["id"])
        assert found["state"] == "ready", found
        return str(found["id"])

    def decided(self, kind: str, id: str) -> dict[str, Any]:
        return self._until(f"/v1/{kind}/{id}", lambda found: found["state"] != "pending")

    def submit(self, **job: Any) -> httpx.Response:
        return self.http.post("/v1/jobs", json={"checkpoint_id": self.checkpoint, "bits": "w4a4", **job})

    def ended(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 202, answer.text
        return self._until(f"/v1/jobs/{answer.json()['id']}", lambda job: job["finished_at"] is not None)

    def _until(self, path: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + CALM_SECONDS
        while True:
            found: dict[str, Any] = self.http.get(path).raise_for_status().json()
            if done(found):
                return found
            assert time.monotonic() < end, f"still {found}"
            time.sleep(0.05)

    def incoming(self) -> list[Path]:
        return list((self.data_dir / "blobs" / "incoming").iterdir())

    def stored(self) -> set[str]:
        return {path.name for path in (self.data_dir / "blobs").glob("??/??/*")}

    def explained(self) -> set[str]:
        query = " UNION ".join(f"SELECT blob_sha256 FROM {t}" for t in ("checkpoint", "dataset", "artifact"))
        connection = sqlite3.connect(self.data_dir / "zsq.db")
        try:
            return {sha256 for (sha256,) in connection.execute(query)}
        finally:
            connection.close()


def family(stack: Stack) -> dict[str, set[int]]:
    """The processes of each part: itself and all below it."""
    parts = {name: psutil.Process(stack.pid(name)) for name in ("broker", "api", "control", "cpu")}
    return {
        name: {part.pid, *(child.pid for child in part.children(recursive=True))}
        for name, part in parts.items()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    data_dir, traps = tmp_path_factory.mktemp("stack"), tmp_path_factory.mktemp("traps")
    said: list[str] = []
    env = {**FAST, "ZSQ_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES), "ZSQ_LEASE_SECONDS": "60"}
    with (
        Stack(data_dir=data_dir, port=0, env=env, say=said.append) as stack,
        httpx.Client(base_url=stack.url, trust_env=False, timeout=30) as http,
    ):
        until(
            lambda: min(len(family(stack)[worker]) for worker in ("control", "cpu")) >= 3,
            CALM_SECONDS,
            "a worker has no forkserver and resource tracker",
        )
        world = World(stack, http, data_dir, said, traps, family(stack))
        # All at once: the tests below wait for the verdicts one by one.
        sources = Sources(traps)
        for kind, cases in TABLES.items():
            for name, case in cases.items():
                world.sent[kind, name] = world.upload(kind, case.make(sources), case.fields)
        network = files.saved(small_network().state_dict())
        world.checkpoint = world.good_upload("checkpoints", network, GOOD_FIELDS)
        world.dataset = world.good_upload("datasets", images(), {})
        yield world


def images(channels: int = 1, labels: int = 10) -> bytes:
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, channels), dtype=np.uint8)
    return files.npz(x=x, y=np.arange(20) % labels)


def problem(answer: httpx.Response, status: int, code: str, *says: str, at: str | None = None) -> None:
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    faults = body.get("errors", [])
    text = "\n".join([body["detail"], *(each["detail"] for each in faults)])
    assert not [words for words in says if words not in text], body
    if at is not None:
        assert at in [each["field"] for each in faults], body


# --- files that are looked into -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in TABLES.items() for name in cases])
def test_a_bad_file_is_rejected_with_its_reason(world: World, kind: str, name: str) -> None:
    case, answer = TABLES[kind][name], world.sent[kind, name]
    assert answer.status_code == 201, answer.text
    found = world.decided(kind, answer.json()["id"])
    assert found["state"] == "rejected", found
    error = found["error"]
    assert (error["code"], error["field"], error["retryable"]) == (case.code, case.at, False), error
    assert not [words for words in case.says if words not in error["detail"]], error
    assert found["inspection"] is None
    assert found["bytes"] > 0 and len(found["sha256"]) == 64, "it stays to be looked at"


def test_the_malicious_files_would_run_elsewhere_but_not_here(world: World, tmp_path: Path) -> None:
    for kind, cases in TABLES.items():
        for name in cases:
            world.decided(kind, world.sent[kind, name].json()["id"])
    assert not list(world.traps.iterdir())

    # The same files, opened by readers that do run what they find.
    sources = Sources(tmp_path)
    traps = [case for case in CHECKPOINTS.values() if case.code == "unsafe_pickle"]
    assert len(traps) == 5
    for case in traps:
        data = io.BytesIO(case.make(sources))
        try:
            torch.load(data, weights_only=False)
        except Exception:  # the trap springs first; what follows is no checkpoint
            pickle.loads(data.getvalue()) if not list(tmp_path.iterdir()) else None
    with np.load(io.BytesIO(DATASETS["npz with code"].make(sources)), allow_pickle=True) as opened:
        opened["y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "behind", "legacy", "npz", "old-pickle", "pickle", "zip",
    ]  # fmt: skip


# --- uploads that are refused at once -------------------------------------------------------------

BAD_FIELDS: dict[str, tuple[dict[str, str], str, str, tuple[str, ...]]] = {
    "no architecture": ({}, "validation_error", "architecture", ("required",)),
    "an unknown architecture": (
        {"architecture": "torchvision/resnet19"},
        "unknown_architecture",
        "architecture",
        ("torchvision/resnet18",),
    ),
    "an architecture like nothing": (
        {"architecture": "?"},
        "unknown_architecture",
        "architecture",
        ("GET /v1/architectures",),
    ),
    "an unknown field": ({**RESNET, "bits": "w4a4"}, "validation_error", "bits", ("no such field", "mean")),
    "no classes": ({**RESNET, "num_classes": "0"}, "validation_error", "num_classes", ("greater than",)),
    "classes as a word": ({**RESNET, "num_classes": "ten"}, "validation_error", "num_classes", ("integer",)),
    "half a class": ({**RESNET, "num_classes": "1.5"}, "validation_error", "num_classes", ("integer",)),
    "two sides": ({**RESNET, "input_shape": "3,8"}, "validation_error", "input_shape.2", ("required",)),
    "a shape of words": ({**RESNET, "input_shape": "a,b,c"}, "validation_error", "input_shape.0", ()),
    "a flat image": ({**RESNET, "input_shape": "1,0,8"}, "validation_error", "input_shape.1", ("greater",)),
    "a mean of NaN": ({**RESNET, "mean": "nan"}, "validation_error", "mean", ("finite",)),
    "a mean of two": ({**RESNET, "mean": "0,0"}, "validation_error", "", ("mean has 2 values for 1",)),
    "a deviation of zero": (
        {**RESNET, "std": "0"},
        "validation_error",
        "std.0",
        ("greater than or equal to 0.000001",),
    ),
    "a null in the name": ({**RESNET, "name": "a\0b"}, "validation_error", "name", ("null",)),
    "a name without end": ({**RESNET, "name": "a" * 256}, "validation_error", "name", ("255",)),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields(world: World, name: str) -> None:
    fields, code, at, says = BAD_FIELDS[name]
    problem(world.upload("checkpoints", b"never looked at", fields), 422, code, *says, at=at)
    if name not in ("an unknown field",):  # the query of a raw upload takes the same fields
        raw = world.http.post(
            "/v1/checkpoints", params=fields, content=b"x", headers={"Content-Type": OCTETS}
        )
        problem(raw, 422, code, *says, at=at)


@pytest.mark.parametrize("kind", ["checkpoints", "datasets"])
def test_an_empty_file(world: World, kind: str) -> None:
    fields = RESNET if kind == "checkpoints" else {}
    problem(world.upload(kind, b"", fields), 422, "empty_file", "the file is empty", at="file")
    raw = world.http.post(f"/v1/{kind}", params=fields, content=b"", headers={"Content-Type": OCTETS})
    problem(raw, 422, "empty_file", "the file is empty", at="file")


@pytest.mark.parametrize("kind", ["checkpoints", "datasets"])
def test_a_file_over_the_limit(world: World, kind: str) -> None:
    fields = RESNET if kind == "checkpoints" else {}
    data = bytes(MAX_UPLOAD_BYTES + 1)
    says = (str(MAX_UPLOAD_BYTES), "ZSQ_MAX_UPLOAD_BYTES")
    problem(world.upload(kind, data, fields), 413, "payload_too_large", *says)

    def pieces() -> Iterator[bytes]:
        yield from (data[at : at + 65536] for at in range(0, len(data), 65536))

    for content in (data, pieces()):  # announced by its length, and not
        raw = world.http.post(f"/v1/{kind}", params=fields, content=content, headers={"Content-Type": OCTETS})
        problem(raw, 413, "payload_too_large", *says)


FILE = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nbytes\r\n'
ARCHITECTURE = b'Content-Disposition: form-data; name="architecture"\r\n\r\ncifar/resnet8\r\n'
FORM = "multipart/form-data; boundary=b"

BAD_FORMS: dict[str, tuple[str | None, bytes, int, str, str]] = {
    "no file": (FORM, b"--b\r\n" + ARCHITECTURE + b"--b--\r\n", 422, "validation_error", "named file"),
    "two files": (
        FORM,
        b"--b\r\n" + FILE + b"--b\r\n" + FILE + b"--b--\r\n",
        422,
        "validation_error",
        "more than once",
    ),
    "a field twice": (
        FORM,
        b"--b\r\n" + ARCHITECTURE + b"--b\r\n" + ARCHITECTURE + b"--b--\r\n",
        422,
        "validation_error",
        "more than once",
    ),
    "a part without a name": (
        FORM,
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        422,
        "validation_error",
        "no such field",
    ),
    "no boundary": (
        "multipart/form-data",
        b"--b\r\n" + FILE + b"--b--\r\n",
        400,
        "malformed_request",
        "boundary",
    ),
    "another boundary": (FORM, b"--c\r\n" + FILE + b"--c--\r\n", 400, "malformed_request", "malformed"),
    "no last boundary": (FORM, b"--b\r\n" + FILE, 400, "malformed_request", "last boundary"),
    "nothing at all": (FORM, b"", 400, "malformed_request", "last boundary"),
    "no type": (None, b"bytes", 415, "unsupported_media_type", "multipart/form-data or application/octet"),
    "JSON": ("application/json", b"{}", 415, "unsupported_media_type", "multipart/form-data"),
    "no UTF-8": (
        FORM,
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--b--\r\n',
        400,
        "malformed_request",
        "UTF-8: name",
    ),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_a_bad_form(world: World, name: str) -> None:
    kind, body, status, code, says = BAD_FORMS[name]
    headers = {"Content-Type": kind} if kind else {}
    problem(world.http.post("/v1/checkpoints", content=body, headers=headers), status, code, says)


def test_a_compressed_body(world: World) -> None:
    headers = {"Content-Type": OCTETS, "Content-Encoding": "gzip"}
    answer = world.http.post("/v1/checkpoints", params=RESNET, content=b"x", headers=headers)
    problem(answer, 415, "unsupported_media_type", "without a Content-Encoding")


@pytest.mark.parametrize("form", [True, False], ids=["form", "raw"])
def test_an_upload_that_breaks_off_leaves_nothing(world: World, form: bool) -> None:
    before = world.stored()
    query = "?architecture=cifar/resnet8" if not form else ""
    head = f"POST /v1/checkpoints{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n"
    head += f"Content-Type: {FORM if form else OCTETS}\r\n\r\n"
    start = b"--b\r\n" + FILE.removesuffix(b"\r\n") if form else b""
    with socket.create_connection(("127.0.0.1", world.stack.port)) as connection:
        connection.sendall(head.encode() + start + bytes(2 << 20))
        until(world.incoming, CALM_SECONDS, "nothing arrives")
    until(lambda: not world.incoming(), CALM_SECONDS, "the broken upload's file stays")
    assert world.stored() == before


# --- jobs -----------------------------------------------------------------------------------------

BAD_JOBS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "no bits": ({"bits": None}, "bits", ()),
    "bits of 0": ({"bits": "w0a8"}, "bits.weight", ("greater than or equal to 2",)),
    "bits of 1": ({"bits": "w1a8"}, "bits.weight", ("greater than or equal to 2",)),
    "bits of 9": ({"bits": "w8a9"}, "bits.activation", ("less than or equal to 8",)),
    "bits of 9 as an object": ({"bits": {"weight": 9, "activation": 4}}, "bits.weight", ("equal to 8",)),
    "bits of a very large number": ({"bits": "w" + "9" * 5000 + "a4"}, "bits", ('"w4a8"',)),
    "bits in other digits": ({"bits": "w٤a٤"}, "bits", ('"w4a8"',)),
    "bits as text": ({"bits": "four"}, "bits", ('"w4a8"', "'four'")),
    "bits as empty text": ({"bits": ""}, "bits", ('"w4a8"',)),
    "bits as a number": ({"bits": 4}, "bits", ('"w4a8"',)),
    "bits as true": ({"bits": True}, "bits", ('"w4a8"',)),
    "bits as a fraction": ({"bits": 4.5}, "bits", ('"w4a8"',)),
    "bits as a list": ({"bits": [4, 4]}, "bits", ('"w4a8"',)),
    "weight bits alone": ({"bits": {"weight": 4}}, "bits.activation", ("required",)),
    "weight bits of true": ({"bits": {"weight": True, "activation": 4}}, "bits.weight", ("integer",)),
    "weight bits of 4.5": ({"bits": {"weight": 4.5, "activation": 4}}, "bits.weight", ("integer",)),
    "weight bits as text": ({"bits": {"weight": "4", "activation": 4}}, "bits.weight", ("integer",)),
    "weight bits of null": ({"bits": {"weight": None, "activation": 4}}, "bits.weight", ("integer",)),
    "an unknown width": (
        {"bits": {"weight": 4, "activation": 4, "wieght": 4}},
        "bits.wieght",
        ("nexpected",),
    ),
    "an override of 1": (
        {"bits": {"weight": 4, "activation": 4, "overrides": {"a.*": {"weight": 1}}}},
        "bits.overrides.a.*.weight",
        ("equal to 2",),
    ),
    "an unknown override": (
        {"bits": {"weight": 4, "activation": 4, "overrides": {"a": {"bits": 4}}}},
        "bits.overrides.a.bits",
        ("nexpected",),
    ),
    "overrides as a list": ({"bits": {"weight": 4, "activation": 4, "overrides": []}}, "bits.overrides", ()),
    "an unknown method": ({"method": "gdfq2"}, "method", ("unknown method 'gdfq2'", "minmax, zaq")),
    "a method without a name": ({"method": {"preset": "service"}}, "method", ("name",)),
    "a method as a number": ({"method": 3}, "method", ()),
    "an unknown option": ({"method": {"name": "zaq", "lr": 1}}, "method.lr", ("nexpected",)),
    "an unknown preset": ({"method": {"name": "zaq", "preset": "fast"}}, "method.preset", ("'service'",)),
    "a budget of nothing": ({"method": {"name": "zaq", "budget": {}}}, "method.budget", ("exactly one",)),
    "a budget of less": (
        {"method": {"name": "zaq", "budget": {"seconds": -1}}},
        "method.budget.seconds",
        ("than 0",),
    ),
    "too many images": ({"method": {"name": "minmax", "images": 10**6}}, "method.images", ("4096",)),
    "a seed of true": ({"seed": True}, "seed", ("integer",)),
    "a seed of less": ({"seed": -1}, "seed", ("equal to 0",)),
    "a limit of zero": ({"limits": {"seconds": 0}}, "limits.seconds", ("greater than 0",)),
    "an unknown profile": ({"export": {"profile": "tflite"}}, "export.profile", ("'packed'", "'tensorrt'")),
    "narrow activations for TensorRT": (
        {"export": {"profile": "tensorrt"}},
        "export",
        ("8-bit activations only", "bits.activation is 4"),
    ),
    "an unknown member": ({"bit": "w4a4"}, "bit", ("xtra",)),
    "an id as a number": ({"checkpoint_id": 3}, "checkpoint_id", ("string",)),
    "an id as a path": ({"checkpoint_id": "../../etc/passwd"}, "checkpoint_id", ()),
    "an evaluation as text": ({"evaluation": "data_0"}, "evaluation", ()),
    "labels as numbers": ({"labels": {"a": 1}}, "labels.a", ("string",)),
    "a null in a label": ({"labels": {"a": "b\0"}}, "", ("null characters",)),
    "a null in an override": (
        {"bits": {"weight": 4, "activation": 4, "overrides": {"a\0": {"weight": 4}}}},
        "",
        ("null characters",),
    ),
    "half a character in a label": ({"labels": {"a": "\ud800"}}, "", ("valid Unicode",)),
    "half a character as a key": ({"\udfff": 1}, "", ("valid Unicode",)),
    "half a character as bits": ({"bits": "\ud800"}, "", ("valid Unicode",)),
    "half a character as a method": ({"method": "\ud800"}, "", ("valid Unicode",)),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_bad_job(world: World, name: str) -> None:
    change, at, says = BAD_JOBS[name]
    job = {"checkpoint_id": world.checkpoint, "bits": "w4a4", **change}
    # As escapes: half characters cannot be written in another way.
    answer = world.http.post("/v1/jobs", content=json.dumps(job).encode(), headers=JSON)
    problem(answer, 422, "validation_error", *says, at=at)


BAD_BODIES: dict[str, tuple[bytes, int, str, str]] = {
    "no body": (b"", 422, "validation_error", "required"),
    "no JSON": (b"{bits: w4a4", 400, "malformed_request", "not valid JSON"),
    "JSON that ends early": (b'{"bits": "w4a4"', 400, "malformed_request", "not valid JSON"),
    "no UTF-8": (b'{"bits": "\xff"}', 400, "malformed_request", "not valid JSON"),
    "a list": (b"[]", 422, "validation_error", "object"),
    "null": (b"null", 422, "validation_error", ""),
    "NaN": (b'{"checkpoint_id": "ckpt_0", "bits": "w4a4", "seed": NaN}', 422, "validation_error", "seed"),
    "a limit of NaN": (
        b'{"checkpoint_id": "ckpt_0", "bits": "w4a4", "limits": {"seconds": NaN}}',
        422,
        "validation_error",
        "finite",
    ),
    "infinity": (
        b'{"checkpoint_id": "ckpt_0", "bits": "w4a4", "limits": {"seconds": 1e999}}',
        422,
        "validation_error",
        "finite",
    ),
    "a seed of a thousand digits": (
        b'{"checkpoint_id": "ckpt_0", "bits": "w4a4", "seed": 1' + b"0" * 1000 + b"}",
        422,
        "validation_error",
        "seed",
    ),
    "a seed of six thousand digits": (
        b'{"checkpoint_id": "ckpt_0", "bits": "w4a4", "seed": 1' + b"0" * 6000 + b"}",
        400,
        "malformed_request",
        "not valid JSON",
    ),
    "a deep nest": (b'{"bits": ' + b"[" * 100_000, 400, "malformed_request", "not valid JSON"),
    "a deep nest that ends": (
        b'{"labels": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
        422,
        "validation_error",
        "",
    ),
    "a megabyte": (b'{"bits": "' + b"w" * (1 << 20) + b'"}', 413, "payload_too_large", "1048576"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body(world: World, name: str) -> None:
    body, status, code, says = BAD_BODIES[name]
    problem(world.http.post("/v1/jobs", content=body, headers=JSON), status, code, says)


def test_ids_that_are_not_there(world: World) -> None:
    unknown = "ckpt_" + "0" * 24
    problem(world.submit(checkpoint_id=unknown), 404, "not_found", "checkpoint", unknown)
    problem(world.submit(evaluation={"dataset_id": "data_0"}), 404, "not_found", "dataset", "data_0")
    problem(world.submit(evaluation={"dataset_id": world.checkpoint}), 404, "not_found", "dataset")
    for path in ("checkpoints/ckpt_0", "datasets/data_0", "jobs/job_0", "jobs/job_0/report", "jobs/%00"):
        problem(world.http.get(f"/v1/{path}"), 404, "not_found")
    problem(world.http.delete("/v1/checkpoints/ckpt_0"), 404, "not_found", "ckpt_0")
    problem(world.http.post("/v1/jobs/job_0/cancel"), 404, "not_found", "job_0")


def test_a_job_on_what_was_rejected(world: World) -> None:
    checkpoint = world.sent["checkpoints", "NaN weights"].json()["id"]
    dataset = world.sent["datasets", "negative labels"].json()["id"]
    world.decided("checkpoints", checkpoint)
    world.decided("datasets", dataset)
    problem(
        world.submit(checkpoint_id=checkpoint),
        422,
        "checkpoint_rejected",
        "conv1.weight",
        at="checkpoint_id",
    )
    problem(
        world.submit(evaluation={"dataset_id": dataset}),
        422,
        "dataset_rejected",
        "label -1",
        at="evaluation.dataset_id",
    )


def test_a_bad_one_shot_keeps_nothing(world: World) -> None:
    before = world.stored()
    data = files.saved({"a": torch.ones(3)})
    for change, at, says in (
        ({"bits": "w9a9"}, "bits.weight", "equal to 8"),
        ({"bits": '{"weight": 4}'}, "bits.activation", "required"),
        ({"bits": '{"weight": '}, "bits", "not valid JSON"),
        ({"bits": '{"weight": NaN, "activation": 4}'}, "bits.weight", "integer"),
        ({"method": "magic"}, "method", "unknown method"),
        ({"seed": "one"}, "seed", "integer"),
    ):
        answer = world.upload("quantize", data, {**RESNET, "bits": "w4a4", **change})
        problem(answer, 422, "validation_error", says, at=at)
    assert world.stored() == before and not world.incoming()


def test_a_one_shot_on_a_bad_file_fails_as_a_job(world: World) -> None:
    job = world.ended(world.upload("quantize", b"PK\3\4 and no more", {**RESNET, "bits": "w4a4"}))
    assert (job["status"], job["error"]["code"]) == ("failed", "checkpoint_rejected")
    assert "Upload it again" in job["error"]["detail"]


# Each is found only when the job runs: what was sent, the code, the field, what the detail says.
BAD_RUNS: dict[str, tuple[dict[str, Any], bytes | None, str, str, tuple[str, ...]]] = {
    "an override that matches nothing": (
        {"bits": {"weight": 4, "activation": 4, "overrides": {"layer9.*": {"weight": 8}}}},
        None,
        "override_matches_nothing",
        "bits.overrides",
        ("'layer9.*'", "conv1"),
    ),
    "labels past the network's classes": (
        {},
        images(labels=11),
        "labels_out_of_range",
        "evaluation.dataset_id",
        ("label 10", "10 classes (0 to 9)"),
    ),
    "images of two channels": (
        {},
        images(channels=2),
        "invalid_dataset_shape",
        "evaluation.dataset_id",
        ("2 channels", "expects 1"),
    ),
    "no time": (
        {"limits": {"seconds": 1e-6}},
        None,
        "deadline_exceeded",
        "limits.seconds",
        ("limit",),
    ),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_job_that_fails_when_it_runs(world: World, name: str) -> None:
    change, dataset, code, at, says = BAD_RUNS[name]
    if dataset is not None:
        change = {**change, "evaluation": {"dataset_id": world.good_upload("datasets", dataset, {})}}
    job = world.ended(world.submit(method=QUICK, **change))
    assert job["status"] == "failed", job
    error = job["error"]
    assert (error["code"], error["field"], error["retryable"]) == (code, at, False), error
    assert not [words for words in says if words not in error["detail"]], error
    assert job["attempt"] == 1, "another try would end the same"
    problem(world.http.get(job["links"]["self"] + "/report"), 409, "not_ready", "failed")


# --- deleted --------------------------------------------------------------------------------------


def test_a_deleted_checkpoint(world: World) -> None:
    network = files.saved(small_network(num_classes=4).state_dict())
    id = world.good_upload("checkpoints", network, GOOD_FIELDS)
    dataset = world.good_upload("datasets", images(labels=4), {})
    job = world.submit(checkpoint_id=id, method=LONG, evaluation={"dataset_id": dataset}).json()
    problem(world.http.delete(f"/v1/checkpoints/{id}"), 409, "checkpoint_in_use", job["id"])
    problem(world.http.delete(f"/v1/datasets/{dataset}"), 409, "dataset_in_use", job["id"])

    canceled = world.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert world.ended(canceled)["status"] == "canceled"
    assert world.http.delete(f"/v1/checkpoints/{id}").status_code == 204
    assert world.http.delete(f"/v1/datasets/{dataset}").status_code == 204
    problem(world.http.get(f"/v1/checkpoints/{id}"), 404, "not_found", id)
    problem(world.http.delete(f"/v1/checkpoints/{id}"), 404, "not_found", id)
    problem(world.submit(checkpoint_id=id), 404, "not_found", id)
    problem(world.submit(evaluation={"dataset_id": dataset}), 404, "not_found", dataset)
    assert world.http.get(f"/v1/jobs/{job['id']}").json()["checkpoint_id"] is None


def test_a_checkpoint_that_is_deleted_while_it_is_looked_at(world: World) -> None:
    network = files.saved(small_network(num_classes=5).state_dict())
    id = world.upload("checkpoints", network, GOOD_FIELDS).json()["id"]
    assert world.http.delete(f"/v1/checkpoints/{id}").status_code == 204
    problem(world.http.get(f"/v1/checkpoints/{id}"), 404, "not_found", id)


def test_a_checkpoint_whose_bytes_are_gone(world: World) -> None:
    network = files.saved(small_network(num_classes=6).state_dict())
    id = world.good_upload("checkpoints", network, GOOD_FIELDS)
    sha256 = world.http.get(f"/v1/checkpoints/{id}").json()["sha256"]
    (world.data_dir / "blobs" / sha256[:2] / sha256[2:4] / sha256).unlink()
    job = world.ended(world.submit(checkpoint_id=id, method=QUICK))
    assert (job["status"], job["error"]["code"]) == ("failed", "blob_missing"), job
    assert sha256 in job["error"]["detail"] and "Upload it again" in job["error"]["detail"]
    assert world.http.delete(f"/v1/checkpoints/{id}").status_code == 204


# --- afterwards -----------------------------------------------------------------------------------


def test_afterwards_everything_is_as_it_was(world: World) -> None:
    job = world.ended(world.submit(method=QUICK, evaluation={"dataset_id": world.dataset}))
    assert job["status"] == "succeeded", job["error"]
    report = world.http.get(job["links"]["report"]).json()
    assert report["accuracy"]["onnxruntime"]["total"] == 20

    for kind, cases in TABLES.items():
        for name in cases:
            assert world.decided(kind, world.sent[kind, name].json()["id"])["state"] == "rejected"
    until(lambda: family(world.stack) == world.family, CALM_SECONDS, "processes came or went")
    assert world.said == [], "a part was restarted"
    assert world.stored() == world.explained()
    assert not world.incoming()
    until(lambda: not list((world.data_dir / "work").glob("*")), CALM_SECONDS, "workspaces are left")
    assert not list(world.traps.iterdir())
    for log in world.stack.logs.glob("*.log"):
        assert "Traceback" not in log.read_text(), log
