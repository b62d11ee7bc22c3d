from __future__ import annotations

import hashlib

import pytest

from tests.api.conftest import MODEL, Api
from tests.api.problems import problem


@pytest.fixture
def url(api: Api) -> str:
    id, _ = api.succeeded_job()
    return f"/v1/jobs/{id}/artifacts/model.onnx"


def test_the_whole_file_has_its_sha256_as_a_strong_etag(api: Api, url: str) -> None:
    response = api.http.get(url)
    assert response.status_code == 200 and response.content == MODEL
    assert response.headers["etag"] == f'"{hashlib.sha256(MODEL).hexdigest()}"'
    assert response.headers["content-length"] == str(len(MODEL))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == 'attachment; filename="model.onnx"'


def test_head_tells_the_same_without_the_bytes(api: Api, url: str) -> None:
    same = {"x-request-id": "one"}
    head, get = api.http.head(url, headers=same), api.http.get(url, headers=same)
    assert head.status_code == 200 and head.content == b""
    assert dict(head.headers) == dict(get.headers)


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-999999999", 5, None)],
)
def test_ranges(api: Api, url: str, asked: str, begin: int, end: int | None) -> None:
    response = api.http.get(url, headers={"range": asked})
    assert response.status_code == 206 and response.content == MODEL[begin:end]
    first = begin % len(MODEL)
    last = first + len(response.content) - 1
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(MODEL)}"
    assert response.headers["etag"] == api.http.head(url).headers["etag"]


def test_if_range_continues_only_the_same_file(api: Api, url: str) -> None:
    etag = api.http.head(url).headers["etag"]
    same = api.http.get(url, headers={"range": "bytes=10-19", "if-range": etag})
    assert same.status_code == 206 and same.content == MODEL[10:20]
    other = api.http.get(url, headers={"range": "bytes=10-19", "if-range": '"other"'})
    assert other.status_code == 200 and other.content == MODEL


def test_a_range_outside_the_file_is_a_problem(api: Api, url: str) -> None:
    response = api.http.get(url, headers={"range": f"bytes={len(MODEL)}-"})
    problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(MODEL)}"


@pytest.mark.parametrize("asked", ["lines=0-9", "bytes", "bytes=a-b", "bytes=9-2"])
def test_a_range_that_makes_no_sense_is_ignored(api: Api, url: str, asked: str) -> None:
    response = api.http.get(url, headers={"range": asked})
    assert response.status_code == 200 and response.content == MODEL


def test_if_none_match_answers_304(api: Api, url: str) -> None:
    etag = api.http.head(url).headers["etag"]
    for asked in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = api.http.get(url, headers={"if-none-match": asked})
        assert response.status_code == 304 and response.content == b""
        assert response.headers["etag"] == etag
    assert api.http.get(url, headers={"if-none-match": '"other"'}).status_code == 200


def test_if_modified_since_answers_304_unless_if_none_match_says_otherwise(api: Api, url: str) -> None:
    modified = api.http.head(url).headers["last-modified"]
    response = api.http.get(url, headers={"if-modified-since": modified})
    assert response.status_code == 304 and response.content == b""
    assert response.headers["last-modified"] == modified
    assert api.http.head(url, headers={"if-modified-since": modified}).status_code == 304
    both = {"if-modified-since": modified, "if-none-match": '"other"'}
    assert api.http.get(url, headers=both).status_code == 200


def test_if_match_refuses_another_file_than_it_names(api: Api, url: str) -> None:
    etag = api.http.head(url).headers["etag"]
    assert api.http.get(url, headers={"if-match": etag}).content == MODEL
    part = api.http.get(url, headers={"if-match": etag, "range": "bytes=0-9"})
    assert part.status_code == 206 and part.content == MODEL[:10]
    problem(api.http.get(url, headers={"if-match": '"other"'}), 412, "precondition_failed")
    assert api.http.head(url, headers={"if-match": '"other"'}).status_code == 412


def test_the_list_names_every_file(api: Api, url: str) -> None:
    [item] = api.http.get(url.removesuffix("/model.onnx")).json()["items"]
    assert (item["name"], item["bytes"], item["href"]) == ("model.onnx", len(MODEL), url)
    assert item["sha256"] == hashlib.sha256(MODEL).hexdigest()


def test_what_is_not_there_is_404_and_what_is_not_ready_409(api: Api, url: str) -> None:
    for name in ("other.onnx", "..%2fmodel.onnx", "%00"):
        problem(api.http.get(url.replace("model.onnx", name)), 404, "not_found")
    problem(api.http.get("/v1/jobs/job_none/artifacts"), 404, "not_found")
    waiting = api.submit(api.upload(b"other")["id"])
    problem(api.http.get(f"/v1/jobs/{waiting['id']}/artifacts"), 409, "not_ready")
    problem(api.http.get(f"/v1/jobs/{waiting['id']}/artifacts/model.onnx"), 409, "not_ready")


def test_bytes_that_are_gone_are_our_fault(api: Api, url: str) -> None:
    api.resources.blobs.delete(hashlib.sha256(MODEL).hexdigest())
    problem(api.http.get(url), 500, "blob_missing")


def test_what_is_gone_is_our_fault_for_head_too(api: Api, url: str) -> None:
    api.resources.blobs.delete(hashlib.sha256(MODEL).hexdigest())
    assert api.http.head(url).status_code == 500


def test_several_ranges_are_answered_with_the_whole_file(api: Api, url: str) -> None:
    response = api.http.get(url, headers={"range": "bytes=0-9,20-29"})
    assert response.status_code == 200 and response.content == MODEL
