"""What S3 alone can do wrong: be away, hang, refuse, and break off."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from store.blobs import BlobStore, make_blobs
from store.blobs.s3 import S3Blobs
from store.errors import StoreError, Unavailable
from tests.cutting_proxy import CuttingProxy
from tests.store.blob_stores import age_incoming, everything, put

DATA = bytes(range(256)) * 40_000
OTHER = "0" * 64


@pytest.fixture
def url(s3_url: str) -> str:
    return f"{s3_url}/{uuid4().hex}"


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    """A store at an address where nobody listens."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "zsq")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return make_blobs("s3://bucket", f"http://127.0.0.1:{port}")


def test_a_store_that_is_away_says_so(away: BlobStore) -> None:
    uses: list[Callable[[], object]] = [
        away.ping,
        lambda: next(away.stream(OTHER)),
        lambda: away.put_file(io.BytesIO(DATA)),
        lambda: list(away.list_older(0)),
    ]
    for use in uses:
        with pytest.raises(Unavailable, match="cannot be reached"):
            use()


def test_a_store_that_hangs_is_not_waited_for(away: BlobStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        blobs = make_blobs("s3://bucket", f"http://127.0.0.1:{silent.getsockname()[1]}")
        raised: list[StoreError] = []

        def ping() -> None:
            try:
                blobs.ping()
            except StoreError as error:
                raised.append(error)

        thread = threading.Thread(target=ping, daemon=True)
        thread.start()
        thread.join(30)
        assert [type(error) for error in raised] == [Unavailable]


def test_a_bucket_that_is_not_there_is_no_missing_file(s3_url: str) -> None:
    blobs = make_blobs("s3://no-such-bucket/prefix")
    for use in (blobs.ping, lambda: next(blobs.stream(OTHER)), lambda: put(blobs, b"bytes")):
        with pytest.raises(Unavailable, match="refused"):
            use()


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    with CuttingProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


def test_reading_goes_on_after_a_break(url: str, proxy: CuttingProxy) -> None:
    sha256 = put(make_blobs(url), DATA)
    blobs = make_blobs(url, proxy.url)
    proxy.cut_after = [3_000_000, 3_000_000]
    assert b"".join(blobs.stream(sha256, 5, len(DATA) - 5)) == DATA[5:-5]
    assert not proxy.cut_after
    proxy.cut_after = [3_000_000] * 3
    with blobs.open(sha256) as file:
        assert file.read() == DATA


def test_a_store_that_breaks_off_again_and_again_is_given_up(url: str, proxy: CuttingProxy) -> None:
    sha256 = put(make_blobs(url), DATA)
    blobs = make_blobs(url, proxy.url)
    proxy.cut_after = [3_000_000, 0]
    assert b"".join(blobs.stream(sha256)) == DATA
    proxy.cut_after = [3_000_000, 0, 0]
    with pytest.raises(Unavailable, match="breaks off"):
        b"".join(blobs.stream(sha256))


def test_an_upload_that_lost_its_store_leaves_no_blob(url: str, proxy: CuttingProxy) -> None:
    blobs = make_blobs(url, proxy.url)
    with pytest.raises(Unavailable), blobs.writer() as writer:
        writer.write(DATA)
        proxy.close()
        writer.commit()
    assert [name for name in everything(make_blobs(url)) if not name.startswith("incoming/")] == []


@pytest.mark.parametrize("step", ["look", "abort"])
def test_two_collectors_may_meet_at_an_upload(url: str, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The second aborts it after the first has found it, or looked at its parts."""
    blobs, last_grown = make_blobs(url), S3Blobs._last_grown
    writer = blobs.writer()
    writer.write(DATA)
    age_incoming(blobs, 7200)
    second: list[int] = []

    def overtaken(self: S3Blobs, upload: dict[str, str]) -> Any:
        found = last_grown(self, upload) if step == "abort" else None
        with monkeypatch.context() as patch:
            patch.setattr(S3Blobs, "_last_grown", last_grown)
            second.append(make_blobs(url).remove_abandoned(3600))
        return found or last_grown(self, upload)

    monkeypatch.setattr(S3Blobs, "_last_grown", overtaken)
    assert blobs.remove_abandoned(3600) == 0
    assert second == [1] and everything(blobs) == []
    writer.__exit__(None, None, None)


def test_the_prefix_may_be_empty_or_deep(s3_url: str) -> None:
    bucket = s3_url.split("/")[2]
    for url, prefix in ((f"s3://{bucket}", ""), (f"s3://{bucket}/a/b%20c/", "a/b c/")):
        blobs = make_blobs(url)
        assert isinstance(blobs, S3Blobs) and blobs.prefix == prefix
        sha256 = put(blobs, url.encode())
        assert sha256 in {found for found, _ in blobs.list_older(0)}
        blobs.delete(sha256)
        assert not blobs.exists(sha256)


MEASURE = r"""
import re, sys
from pathlib import Path
from store.blobs import make_blobs
blobs, piece, count = make_blobs(sys.argv[1]), bytes(1 << 20), int(sys.argv[2])
with blobs.writer() as writer:
    for _ in range(count):
        writer.write(piece)
    ref = writer.commit()
assert sum(map(len, blobs.stream(ref.sha256))) == count << 20
print(int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


def test_memory_stays_flat(url: str) -> None:
    def peak_mib(count: int) -> int:
        command = [sys.executable, "-c", MEASURE, url, str(count)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout)

    small, large = peak_mib(24), peak_mib(72)
    assert large < small + 24
