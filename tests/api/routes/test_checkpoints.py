from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from store.queue import CONTROL_QUEUE
from tests.api.conftest import Api
from tests.api.problems import problem

RAW = {"content-type": "application/octet-stream"}
FORM = {"architecture": "cifar/resnet20"}


def post(api: Api, content: bytes = b"weights", /, **fields: str) -> Any:
    return api.http.post("/v1/checkpoints", files={"file": content}, data={**FORM, **fields})


def test_an_upload_is_kept_hashed_and_announced(api: Api) -> None:
    content = bytes(1_500_000) + b"end"
    response = post(api, content, name="mine", input_shape="3,32,32", mean="0.5,0.5,0.5", std="1")
    assert response.status_code == 201
    body = response.json()
    assert response.headers["location"] == f"/v1/checkpoints/{body['id']}"
    assert body["sha256"] == hashlib.sha256(content).hexdigest() and body["bytes"] == len(content)
    assert (body["state"], body["name"], body["input_shape"]) == ("pending", "mine", [3, 32, 32])
    assert (body["mean"], body["std"]) == ([0.5, 0.5, 0.5], [1.0])
    assert body["created_at"].endswith("Z")
    [stored] = api.stored_files()
    assert stored.read_bytes() == content
    assert api.http.get(f"/v1/checkpoints/{body['id']}").json() == body
    assert api.queued()[CONTROL_QUEUE] == 1


def test_a_form_with_fields_in_the_query_is_refused_and_not_half_read(api: Api) -> None:
    response = api.http.post("/v1/checkpoints?name=mine", files={"file": b"weights"}, data=FORM)
    problem(response, 422, "validation_error", field="name")
    assert api.stored_files() == []


@pytest.mark.parametrize("sent", ["cat, dog", '["cat", "dog"]'])
def test_class_names_come_as_a_comma_list_or_a_json_array(api: Api, sent: str) -> None:
    response = post(api, classes=sent, num_classes="2")
    assert response.status_code == 201
    assert response.json()["classes"] == ["cat", "dog"]
    same = api.http.post(
        "/v1/checkpoints", params={**FORM, "classes": sent, "num_classes": 2}, content=b"weights", headers=RAW
    )
    assert same.status_code == 200


def test_class_names_may_hold_commas_and_are_part_of_the_checkpoint(api: Api) -> None:
    named = post(api, classes='["tench, Tinca tinca", "Käfer"]').json()
    assert named["classes"] == ["tench, Tinca tinca", "Käfer"]
    unnamed = post(api).json()
    assert unnamed["classes"] is None and unnamed["id"] != named["id"]


def test_a_raw_body_and_a_form_are_the_same_upload(api: Api) -> None:
    form = post(api, b"weights", num_classes="10")
    raw = api.http.post(
        "/v1/checkpoints?architecture=cifar/resnet20&num_classes=10", content=b"weights", headers=RAW
    )
    assert (form.status_code, raw.status_code) == (201, 200)
    assert form.json() | {"updated_at": None} == raw.json() | {"updated_at": None}


def test_other_fields_are_another_checkpoint_of_the_same_bytes(api: Api) -> None:
    first, second = post(api), post(api, name="other")
    assert first.json()["id"] != second.json()["id"]
    assert len(api.stored_files()) == 1


def test_the_same_upload_many_times_at_once_is_one_checkpoint(api_on: Api) -> None:
    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda _: post(api_on), range(12)))
    assert sorted(response.status_code for response in responses) == [200] * 11 + [201]
    assert len({response.json()["id"] for response in responses}) == 1


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"architecture": "cifar/resnet21"}, "architecture", "unknown_architecture"),
        ({"architecture": "x" * 5000}, "architecture", "unknown_architecture"),
        ({"num_classes": "many"}, "num_classes", "validation_error"),
        ({"num_classes": "0"}, "num_classes", "validation_error"),
        ({"num_classes": "9" * 6000}, "num_classes", "validation_error"),
        ({"input_shape": "3,32"}, "input_shape.2", "validation_error"),
        ({"input_shape": "3,32,99999999999"}, "input_shape.2", "validation_error"),
        ({"mean": "nan,0,0"}, "mean", "validation_error"),
        ({"std": "1e999"}, "std", "validation_error"),
        ({"std": "0"}, "std.0", "validation_error"),
        ({"mean": "0.5,0.5", "input_shape": "3,32,32"}, "", "validation_error"),
        ({"name": ""}, "name", "validation_error"),
        ({"classes": ""}, "classes.0", "validation_error"),
        ({"classes": "cat,,dog"}, "classes.1", "validation_error"),
        ({"classes": "[]"}, "classes", "validation_error"),
        ({"classes": '["cat", 2]'}, "classes.1", "validation_error"),
        ({"classes": '["cat"'}, "classes", "validation_error"),
        ({"classes": "[" * 15_000}, "classes", "validation_error"),
        ({"classes": '["a\\u0000b"]'}, "classes.0", "validation_error"),
        ({"classes": '["a\\ud800b"]'}, "classes.0", "validation_error"),
        ({"classes": "c" * 256}, "classes.0", "validation_error"),
        ({"classes": "cat,dog", "num_classes": "3"}, "", "validation_error"),
        ({"name": "a\0b"}, "name", "validation_error"),
        ({"colour": "red"}, "colour", "validation_error"),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_wrong_fields_are_located_and_nothing_is_kept(
    api: Api, fields: dict[str, str], field: str, code: str, raw: bool
) -> None:
    if raw:
        query = {**FORM, **fields}
        response = api.http.post("/v1/checkpoints", params=query, content=b"weights", headers=RAW)
    else:
        response = post(api, **fields)
    problem(response, 422, code, field)
    assert api.stored_files() == []


def test_near_names_are_suggested(api: Api) -> None:
    body = problem(post(api, architecture="torchvision/resnet-18"), 422, "unknown_architecture")
    assert "torchvision/resnet18" in body["detail"]


def test_what_is_missing_is_named(api: Api) -> None:
    problem(api.http.post("/v1/checkpoints", files={"file": b"x"}), 422, "validation_error", "architecture")
    problem(
        api.http.post("/v1/checkpoints", content=b"x", headers=RAW), 422, "validation_error", "architecture"
    )
    form = {"architecture": (None, "cifar/resnet20")}
    problem(api.http.post("/v1/checkpoints", files=form), 422, "validation_error", "file")
    assert api.stored_files() == []


def test_an_empty_file_is_refused(api: Api) -> None:
    problem(post(api, b""), 422, "empty_file", "file")
    raw = api.http.post("/v1/checkpoints", params=FORM, content=b"", headers=RAW)
    problem(raw, 422, "empty_file", "file")
    assert api.stored_files() == []


def test_what_is_too_long_is_refused_while_it_streams(api: Api) -> None:
    content = bytes(api.settings.max_upload_bytes + 1)
    problem(post(api, content), 413, "payload_too_large")
    problem(
        api.http.post("/v1/checkpoints", params=FORM, content=content, headers=RAW), 413, "payload_too_large"
    )

    def without_length() -> Any:
        yield from (bytes(100_000) for _ in range(30))

    chunked = api.http.post("/v1/checkpoints", params=FORM, content=without_length(), headers=RAW)
    problem(chunked, 413, "payload_too_large")
    assert api.stored_files() == []
    assert post(api, content[:-1]).status_code == 201


def test_other_kinds_of_body_are_refused(api: Api) -> None:
    problem(api.http.post("/v1/checkpoints", json={}), 415, "unsupported_media_type")
    problem(api.http.post("/v1/checkpoints", params=FORM, content=b"x"), 415, "unsupported_media_type")
    packed = api.http.post(
        "/v1/checkpoints", params=FORM, content=b"x", headers={**RAW, "content-encoding": "gzip"}
    )
    problem(packed, 415, "unsupported_media_type")


def part(name: str, value: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_request"),
        (b"no boundary at all", 400, "malformed_request"),
        ((part("architecture", "cifar/resnet20") + part("file", "x")).encode(), 400, "malformed_request"),
        (part("file", "half").encode()[:-2], 400, "malformed_request"),
        ((part("file", "x") + part("file", "y") + "--b--\r\n").encode(), 422, "validation_error"),
        ((part("name", "x") + part("name", "y") + "--b--\r\n").encode(), 422, "validation_error"),
        ((part("name", "x" * 100_000) + "--b--\r\n").encode(), 422, "validation_error"),
        (b"--b\r\nX: y\r\n\r\nx\r\n--b--\r\n", 422, "validation_error"),
        (part("name", "\xff").encode("latin-1") + b"--b--\r\n", 400, "malformed_request"),
        (b"--b\r\n" + b"A: b\r\n" * 5000 + b"\r\n", 400, "malformed_request"),
    ],
)
def test_broken_forms_are_refused_and_nothing_is_kept(api: Api, body: bytes, status: int, code: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem(api.http.post("/v1/checkpoints", content=body, headers=headers), status, code)
    assert api.stored_files() == []


def test_a_form_without_a_boundary_is_refused(api: Api) -> None:
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'b' * 1000}"):
        response = api.http.post("/v1/checkpoints", content=b"x", headers={"content-type": kind})
        problem(response, 400, "malformed_request")


def test_lists_are_pages_newest_first(api: Api) -> None:
    ids = [post(api, name=f"n{n}").json()["id"] for n in range(5)]
    api.make_ready(ids[2])
    first = api.http.get("/v1/checkpoints?limit=3").json()
    rest = api.http.get("/v1/checkpoints", params={"limit": 3, "after": first["next"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == sorted(ids, reverse=True)
    assert rest["next"] is None
    ready = api.http.get("/v1/checkpoints?state=ready&architecture=cifar/resnet20").json()["items"]
    assert [item["id"] for item in ready] == [ids[2]]
    assert ready[0]["inspection"] == {"parameters": 3}
    problem(api.http.get("/v1/checkpoints?limit=201"), 422, "validation_error", "limit")
    problem(api.http.get("/v1/checkpoints?after=%00"), 422, "validation_error", "after")
    problem(api.http.get("/v1/checkpoints?state=odd"), 422, "validation_error", "state")


def test_a_rejected_checkpoint_says_why(api: Api) -> None:
    id = post(api).json()["id"]
    error = {"code": "missing_keys", "detail": "fc.weight is missing", "retryable": False, "field": "file"}
    with api.database.write() as work:
        work.checkpoints.mark_rejected(id, error)
    body = api.http.get(f"/v1/checkpoints/{id}").json()
    assert body["state"] == "rejected" and body["error"] == error


def test_inspections_of_what_is_sent_again_count_anew(api_on: Api) -> None:
    id = api_on.upload()["id"]
    with api_on.database.write() as work:
        assert work.checkpoints.begin_inspection(id, 1) and not work.checkpoints.begin_inspection(id, 1)
    assert api_on.upload()["id"] == id
    with api_on.database.write() as work:
        assert work.checkpoints.begin_inspection(id, 1)


def test_what_was_rejected_is_inspected_again_when_it_is_sent_again(api_on: Api) -> None:
    with redis.Redis.from_url(api_on.settings.broker_url) as server:
        server.flushdb()
    id = post(api_on).json()["id"]
    with api_on.database.write() as work:
        work.checkpoints.mark_rejected(id, {"code": "worker_crashed", "detail": "Its reader crashed."})
    body = {"checkpoint_id": id, "bits": "w4a4"}
    problem(api_on.http.post("/v1/jobs", json=body), 422, "checkpoint_rejected")
    again = post(api_on)
    assert again.status_code == 200
    assert (again.json()["id"], again.json()["state"], again.json()["error"]) == (id, "pending", None)
    assert api_on.queued()[CONTROL_QUEUE] == 2
    assert api_on.http.post("/v1/jobs", json=body).status_code == 202
    api_on.make_ready(id)
    assert post(api_on).json()["state"] == "ready"


def test_deleting_takes_the_bytes_with_the_last_row(api_on: Api) -> None:
    first, second = post(api_on).json()["id"], post(api_on, name="other").json()["id"]
    assert api_on.http.delete(f"/v1/checkpoints/{first}").status_code == 204
    assert len(api_on.stored_files()) == 1
    assert api_on.http.delete(f"/v1/checkpoints/{second}").status_code == 204
    assert api_on.stored_files() == []
    problem(api_on.http.delete(f"/v1/checkpoints/{second}"), 404, "not_found")
    problem(api_on.http.get(f"/v1/checkpoints/{second}"), 404, "not_found")
    assert post(api_on).status_code == 201


def test_deleting_what_an_unfinished_job_uses_is_refused(api: Api) -> None:
    id = post(api).json()["id"]
    job = api.submit(id)
    problem(api.http.delete(f"/v1/checkpoints/{id}"), 409, "checkpoint_in_use")
    api.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.http.delete(f"/v1/checkpoints/{id}").status_code == 204
    assert api.http.get(f"/v1/jobs/{job['id']}").json()["checkpoint_id"] is None


def test_uploads_and_deletions_of_the_same_bytes_never_lose_them(api_on: Api) -> None:
    stop = threading.Event()

    def delete_all() -> None:
        while not stop.is_set():
            for item in api_on.http.get("/v1/checkpoints").json()["items"]:
                api_on.http.delete(f"/v1/checkpoints/{item['id']}")

    deleting = threading.Thread(target=delete_all)
    deleting.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda n: post(api_on, name=f"n{n}"), range(30)))
    finally:
        stop.set()
        deleting.join()
    left = api_on.http.get("/v1/checkpoints").json()["items"]
    assert len(api_on.stored_files()) == len({item["sha256"] for item in left})


@pytest.mark.parametrize("id", ["ckpt_none", "%00", "..%2f..", "a" * 500, "%F0%9F%98%80"])
def test_ids_that_are_not_there_are_404(api_on: Api, id: str) -> None:
    for path in ("checkpoints", "datasets", "jobs"):
        problem(api_on.http.get(f"/v1/{path}/{id}"), 404, "not_found")
