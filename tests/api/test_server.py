"""The API behind a real server and real sockets: what the in-process client cannot show."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.settings import ApiSettings
from tests.api.problems import problem
from tests.api.serving import serving

MIB = bytes(1 << 20)
PART = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[str]:
    settings = ApiSettings(data_dir=tmp_path, broker_url=broker_url, max_upload_bytes=64 * len(MIB))
    with serving(settings) as running:
        yield running.url


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
    address = (httpx.URL(server).host, httpx.URL(server).port or 0)
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(
            b"POST /v1/checkpoints?architecture=cifar/none HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 422 ")


def test_nothing_is_kept_of_an_upload_that_breaks_off(server: str, tmp_path: Path) -> None:
    address = (httpx.URL(server).host, httpx.URL(server).port or 0)
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(
            b"POST /v1/checkpoints?architecture=cifar/resnet20 HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: 50000000\r\n\r\n"
        )
        for _ in range(5):
            client.sendall(MIB)
        deadline = time.monotonic() + 20
        while not stored(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(stored(tmp_path)) == 1
    while stored(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stored(tmp_path) == []
    assert httpx.get(f"{server}/v1/checkpoints").json()["items"] == []
