from __future__ import annotations

from store.queue import CONTROL_QUEUE
from tests.api.conftest import Api
from tests.api.problems import problem


def test_a_dataset_is_kept_found_and_deleted(api: Api) -> None:
    data = {"classes": "cat, dog", "name": "pets"}
    response = api.http.post("/v1/datasets", files={"file": b"npz"}, data=data)
    assert response.status_code == 201
    body = response.json()
    assert (body["state"], body["classes"], body["name"]) == ("pending", ["cat", "dog"], "pets")
    again = api.http.post("/v1/datasets", files={"file": b"npz"}, data=data)
    assert again.status_code == 200 and again.json()["updated_at"] > body["updated_at"]
    body = again.json()
    assert api.http.get("/v1/datasets").json()["items"] == [body]
    assert api.http.get(f"/v1/datasets/{body['id']}").json() == body
    assert api.queued()[CONTROL_QUEUE] == 2
    assert api.http.delete(f"/v1/datasets/{body['id']}").status_code == 204
    assert api.stored_files() == []
    problem(api.http.get(f"/v1/datasets/{body['id']}"), 404, "not_found")


def test_the_order_of_classes_is_part_of_the_dataset(api: Api) -> None:
    ids = set()
    for classes in ("cat,dog", "dog,cat"):
        headers = {"content-type": "application/octet-stream"}
        response = api.http.post("/v1/datasets", params={"classes": classes}, content=b"npz", headers=headers)
        ids.add(response.json()["id"])
    assert len(ids) == 2


def test_wrong_fields_are_located(api: Api) -> None:
    for data, field in (({"classes": "cat,,dog"}, "classes.1"), ({"architecture": "x"}, "architecture")):
        response = api.http.post("/v1/datasets", files={"file": b"npz"}, data=data)
        problem(response, 422, "validation_error", field)
    assert api.stored_files() == []
