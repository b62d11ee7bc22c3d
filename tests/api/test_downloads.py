"""Downloads from a server process of its own, with the blobs in a folder and in S3."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.settings import ApiSettings
from store.blobs import BlobStore, make_blobs
from store.database import Database
from store.migrate import upgrade
from store.tables import Artifact
from tests.api.problems import problem
from tests.cutting_proxy import CuttingProxy
from tests.servers import free_port
from tests.store.blob_stores import put
from tests.store.rows import claim_job, queued_job
from tests.worker.waiting import wait_for
from zsq.client import Client

FILE = random.Random(0).randbytes(9_000_003)
SHA256 = hashlib.sha256(FILE).hexdigest()
ROOT = Path(__file__).resolve().parents[2]
# Headers that each answer has of its own.
OWN = {"date": "", "x-request-id": ""}


@dataclass
class Served:
    """`proxy` stands between the server and the blobs, where those are in S3."""

    url: str
    blobs: BlobStore
    job_id: str
    proxy: CuttingProxy | None

    @property
    def file(self) -> str:
        return f"{self.url}/v1/jobs/{self.job_id}/artifacts/model.onnx"


def _succeeded_job(settings: ApiSettings, blobs: BlobStore) -> str:
    database = Database.from_settings(settings)
    job_id = queued_job(database)
    sha256 = put(blobs, FILE)
    model = Artifact(
        name="model.onnx", blob_sha256=sha256, bytes=len(FILE), media_type="application/octet-stream"
    )
    with database.write() as work:
        claim = claim_job(work, job_id, "test", 60)
        assert claim is not None and work.jobs.succeed(job_id, claim.fence, {}, [model])
    database.dispose()
    return job_id


@pytest.fixture(params=["local", "s3"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    proxy, stores = None, {}
    if request.param == "s3":
        url = f"{request.getfixturevalue('s3_url')}/{uuid4().hex}"
        proxy = CuttingProxy(os.environ["AWS_ENDPOINT_URL"])
        stores = {"blobs_url": url, "s3_endpoint": proxy.url}
    settings = ApiSettings(data_dir=tmp_path, port=free_port(), **stores)
    upgrade(settings.database_url)
    blobs = make_blobs(settings.blobs_url)
    job_id = _succeeded_job(settings, blobs)
    variables = {f"ZSQ_{name.upper()}": str(value) for name, value in stores.items()}
    variables |= {"ZSQ_DATA_DIR": str(tmp_path), "ZSQ_PORT": str(settings.port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "api"], cwd=ROOT, env={**os.environ, **variables}, stderr=subprocess.DEVNULL
    )
    served = Served(f"http://127.0.0.1:{settings.port}", blobs, job_id, proxy)
    try:
        assert wait_for(lambda: process.poll() is not None or _answers(served.url))
        assert process.poll() is None
        yield served
    finally:
        process.terminate()
        process.wait(30)
        if proxy is not None:
            proxy.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


def test_a_broken_download_goes_on_with_the_same_bytes(served: Served) -> None:
    with httpx.stream("GET", served.file) as response:
        etag = response.headers["etag"]
        assert etag == f'"{SHA256}"' and response.headers["content-length"] == str(len(FILE))
        pieces = response.iter_raw(100_000)
        begun = b"".join(next(pieces) for _ in range(30))
    headers = {"range": f"bytes={len(begun)}-", "if-range": etag}
    rest = httpx.get(served.file, headers=headers)
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes {len(begun)}-{len(FILE) - 1}/{len(FILE)}"
    assert begun + rest.content == FILE
    other = httpx.get(served.file, headers=headers | {"if-range": '"another"'})
    assert other.status_code == 200 and other.content == FILE


@pytest.mark.parametrize(
    ("asked", "part"), [("bytes=-7", FILE[-7:]), ("bytes=8000000-8000099", FILE[8000000:8000100])]
)
def test_a_part_is_just_that(served: Served, asked: str, part: bytes) -> None:
    response = httpx.get(served.file, headers={"range": asked})
    assert response.status_code == 206 and response.content == part


def test_a_part_is_for_get_alone(served: Served) -> None:
    whole = httpx.head(served.file)
    assert whole.headers["content-length"] == str(len(FILE))
    for asked in ("bytes=-7", f"bytes={len(FILE)}-"):
        head = httpx.head(served.file, headers={"range": asked})
        assert head.status_code == 200 and dict(head.headers) | OWN == dict(whole.headers) | OWN


def test_the_client_goes_on_over_a_line_that_breaks(served: Served, tmp_path: Path) -> None:
    with CuttingProxy(served.url) as line, Client(line.url, patience=30) as client:
        line.cut_after = [2_000_000, 0, 3_000_000, 500_000]
        path = client.download(served.job_id, "model.onnx", tmp_path / "here.onnx")
        assert path.read_bytes() == FILE and not line.cut_after


def test_many_at_once(served: Served) -> None:
    def get(_: int) -> bytes:
        return httpx.get(served.file, timeout=60).content

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(get, range(12))) == {FILE}


def test_what_the_store_lost_is_a_clear_problem(served: Served) -> None:
    served.blobs.delete(SHA256)
    problem(httpx.get(served.file), 500, "blob_missing")
    problem(httpx.get(served.file, headers={"range": "bytes=5-"}), 500, "blob_missing")


def test_a_store_that_is_away_is_said_before_the_first_byte_and_can_be_waited_for(served: Served) -> None:
    if served.proxy is None:
        blobs: Any = served.blobs
        blobs.root.rename(blobs.root.with_name("away"))
        blobs.root.write_text("no folder any more")
    else:
        served.proxy.close()
    response = httpx.get(served.file, timeout=60)
    problem(response, 503, "service_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert httpx.head(served.file, timeout=60).status_code == 503


def test_a_store_that_breaks_off_later_breaks_the_connection(served: Served, tmp_path: Path) -> None:
    """Fewer bytes must never pass for the whole file."""
    if served.proxy is None:
        blobs: Any = served.blobs
        with blobs.place(SHA256).open("r+b") as file:
            file.truncate(5_000_000)
    else:
        served.proxy.cut_after = [3_000_000, 0, 0]
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(served.file, timeout=60)
