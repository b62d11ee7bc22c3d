"""Resumable uploads with tus's own client, real sockets and processes that die."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import ApiSettings
from tests.api.serving import ServerProcess, server_process, serving
from tests.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tusclient.client import TusClient

MIB = 1 << 20
TUS = {"Tus-Resumable": "1.0.0"}
METADATA = {"kind": "checkpoint", "architecture": "cifar/resnet20", "filename": "network.pt"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> ApiSettings:
    return ApiSettings(data_dir=tmp_path_factory.mktemp("data"), broker_url=broker_url)


@pytest.fixture(scope="module")
def server(settings: ApiSettings) -> Iterator[ServerProcess]:
    with server_process(settings) as running:
        yield running


def file_of(folder: Path, size: int) -> Path:
    path = folder / "network.pt"
    path.write_bytes(os.urandom(size))
    return path


def uploader(server: str, file: Path, **options: Any) -> Any:
    client = TusClient(f"{server}/v1/uploads")
    return client.uploader(str(file), metadata=METADATA, upload_checksum=False, **options)


def offset(url: str) -> int:
    return int(httpx.head(url, headers=TUS).headers["upload-offset"])


def found(url: str) -> dict[str, Any]:
    upload = httpx.get(url).json()
    assert upload["state"] == "complete"
    resource = httpx.get(httpx.URL(url).join(upload["links"]["resource"])).json()
    return dict(resource)


def break_off(
    url: str, file: Path, at: int, size: int, *headers: str, method: str = "PATCH", stall: bool = False
) -> bytes:
    """A request that promises the rest of the file, and whose connection is gone after `size` bytes of it.

    `stall`: it stays, and says no more; what the server answers to that.
    """
    address = httpx.URL(url)
    content = file.read_bytes()[at:]
    with socket.create_connection((address.host, address.port or 0), timeout=20) as client:
        head = (
            f"{method} {address.path} HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n"
            f"Tus-Resumable: 1.0.0\r\nUpload-Offset: {at}\r\n"
            f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(content)}\r\n"
        )
        client.sendall((head + "".join(headers) + "\r\n").encode() + content[:size])
        answer = b""
        while stall and (more := client.recv(1 << 16)):
            answer += more
        return answer


def test_tus_own_client_uploads_in_chunks_and_memory_stays_flat(
    server: ServerProcess, settings: ApiSettings, tmp_path: Path
) -> None:
    warm = uploader(server.url, file_of(tmp_path, 6 * MIB), chunk_size=5 * MIB)
    warm.upload()
    file = file_of(tmp_path, 64 * MIB)
    before = server.memory()
    upload = uploader(server.url, file, chunk_size=5 * MIB)
    most = before
    while upload.offset < 64 * MIB:
        upload.upload_chunk()
        most = max(most, server.memory())
    resource = found(upload.url)
    assert resource["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert most - before < 24 * MIB, f"{(most - before) / MIB:.1f} MiB more"
    blobs = [path for path in (settings.data_dir / "blobs").rglob("*") if path.is_file()]
    assert {path.stat().st_size for path in blobs} >= {6 * MIB, 64 * MIB}
    assert 5 * MIB not in {path.stat().st_size for path in blobs}  # the parts are gone


def test_what_came_before_the_connection_broke_is_kept(server: ServerProcess, tmp_path: Path) -> None:
    file = file_of(tmp_path, 8 * MIB)
    upload = uploader(server.url, file, chunk_size=MIB)
    upload.upload_chunk()
    break_off(upload.url, file, MIB, 3 * MIB + 17)
    until(lambda: offset(upload.url) == 4 * MIB + 17)
    resumed = uploader(server.url, file, url=upload.url, chunk_size=5 * MIB)
    assert resumed.offset == 4 * MIB + 17
    resumed.upload()
    assert found(upload.url)["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_came_before_it_stalled_is_kept_unless_a_checksum_came_with_it(
    tmp_path: Path, broker_url: str
) -> None:
    file = file_of(tmp_path, 4 * MIB)
    with serving(ApiSettings(data_dir=tmp_path, broker_url=broker_url, body_seconds=0.3)) as server:
        upload = uploader(server.url, file, chunk_size=100)
        upload.upload_chunk()
        answer = break_off(upload.url, file, 100, MIB + 17, stall=True)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"tus-resumable: 1.0.0" in answer.lower()
        assert offset(upload.url) == MIB + 117
        sum = f"Upload-Checksum: sha1 {base64.b64encode(hashlib.sha1(b'').digest()).decode()}\r\n"
        answer = break_off(upload.url, file, MIB + 117, MIB, sum, stall=True)
        assert answer.startswith(b"HTTP/1.1 408 ") and offset(upload.url) == MIB + 117
        uploader(server.url, file, url=upload.url).upload()
        assert found(upload.url)["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_creation_whose_bytes_break_off_takes_nothing(tmp_path: Path, broker_url: str) -> None:
    file = file_of(tmp_path, MIB)
    metadata = ",".join(f"{key} {base64.b64encode(METADATA[key].encode()).decode()}" for key in METADATA)
    more = f"Upload-Length: {MIB}\r\nUpload-Metadata: {metadata}\r\n"
    with serving(ApiSettings(data_dir=tmp_path, broker_url=broker_url, body_seconds=0.3)) as server:
        url = f"{server.url}/v1/uploads"
        answer = break_off(url, file, 0, 1000, more, method="POST", stall=True)
        assert answer.startswith(b"HTTP/1.1 408 ")
        limits = httpx.get(f"{server.url}/v1/limits").json()
        assert limits["stored_bytes"]["used"] == 0
        assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_an_upload_goes_on_in_any_process_also_after_its_own_was_killed(
    settings: ApiSettings, tmp_path: Path
) -> None:
    file = file_of(tmp_path, 6 * MIB)
    with server_process(settings) as server, server_process(settings) as other:
        upload = uploader(server.url, file, chunk_size=MIB)
        upload.upload_chunk()
        path = httpx.URL(upload.url).path
        for turn, one in enumerate((other, server, other)):
            resumed = uploader(one.url, file, url=f"{one.url}{path}", chunk_size=MIB)
            assert resumed.offset == (1 + turn) * MIB
            resumed.upload_chunk()
        server.process.kill()
        uploader(other.url, file, url=f"{other.url}{path}").upload()
        assert found(f"{other.url}{path}")["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_checksum_is_what_tus_own_client_sends(server: ServerProcess, tmp_path: Path) -> None:
    file = file_of(tmp_path, MIB)
    upload = uploader(server.url, file, chunk_size=400_000)
    upload.upload_checksum = True
    upload.upload()
    assert found(upload.url)["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
