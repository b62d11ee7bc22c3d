"""Resumable uploads: what tus 1.0 asks of a server, and what this one makes of the bytes."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from api.deps import Caller
from api.services import resumable
from store.queue import CONTROL_QUEUE
from store.tables import PartialUpload, utc_now
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem

TUS = {"Tus-Resumable": "1.0.0"}
PART = {**TUS, "Content-Type": "application/offset+octet-stream"}
CONTENT = os.urandom(300_000)
FIELDS = {"kind": "checkpoint", "architecture": "cifar/resnet20"}


def metadata(**fields: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in fields.items())


def begin(api: Api, length: int = len(CONTENT), headers: dict[str, str] | None = None, **fields: str) -> Any:
    sent = {"Upload-Length": str(length), "Upload-Metadata": metadata(**{**FIELDS, **fields})}
    return api.http.post("/v1/uploads", headers={**TUS, **sent, **(headers or {})})


def begun(api: Api, length: int = len(CONTENT), **fields: str) -> str:
    response = begin(api, length, **fields)
    assert response.status_code == 201, response.text
    return str(response.headers["location"])


def send(api: Api, url: str, offset: int, data: bytes, **headers: str) -> Any:
    return api.http.patch(url, content=data, headers={**PART, "Upload-Offset": str(offset), **headers})


def where(api: Api, url: str) -> int:
    response = api.http.head(url, headers=TUS)
    assert response.status_code == 200 and response.headers["cache-control"] == "no-store"
    return int(response.headers["upload-offset"])


def test_the_parts_become_the_checkpoint_that_a_plain_upload_makes(api_on: Api) -> None:
    before = api_on.queued().get(CONTROL_QUEUE, 0)
    response = begin(api_on, name="mine", classes='["a, b", "Käfer"]')
    url = response.headers["location"]
    assert response.headers["tus-resumable"] == "1.0.0" and response.headers["upload-offset"] == "0"
    assert api_on.http.get(url).json()["state"] == "receiving"
    for start in range(0, len(CONTENT), 70_000):
        assert where(api_on, url) == start
        answer = send(api_on, url, start, CONTENT[start : start + 70_000])
        assert answer.status_code == 204 and answer.headers["upload-expires"].endswith("GMT")
    assert answer.headers["upload-offset"] == str(len(CONTENT))
    found = api_on.http.get(answer.headers["zsq-resource"]).json()
    assert found["sha256"] == hashlib.sha256(CONTENT).hexdigest() and found["bytes"] == len(CONTENT)
    assert (found["name"], found["classes"], found["state"]) == ("mine", ["a, b", "Käfer"], "pending")
    [stored] = api_on.stored_files()  # the parts are gone
    assert stored.read_bytes() == CONTENT
    assert api_on.queued().get(CONTROL_QUEUE, 0) == before + 1
    shown = api_on.http.get(url).json()
    assert (shown["state"], shown["resource_id"]) == ("complete", found["id"])
    assert shown["links"]["resource"] == answer.headers["zsq-resource"]
    form = {"architecture": "cifar/resnet20", "name": "mine", "classes": '["a, b", "Käfer"]'}
    plain = api_on.http.post("/v1/checkpoints", files={"file": CONTENT}, data=form)
    assert (plain.status_code, plain.json()["id"]) == (200, found["id"])


def test_a_dataset_comes_the_same_way(api: Api) -> None:
    response = begin(api, 3, kind="dataset", architecture="")
    problem(response, 422, "validation_error", "architecture")
    sent = {"Upload-Length": "3", "Upload-Metadata": metadata(kind="dataset", classes="cat,dog")}
    url = api.http.post("/v1/uploads", headers={**TUS, **sent}).headers["location"]
    answer = send(api, url, 0, b"npz")
    assert api.http.get(answer.headers["zsq-resource"]).json()["classes"] == ["cat", "dog"]


def test_the_first_bytes_may_come_with_the_creation(api: Api) -> None:
    sent = {**PART, "Upload-Length": "7", "Upload-Metadata": metadata(**FIELDS)}
    some = api.http.post("/v1/uploads", headers=sent, content=b"wei")
    assert (some.status_code, some.headers["upload-offset"]) == (201, "3")
    assert send(api, some.headers["location"], 3, b"ghts").headers["upload-offset"] == "7"
    whole = api.http.post("/v1/uploads", headers=sent, content=b"weights")
    assert whole.status_code == 201
    assert whole.headers["zsq-resource"] == f"/v1/checkpoints/{api.upload()['id']}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Checksum": f"sha1 {base64.b64encode(b'x' * 20).decode()}"}, 460),
        ({"Upload-Checksum": "md5 eA=="}, 400),
        ({"Upload-Length": "6"}, 413),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_a_creation_whose_bytes_are_refused_takes_nothing(
    api: Api, headers: dict[str, str], status: int
) -> None:
    sent = {**PART, "Upload-Length": "7", "Upload-Metadata": metadata(**FIELDS), **headers}
    assert api.http.post("/v1/uploads", headers=sent, content=b"weights").status_code == status
    assert api.http.get("/v1/limits").json()["stored_bytes"]["used"] == 0


def test_a_creation_beside_too_many_uploads_takes_nothing(serve: Callable[..., Keyed]) -> None:
    keyed = serve(owner_uploads=1)
    sent = {**PART, "Upload-Length": "7", "Upload-Metadata": metadata(**FIELDS)}
    with keyed.calling_as("ann"):
        with keyed.resources.access.uploads.one("ann"):
            response = keyed.http.post("/v1/uploads", headers=sent, content=b"weights")
        problem(response, 429, "too_many_uploads")
        assert keyed.http.get("/v1/limits").json()["stored_bytes"]["used"] == 0


def test_what_the_client_said_of_the_file_comes_back(api: Api) -> None:
    said = metadata(filename="résumé.pt", kind="checkpoint", architecture="cifar/resnet20") + ",filetype"
    headers = {**TUS, "Upload-Length": "5", "Upload-Metadata": said}
    url = api.http.post("/v1/uploads", headers=headers).headers["location"]
    found = api.http.head(url, headers=TUS)
    assert found.headers["upload-metadata"] == said
    assert found.headers["upload-length"] == "5" and found.content == b""


@pytest.mark.parametrize("path", ["/v1/uploads", "/v1/uploads/up_1"])
def test_options_say_what_there_is(api: Api, path: str) -> None:
    found = api.http.options(path)
    assert found.status_code == 204
    assert found.headers["tus-version"] == found.headers["tus-resumable"] == "1.0.0"
    assert found.headers["tus-max-size"] == str(api.settings.max_upload_bytes)
    assert found.headers["tus-checksum-algorithm"] == "sha1,sha256"
    assert found.headers["tus-extension"] == "creation,creation-with-upload,expiration,termination,checksum"


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"architecture": "cifar/none"}, "architecture", "unknown_architecture"),
        ({"kind": "job"}, "kind", "validation_error"),
        ({"colour": "red"}, "colour", "validation_error"),
        ({"classes": "a,b", "num_classes": "3"}, "", "validation_error"),
        ({"name": "a\0b"}, "name", "validation_error"),
    ],
)
def test_wrong_fields_are_refused_before_a_byte_is_sent(
    api: Api, fields: dict[str, str], field: str, code: str
) -> None:
    response = begin(api, **fields)
    problem(response, 422, code, field)
    assert response.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upload-Length": "-1"}, 400, "malformed_request"),
        ({"Upload-Length": "ten"}, 400, "malformed_request"),
        ({"Upload-Length": str(2**63)}, 400, "malformed_request"),
        ({"Upload-Length": "0"}, 422, "empty_file"),
        ({"Upload-Length": "2000001"}, 413, "payload_too_large"),
        ({"Upload-Metadata": "kind %%%"}, 400, "malformed_request"),
        ({"Upload-Metadata": "kind /w=="}, 400, "malformed_request"),
        ({"Upload-Metadata": "name YQ==,name YQ=="}, 422, "validation_error"),
        ({"Upload-Metadata": ""}, 422, "validation_error"),
        ({"Tus-Resumable": "0.2.2"}, 412, "unsupported_tus_version"),
    ],
)
def test_wrong_creations_are_refused(api: Api, headers: dict[str, str], status: int, code: str) -> None:
    response = begin(api, headers=headers)
    problem(response, status, code)
    if status == 412:
        assert response.headers["tus-version"] == "1.0.0"


def test_bytes_go_nowhere_else(api: Api) -> None:
    url = begun(api, 10)
    send(api, url, 0, b"1234")
    for offset in (0, 3, 5, 10):
        problem(send(api, url, offset, b"5"), 409, "offset_mismatch")
    problem(send(api, url, 4, b"5678901"), 413, "payload_too_large")
    problem(api.http.patch(url, headers=PART, content=b"5"), 400, "malformed_request")
    kind = {"Content-Type": "application/octet-stream"}
    problem(send(api, url, 4, b"5", **kind), 415, "unsupported_media_type")
    problem(send(api, url, 4, b"5", **{"Content-Encoding": "gzip"}), 415, "unsupported_media_type")
    problem(api.http.patch(url, content=b"5"), 412, "unsupported_tus_version")
    assert where(api, url) == 4 and len(api.stored_files()) == 1
    problem(send(api, "/v1/uploads/up_none", 0, b"1"), 404, "not_found")


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_sums_are_checked(api: Api, name: str) -> None:
    url = begun(api, 8)
    right = base64.b64encode(hashlib.new(name, b"1234").digest()).decode()
    response = send(api, url, 0, b"1235", **{"Upload-Checksum": f"{name} {right}"})
    problem(response, 460, "checksum_mismatch")
    assert where(api, url) == 0 and api.stored_files() == []
    assert send(api, url, 0, b"1234", **{"Upload-Checksum": f"{name} {right}"}).status_code == 204
    for wrong in (f"md5 {right}", f"{name} %%%", name):
        response = send(api, url, 4, b"5678", **{"Upload-Checksum": wrong})
        problem(response, 460 if wrong == name else 400, response.json()["code"])


def test_of_many_at_once_one_appends(api_on: Api) -> None:
    url = begun(api_on)
    half = len(CONTENT) // 2
    for start, end in ((0, half), (half, len(CONTENT))):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: send(api_on, url, start, CONTENT[start:end]), range(8)))  # noqa: B023
        assert sorted(answer.status_code for answer in answers) == [204] + [409] * 7
    [row] = api_on.http.get("/v1/checkpoints").json()["items"]
    assert row["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert len(api_on.stored_files()) == 1


def test_the_last_request_may_be_sent_again(api: Api) -> None:
    url = begun(api)
    send(api, url, 0, CONTENT[:100])
    last = send(api, url, 100, CONTENT[100:])
    again = send(api, url, len(CONTENT), b"")
    assert again.status_code == 204
    assert again.headers["zsq-resource"] == last.headers["zsq-resource"]
    assert len(api.http.get("/v1/checkpoints").json()["items"]) == 1


def crashed_between(api: Api, monkeypatch: pytest.MonkeyPatch, place: str) -> str:
    """An upload that has all its bytes, and whose process ended in `place`, before it was a checkpoint."""
    url = begun(api)
    send(api, url, 0, CONTENT[:100])

    def crash(*arguments: Any) -> Any:
        raise KeyError(place)

    with monkeypatch.context() as patch:
        patch.setattr(resumable, place, crash)
        assert send(api, url, 100, CONTENT[100:]).status_code == 500
    assert where(api, url) == len(CONTENT)
    return url


@pytest.mark.parametrize("place", ["_joined", "put"])
@pytest.mark.parametrize("asks", ["PATCH", "GET"])
def test_a_crash_before_the_end_is_made_good(
    api_on: Api, monkeypatch: pytest.MonkeyPatch, place: str, asks: str
) -> None:
    url = crashed_between(api_on, monkeypatch, place)
    assert api_on.http.get("/v1/checkpoints").json()["items"] == []
    if asks == "PATCH":
        resource = send(api_on, url, len(CONTENT), b"").headers["zsq-resource"]
    else:
        resource = api_on.http.get(url).json()["links"]["resource"]
    assert api_on.http.get(resource).json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert len(api_on.stored_files()) == 1


def test_many_that_ask_for_the_end_get_one_checkpoint(api_on: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    url = crashed_between(api_on, monkeypatch, "put")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: send(api_on, url, len(CONTENT), b""), range(6)))
    assert {answer.status_code for answer in answers} == {204}
    # Who asks while another request joins is told nothing yet.
    named = {answer.headers.get("zsq-resource") for answer in answers} - {None}
    assert named == {send(api_on, url, len(CONTENT), b"").headers["zsq-resource"]}
    assert len(api_on.stored_files()) == 1


def test_a_join_under_way_is_not_begun_again_by_who_looks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    url = crashed_between(api, monkeypatch, "put")
    with monkeypatch.context() as patch:
        patch.setattr(resumable, "_joining", {url.rpartition("/")[2]})
        assert api.http.get(url).json()["state"] == "joining"
        again = send(api, url, len(CONTENT), b"")
        assert again.status_code == 204 and "zsq-resource" not in again.headers
    assert api.http.get(url).json()["state"] == "complete"


@pytest.mark.parametrize("asks", ["PATCH", "GET"])
def test_who_comes_second_to_the_end_finds_what_the_first_made(
    api_on: Api, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    url = crashed_between(api_on, monkeypatch, "put")
    id, joined = url.rpartition("/")[2], resumable._joined

    def overtaken(*arguments: Any) -> Any:
        """Another process begins and ends between this one's look at the parts and their opening."""
        monkeypatch.setattr(resumable, "_joined", joined)
        resumable.finish(api_on.resources, Caller("local"), id)
        return joined(*arguments)

    monkeypatch.setattr(resumable, "_joined", overtaken)
    answer = send(api_on, url, len(CONTENT), b"") if asks == "PATCH" else api_on.http.get(url)
    assert answer.status_code == (204 if asks == "PATCH" else 200), answer.text
    [row] = api_on.http.get("/v1/checkpoints").json()["items"]
    assert api_on.http.get(url).json()["resource_id"] == row["id"]


def test_parts_that_are_lost_are_no_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    url = crashed_between(api, monkeypatch, "put")
    for path in api.stored_files():
        path.unlink()
    problem(send(api, url, len(CONTENT), b""), 500, "blob_missing")


def test_what_is_given_up_leaves_nothing(api_on: Api) -> None:
    url = begun(api_on)
    send(api_on, url, 0, CONTENT[:100])
    other = begun(api_on)
    send(api_on, other, 0, CONTENT[:100])  # the same bytes, for another upload
    assert api_on.http.delete(url, headers=TUS).status_code == 204
    problem(api_on.http.delete(url, headers=TUS), 404, "not_found")
    assert api_on.http.head(url, headers=TUS).status_code == 404
    assert len(api_on.stored_files()) == 1
    assert api_on.http.delete(other, headers=TUS).status_code == 204
    assert api_on.stored_files() == []


def test_giving_up_a_complete_upload_leaves_its_checkpoint(api: Api) -> None:
    url = begun(api, 7)
    resource = send(api, url, 0, b"weights").headers["zsq-resource"]
    api.http.delete(url, headers=TUS)
    assert api.http.get(resource).status_code == 200 and len(api.stored_files()) == 1


def test_the_method_may_stand_in_a_header(api: Api) -> None:
    url = begun(api, 7)
    headers = {**PART, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert api.http.post(url, headers=headers, content=b"wei").headers["upload-offset"] == "3"
    assert api.http.post(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
    problem(api.http.post(url, headers=TUS), 405, "method_not_allowed")


def change(api: Api, **values: Any) -> None:
    with api.database.writing_engine.begin() as connection:
        connection.execute(update(PartialUpload).values(**values))


def test_an_upload_expires_when_nothing_comes(api: Api) -> None:
    url = begun(api, 10)
    change(api, expires_at=utc_now() + timedelta(minutes=1))
    send(api, url, 0, b"1")
    left = api.http.get(url).json()["expires_at"]
    assert left > (utc_now() + timedelta(hours=23)).isoformat()
    change(api, expires_at=utc_now() - timedelta(seconds=1))
    problem(send(api, url, 1, b"2"), 410, "upload_expired")
    problem(api.http.get(url), 410, "upload_expired")
    assert api.http.head(url, headers=TUS).status_code == 410


def test_begun_uploads_are_found_again(api_on: Api) -> None:
    urls = [begun(api_on, 10, name=name) for name in ("first", "second", "third")]
    send(api_on, urls[1], 0, b"1234")
    done = begun(api_on, 7)
    send(api_on, done, 0, b"weights")
    assert api_on.http.get("/v1/limits").json()["begun_uploads"] == {"used": 3, "allowed": 100}
    found: list[Any] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = api_on.http.get("/v1/uploads", params=query).json()
        found += page["items"]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    newest_first = sorted(urls, reverse=True)
    assert [each["links"]["self"] for each in found] == newest_first, "and not the complete one"
    second = found[newest_first.index(urls[1])]
    assert (second["kind"], second["offset"], second["length"]) == ("checkpoint", 4, 10)
    assert second["metadata"] == {"architecture": "cifar/resnet20", "name": "second"}
    assert second == api_on.http.get(urls[1]).json()
    change(api_on, expires_at=utc_now() - timedelta(seconds=1))
    assert api_on.http.get("/v1/uploads").json() == {"items": [], "next": None}


def test_no_more_are_begun_than_may_be(serve: Callable[..., Keyed], database_url: str) -> None:
    keyed = serve(database_url=database_url, owner_begun_uploads=3, owner_queued_jobs=0)
    with keyed.calling_as("ann"), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: begin(keyed, 7), range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 5
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "GET /v1/uploads" in problem(refused, 429, "too_many_begun_uploads")["detail"]
        assert int(refused.headers["retry-after"]) > 0
        ended, given_up, _ = (each["links"]["self"] for each in keyed.http.get("/v1/uploads").json()["items"])
        send(keyed, ended, 0, b"weights")
        assert begin(keyed, 7).status_code == 201, "what has become a checkpoint counts no more"
        assert begin(keyed, 7).status_code == 429
        assert keyed.http.delete(given_up, headers=TUS).status_code == 204
        assert begin(keyed, 7).status_code == 201
    with keyed.calling_as("bob"):
        assert begin(keyed, 7).status_code == 201


def test_an_upload_of_another_owner_is_not_there(api: Api) -> None:
    url = begun(api, 10)
    change(api, owner="somebody else")
    problem(send(api, url, 0, b"1"), 404, "not_found")
    problem(api.http.get(url), 404, "not_found")
    problem(api.http.delete(url, headers=TUS), 404, "not_found")
    assert api.http.head(url, headers=TUS).status_code == 404


def test_there_is_an_end_to_parts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "MAX_PARTS", 2)
    url = begun(api, 10)
    assert [send(api, url, n, b"x").status_code for n in range(3)] == [204, 204, 413]
