"""Resumable uploads of the client, against the real API behind a network that loses things."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import zsq.resumable
from api.settings import ApiSettings
from tests.api.serving import Served, serving
from zsq import client as sdk
from zsq.client import Client
from zsq.errors import ApiError, ConnectionLost

PIECE = 100_000
CONTENT = os.urandom(550_000)


@pytest.fixture
def served(tmp_path: Path, broker_url: str) -> Iterator[Served]:
    settings = ApiSettings(data_dir=tmp_path / "data", broker_url=broker_url, max_upload_bytes=1_000_000)
    with serving(settings) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(zsq.resumable, "PIECE_BYTES", PIECE)
    path = tmp_path / "network.pt"
    path.write_bytes(CONTENT)
    return path


class Network(httpx.BaseTransport):
    """Asks `before` ahead of every request and `after` it, when the server has done what it asked for."""

    def __init__(self) -> None:
        self._real = httpx.HTTPTransport()
        self.requests: list[str] = []
        self.before: Callable[[httpx.Request, int], None] = lambda request, count: None
        self.after: Callable[[httpx.Request, int], None] = lambda request, count: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request.method)
        count = self.requests.count(request.method)
        self.before(request, count)
        response = self._real.handle_request(request)
        try:
            self.after(request, count)
        except httpx.TransportError:
            response.close()
            raise
        return response


def upload(served: Served, network: Network, file: Path, **options: Any) -> Any:
    with Client(served.url, transport=network, patience=options.pop("patience", 20.0)) as client:
        client._transport.sleep = lambda seconds: None
        return client.upload_checkpoint(file, "cifar/resnet20", name="mine", resumable=True, **options)


def test_a_file_goes_piece_by_piece(served: Served, file: Path) -> None:
    network, seen = Network(), []
    found = upload(served, network, file, on_bytes=lambda done, total: seen.append((done, total)))
    assert network.requests == ["POST", *["PATCH"] * 6, "GET"]
    assert found.raw["sha256"] == hashlib.sha256(CONTENT).hexdigest() and found.name == "mine"
    assert seen[0] == (PIECE, len(CONTENT)) and all(total == len(CONTENT) for _, total in seen)
    with Client(served.url) as client:
        assert client.upload_checkpoint(file, "cifar/resnet20", name="mine").id == found.id


def test_what_is_lost_on_either_way_is_made_good(served: Served, file: Path) -> None:
    network = Network()

    def lose(request: httpx.Request, count: int) -> None:
        if request.method == "PATCH" and count % 2:
            raise httpx.ReadError("reset")

    network.before = lose
    network.after = lambda request, count: lose(request, count // 2)
    found = upload(served, network, file)
    assert found.raw["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert network.requests.count("HEAD") >= 3


def test_a_lost_last_answer_is_asked_for_again(served: Served, file: Path) -> None:
    network = Network()

    def lose(request: httpx.Request, count: int) -> None:
        if request.method == "PATCH" and count == 6:
            raise httpx.ReadError("reset")

    network.after = lose
    assert upload(served, network, file).raw["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert network.requests == ["POST", *["PATCH"] * 6, "HEAD", "PATCH", "GET"]


def test_damaged_bytes_are_sent_again(served: Served, file: Path) -> None:
    network = Network()

    def damage(request: httpx.Request, count: int) -> None:
        if request.method == "PATCH" and count == 2:
            request.stream = httpx.ByteStream(bytes(PIECE))

    network.before = damage
    assert upload(served, network, file).raw["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert network.requests.count("PATCH") == 7


def lost_after_one_piece(request: httpx.Request, count: int) -> None:
    if request.method != "POST" and (request.method, count) != ("PATCH", 1):
        raise httpx.ConnectError("refused")


def test_a_server_that_stays_away_is_given_up(served: Served, file: Path) -> None:
    network = Network()
    network.before = lost_after_one_piece
    with pytest.raises(ConnectionLost):
        upload(served, network, file, patience=0.0)


@pytest.mark.parametrize("taken", [[5], [5, 3], [0]], ids=["never joins", "forgets", "takes nothing"])
def test_a_server_that_gets_no_further_is_given_up(file: Path, taken: list[int]) -> None:
    file.write_bytes(b"12345")
    requests: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request.method)
        assert len(requests) < 20_000
        offset = taken[requests.count("PATCH") % len(taken) - 1]
        headers = {"location": "/v1/uploads/up_1", "upload-offset": str(offset)}
        return httpx.Response({"POST": 201, "HEAD": 200}.get(request.method, 204), headers=headers)

    with Client("http://zsq.test", transport=httpx.MockTransport(answer), patience=0.05) as client:
        client._transport.sleep = lambda seconds: None
        with pytest.raises(ConnectionLost, match="takes no more"):
            client.upload_checkpoint(file, "cifar/resnet20", resumable=True)
    assert requests[-1] == "DELETE"


def test_a_file_that_another_request_still_joins_is_waited_for(file: Path) -> None:
    file.write_bytes(b"12345")
    requests: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request.method)
        headers = {"location": "/v1/uploads/up_1", "upload-offset": "5"}
        if requests.count("PATCH") == 4:
            headers["zsq-resource"] = "/v1/checkpoints/ckpt_1"
        found = {"id": "ckpt_1", "state": "pending"}
        return httpx.Response(201 if request.method == "POST" else 200, headers=headers, json=found)

    with Client("http://zsq.test", transport=httpx.MockTransport(answer)) as client:
        client._transport.sleep = lambda seconds: None
        assert client.upload_checkpoint(file, "cifar/resnet20", resumable=True).id == "ckpt_1"
    assert requests.count("PATCH") == 4 and "DELETE" not in requests


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "the disk"), httpx.ReadError("reset")])
def test_what_breaks_off_is_given_up_there(served: Served, file: Path, error: BaseException) -> None:
    network = Network()

    def fail(request: httpx.Request, count: int) -> None:
        if request.method == "HEAD" or (request.method == "PATCH" and count == 3):
            raise error

    network.before = fail
    with pytest.raises(type(error) if not isinstance(error, httpx.ReadError) else ConnectionLost):
        upload(served, network, file, patience=0.0)
    assert network.requests[-1] == "DELETE"
    with Client(served.url) as client:
        assert list(client.begun_uploads()) == []
        assert client.limits()["stored_bytes"]["used"] == 0


def test_what_cannot_be_given_up_is_found_and_deleted_later(served: Served, file: Path) -> None:
    network = Network()
    network.before = lost_after_one_piece
    with pytest.raises(ConnectionLost, match="refused"):
        upload(served, network, file, patience=0.0)
    with Client(served.url) as client:
        [left] = client.begun_uploads()
        assert (left.kind, left.state, left.offset, left.length) == (
            "checkpoint",
            "receiving",
            PIECE,
            len(CONTENT),
        )
        assert left.expires_at is not None and left.raw["metadata"]["name"] == "mine"
        client.delete_upload(left.id)
        assert list(client.begun_uploads()) == []
        with pytest.raises(ApiError) as refused:
            client.delete_upload(left.id)
        assert refused.value.code == "not_found"


def test_a_refusal_comes_before_the_first_byte(served: Served, file: Path, tmp_path: Path) -> None:
    network = Network()
    with Client(served.url, transport=network) as client:
        with pytest.raises(ApiError, match="cifar/none"):
            client.upload_checkpoint(file, "cifar/none", resumable=True)
        big = tmp_path / "big.pt"
        big.write_bytes(bytes(1_000_001))
        with pytest.raises(ApiError) as refused:
            client.upload_dataset(big, resumable=True)
    assert refused.value.status == 413 and network.requests == ["POST", "POST"]


def test_large_files_are_resumable_by_themselves(
    served: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "RESUMABLE_BYTES", len(CONTENT))
    for resumable, expected in ((None, "PATCH"), (False, "POST")):
        network = Network()
        with Client(served.url, transport=network) as client:
            client.upload_dataset(file, classes=["a, b", "Käfer"], resumable=resumable)
        assert expected in network.requests and ("PATCH" in network.requests) == (expected == "PATCH")
