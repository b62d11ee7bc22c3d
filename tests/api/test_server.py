"""The API behind a real server and real sockets: what the in-process client cannot show."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api import __main__ as main
from api.settings import ApiSettings
from tests.api.problems import problem
from tests.api.serving import serving
from tests.waiting import until

MIB = bytes(1 << 20)
PART = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[str]:
    settings = ApiSettings(data_dir=tmp_path, broker_url=broker_url, max_upload_bytes=64 * len(MIB))
    with serving(settings) as served:
        yield served.url


@pytest.fixture
def careful(
    request: pytest.FixtureRequest, tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, int]]:
    """As `python -m api` serves it, with keys; the parameter is its patience for bodies. Its address."""
    monkeypatch.setattr(main, "HEADER_BYTES", 8 << 10)
    settings = ApiSettings(
        data_dir=tmp_path, broker_url=broker_url, auth="required", body_seconds=getattr(request, "param", 30)
    )
    with serving(settings, **main.protocol()) as served:
        with served.database.write() as work:
            _, key = work.keys.create("ann", None, None)
        monkeypatch.setattr("tests.api.test_server.KEY", f"Authorization: Bearer {key}\r\n".encode())
        yield address(served.url)


KEY = b""


def address(url: str) -> tuple[str, int]:
    parts = httpx.URL(url)
    return parts.host, parts.port or 0


def exchange(to: tuple[str, int], *sent: bytes) -> bytes:
    """Sends the pieces, and returns all that comes until the server closes the connection."""
    with socket.create_connection(to, timeout=20) as client:
        for piece in sent:
            client.sendall(piece)
        answer = b""
        while chunk := client.recv(1 << 16):
            answer += chunk
        return answer


@pytest.mark.parametrize("careful", [0.3], indirect=True)
@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
        b"POST /v1/checkpoints?architecture=cifar/resnet20 HTTP/1.1\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Length: 100\r\n",
    ],
    ids=["length", "chunked", "upload"],
)
def test_a_body_that_does_not_come_is_not_waited_for(
    careful: tuple[str, int], tmp_path: Path, head: bytes
) -> None:
    answer = exchange(careful, head, b"Host: localhost\r\n", KEY, b"\r\n", b"5\r\n{    \r\n")
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b"application/problem+json" in answer and b'"request_timeout"' in answer
    assert stored(tmp_path) == []


def test_a_chunked_body_is_counted_as_it_comes(careful: tuple[str, int]) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = exchange(
        careful,
        head,
        b"Connection: close\r\nTransfer-Encoding: chunked\r\n",
        KEY,
        b"\r\n",
        chunk * 20,
        b"0\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 413 ") and b'"payload_too_large"' in answer


def test_headers_have_an_end(careful: tuple[str, int]) -> None:
    long = b"X-Long: " + b"a" * (9 << 10) + b"\r\n"
    answer = exchange(careful, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", long)
    assert answer.startswith(b"HTTP/1.1 400 ")
    short = exchange(
        careful,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
        long[:4000],
        b"\r\n\r\n",
    )
    assert short.startswith(b"HTTP/1.1 200 ") and b"server: uvicorn" not in short.lower()


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/checkpoints?architecture=cifar/resnet20 HTTP/1.1\r\nContent-Type: application/octet-stream\r\n",
        b"/v1/jobs HTTP/1.1\r\nContent-Type: application/json\r\n",
    ],
    ids=["upload", "job"],
)
def test_a_missing_key_is_heard_by_a_client_that_sends_all_before_it_listens(
    careful: tuple[str, int], target: bytes
) -> None:
    head = b"Host: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (20 * len(MIB))
    answer = exchange(careful, b"POST " + target, head, *(MIB for _ in range(20)))
    assert answer.startswith(b"HTTP/1.1 401 ") and b"www-authenticate: Bearer" in answer


def stored(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("field", "status"), [("colour", 422), ("file", 413)])
def test_a_refusal_reaches_a_client_that_is_still_sending(
    server: str, tmp_path: Path, field: str, status: int
) -> None:
    def body() -> Iterator[bytes]:
        yield PART.format(field).encode()
        yield from (MIB for _ in range(200))

    response = httpx.post(f"{server}/v1/checkpoints", content=body(), headers=FORM, timeout=60)
    problem(response, status, "validation_error" if status == 422 else "payload_too_large")
    assert stored(tmp_path) == []


def test_a_client_that_asks_first_need_not_send(server: str) -> None:
    with socket.create_connection(address(server), timeout=20) as client:
        client.sendall(
            b"POST /v1/checkpoints?architecture=cifar/none HTTP/1.1\r\nHost: localhost\r\n"
            b"Expect: 100-continue\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 422 ")


def test_nothing_is_kept_of_an_upload_that_breaks_off(server: str, tmp_path: Path) -> None:
    with socket.create_connection(address(server), timeout=20) as client:
        client.sendall(
            b"POST /v1/checkpoints?architecture=cifar/resnet20 HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: 50000000\r\n\r\n"
        )
        for _ in range(5):
            client.sendall(MIB)
        until(lambda: stored(tmp_path))
        assert len(stored(tmp_path)) == 1
    until(lambda: not stored(tmp_path))
    assert httpx.get(f"{server}/v1/checkpoints").json()["items"] == []
