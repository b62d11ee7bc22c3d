"""Downloads against a real server that cuts connections, serves ranges, and lies when told to."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zsq.client import Client
from zsq.errors import ApiError, ConnectionLost, DownloadCorrupt

BODY = bytes(i * 31 % 251 for i in range(900_000))


class Server(ThreadingHTTPServer):
    """`cut_after`: how many bytes each of the coming answers sends before it drops the connection."""

    daemon_threads = True
    body = BODY
    sha256 = hashlib.sha256(BODY).hexdigest()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.cut_after: list[int] = []
        self.ranges: list[str | None] = []


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers["range"]
        server.ranges.append(asked)
        first, etag = 0, f'"{server.sha256}"'
        if asked and self.headers["if-range"] == etag:
            first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if first >= len(server.body):
                self.send_error(416)
                return
        rest = server.body[first:]
        self.send_response(206 if first else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: server.cut_after.pop(0)] if server.cut_after else rest)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.server_port}", patience=5.0) as client:
        client._transport.sleep = lambda seconds: None
        yield client


def test_a_file_arrives_whole_and_nothing_else_is_left(client: Client, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = client.download("job_1", "model.onnx", tmp_path, on_bytes=lambda *news: seen.append(news))
    assert path == tmp_path / "model.onnx" and path.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [path] and seen[-1] == (len(BODY), len(BODY))


def test_cut_connections_are_resumed_where_they_broke(server: Server, client: Client, tmp_path: Path) -> None:
    server.cut_after = [300_000, 300_000]
    path = client.download("job_1", "model.onnx", tmp_path / "here.onnx")
    assert path.read_bytes() == BODY
    assert server.ranges[0] is None and len(server.ranges) == 3
    starts = [int(asked.split("=")[1][:-1]) for asked in server.ranges[1:] if asked]
    assert 0 < starts[0] < starts[1] < len(BODY)


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    url = f"http://127.0.0.1:{server.server_port}"
    server.cut_after = [400_000] + [0] * 1000
    with Client(url, patience=0.0) as impatient, pytest.raises(ConnectionLost):
        impatient.download("job_1", "model.onnx", target)
    assert not target.exists()
    server.cut_after, server.ranges = [], []
    with Client(url) as client:
        client.download("job_1", "model.onnx", target)
    assert target.read_bytes() == BODY and list(tmp_path.iterdir()) == [target]
    assert server.ranges[0] is not None and len(server.ranges) == 1


def test_another_file_by_now_is_fetched_from_its_start(
    server: Server, client: Client, tmp_path: Path
) -> None:
    (tmp_path / f"model.onnx.{'0' * 64}.part").write_bytes(b"of an older file")
    client.download("job_1", "model.onnx", tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == BODY and len(list(tmp_path.iterdir())) == 1


def test_other_peoples_files_stay(client: Client, tmp_path: Path) -> None:
    others = ("model.mine.part", "model.part", f"model.onnx.{'0' * 64}.part", f"modelx{'0' * 64}.part")
    for name in others:
        (tmp_path / name).write_bytes(b"not ours")
    client.download("job_1", "model", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model", *others])
    assert {(tmp_path / name).read_bytes() for name in others} == {b"not ours"}


def test_a_part_with_every_byte_is_fetched_anew(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / f"model.onnx.{server.sha256}.part").write_bytes(BODY)
    client.download("job_1", "model.onnx", tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == BODY and len(list(tmp_path.iterdir())) == 1


def test_wrong_bytes_are_refused_and_not_kept(server: Server, client: Client, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"what was there before")
    server.body = BODY[:-1] + b"?"
    with pytest.raises(DownloadCorrupt, match=server.sha256):
        client.download("job_1", "model.onnx", target)
    assert target.read_bytes() == b"what was there before" and list(tmp_path.iterdir()) == [target]


def test_what_is_not_there_is_an_api_error(tmp_path: Path) -> None:
    import httpx

    problem = {"code": "not_found", "detail": "No such artifact."}
    transport = httpx.MockTransport(lambda request: httpx.Response(404, json=problem))
    with Client("http://zsq.test", transport=transport) as client, pytest.raises(ApiError) as raised:
        client.download("job_1", "model.onnx", tmp_path)
    assert raised.value.code == "not_found" and list(tmp_path.iterdir()) == []
