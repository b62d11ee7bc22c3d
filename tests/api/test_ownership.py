"""Every call of the OpenAPI document: none answers without a key, none shows or changes another's things.

The calls are read from the document, so a new one without a case here fails.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from store.tables import utc_now
from tests.api.conftest import Keyed
from tests.api.problems import problem

# These say nothing of anyone.
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}

BYTES = b"the same bytes for both"
BEGIN = {
    "Tus-Resumable": "1.0.0",
    "Upload-Length": str(len(BYTES)),
    "Upload-Metadata": f"kind {base64.b64encode(b'dataset').decode()}",
}


@dataclass
class Owned:
    """What ann made: a checkpoint and a dataset, a queued job on both, a succeeded job, a begun upload."""

    checkpoint: str
    dataset: str
    queued: str
    succeeded: str
    upload: str
    secret: str

    def fill(self, path: str) -> str:
        """The path of a call that names something of hers."""
        if path.startswith("/v1/checkpoints/"):
            return path.replace("{id}", self.checkpoint)
        if path.startswith("/v1/datasets/"):
            return path.replace("{id}", self.dataset)
        if path.startswith("/v1/uploads/"):
            return path.replace("{id}", self.upload)
        job = self.queued if path.endswith("/cancel") else self.succeeded
        return path.replace("{id}", job).replace("{name}", "model.onnx")


@pytest.fixture
def keyed(serve: Callable[..., Keyed]) -> Keyed:
    return serve(failed_keys_per_minute=0)


@pytest.fixture
def hers(keyed: Keyed) -> Owned:
    with keyed.calling_as("ann"):
        checkpoint = keyed.upload(BYTES)["id"]
        dataset = keyed.http.post("/v1/datasets", files={"file": BYTES}).json()["id"]
        keyed.make_ready(checkpoint)
        succeeded = keyed.submit(checkpoint)["id"]
        keyed.succeed(succeeded)
        queued = keyed.submit(checkpoint, evaluation={"dataset_id": dataset}, labels={"secret": "hers"})["id"]
        begun = keyed.http.post("/v1/uploads", headers=BEGIN)
        assert begun.status_code == 201, begun.text
        secret = keyed.http.get("/v1/webhooks/secret").json()["secret"]
    upload = begun.headers["location"].rpartition("/")[2]
    return Owned(checkpoint, dataset, queued, succeeded, upload, secret)


def send(keyed: Keyed, method: str, path: str, **options: Any) -> Any:
    """A call as its clients make it; resumable uploads want to be told the protocol's version."""
    if not path.startswith("/v1/uploads/"):
        return keyed.http.request(method, path, **options)
    part = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    headers = {**part, **options.pop("headers", {})}
    content = BYTES[:5] if method == "PATCH" else None
    return keyed.http.request(method, path, headers=headers, content=content, **options)


def refused(response: Any, status: int, code: str) -> str:
    """What it says; an answer to HEAD says nothing."""
    if response.request.method == "HEAD":
        assert response.status_code == status
        return ""
    return str(problem(response, status, code)["detail"])


def calls(keyed: Keyed) -> list[tuple[str, str]]:
    document = keyed.http.get("/openapi.json").json()
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item]


# --- calls that name one resource: 404 for another owner, success for hers

NAMED = {
    ("GET", "/v1/checkpoints/{id}"),
    ("DELETE", "/v1/checkpoints/{id}"),
    ("GET", "/v1/datasets/{id}"),
    ("DELETE", "/v1/datasets/{id}"),
    ("GET", "/v1/jobs/{id}"),
    ("DELETE", "/v1/jobs/{id}"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("GET", "/v1/jobs/{id}/deliveries"),
    ("GET", "/v1/jobs/{id}/events"),
    ("GET", "/v1/jobs/{id}/report"),
    ("GET", "/v1/jobs/{id}/artifacts"),
    ("GET", "/v1/jobs/{id}/artifacts/{name}"),
    ("HEAD", "/v1/uploads/{id}"),
    ("GET", "/v1/uploads/{id}"),
    ("PATCH", "/v1/uploads/{id}"),
    ("DELETE", "/v1/uploads/{id}"),
}

# --- all others: what bob sees must be what he would see alone


def _lists_nothing(keyed: Keyed, path: str, hers: Owned) -> None:
    assert keyed.http.get(path).json() == {"items": [], "next": None}
    filtered = keyed.http.get(path, params={"limit": 200, "checkpoint_id": hers.checkpoint})
    assert filtered.json()["items"] == []


def _tells_nothing(keyed: Keyed, path: str, hers: Owned) -> None:
    text = keyed.http.get(path).text
    assert not any(id in text for id in (hers.checkpoint, hers.dataset, hers.queued, hers.succeeded))


def _limits_are_his(keyed: Keyed, path: str, hers: Owned) -> None:
    found = keyed.http.get(path).json()
    assert found["owner"] == "bob"
    assert (found["stored_bytes"]["used"], found["queued_jobs"]["used"]) == (0, 0)


def _secret_is_his(keyed: Keyed, path: str, hers: Owned) -> None:
    his = [keyed.http.request(method, path).json()["secret"] for method in ("POST", "GET")]
    assert hers.secret not in his


def _upload_is_new(keyed: Keyed, path: str, hers: Owned) -> None:
    data = {"architecture": "cifar/resnet20"} if path.endswith("checkpoints") else {}
    first = keyed.http.post(path, files={"file": BYTES}, data=data)
    assert first.status_code == 201, "200 would say that someone has these bytes"
    assert first.json()["id"] not in (hers.checkpoint, hers.dataset)
    assert first.json()["state"] == "pending", "and so would a state that is ready at once"
    assert keyed.http.delete(f"{path}/{first.json()['id']}").status_code == 204


def _job_on_hers_is_404(keyed: Keyed, path: str, hers: Owned) -> None:
    body: dict[str, Any] = {"checkpoint_id": hers.checkpoint, "bits": "w4a4"}
    stolen = problem(keyed.http.post(path, json=body), 404, "not_found")
    unknown = problem(keyed.http.post(path, json={**body, "checkpoint_id": "ckpt_0"}), 404, "not_found")
    assert stolen["detail"].replace(hers.checkpoint, "ckpt_0") == unknown["detail"]
    own = keyed.upload(b"his own")
    body = {"checkpoint_id": own["id"], "bits": "w4a4", "evaluation": {"dataset_id": hers.dataset}}
    problem(keyed.http.post(path, json=body), 404, "not_found")


def _begun_upload_is_his(keyed: Keyed, path: str, hers: Owned) -> None:
    begun = keyed.http.post(path, headers=BEGIN)
    assert begun.status_code == 201 and hers.upload not in begun.headers["location"]


def _says_the_same_to_all(keyed: Keyed, path: str, hers: Owned) -> None:
    answers = [keyed.http.options(path.replace("{id}", id)) for id in (hers.upload, "up_0")]
    assert answers[0].status_code == answers[1].status_code == 204
    assert answers[0].headers["tus-version"] == answers[1].headers["tus-version"]


def _one_shot_is_new(keyed: Keyed, path: str, hers: Owned) -> None:
    form = {"architecture": "cifar/resnet20", "bits": "w4a4"}
    found = keyed.http.post(path, files={"file": BYTES, "dataset": BYTES}, data=form).json()
    assert found["checkpoint_id"] != hers.checkpoint
    assert found["evaluation"]["dataset_id"] != hers.dataset


OTHERS: dict[tuple[str, str], Callable[[Keyed, str, Owned], None]] = {
    ("POST", "/v1/checkpoints"): _upload_is_new,
    ("GET", "/v1/checkpoints"): _lists_nothing,
    ("POST", "/v1/datasets"): _upload_is_new,
    ("GET", "/v1/datasets"): _lists_nothing,
    ("POST", "/v1/jobs"): _job_on_hers_is_404,
    ("GET", "/v1/jobs"): _lists_nothing,
    ("POST", "/v1/quantize"): _one_shot_is_new,
    ("POST", "/v1/uploads"): _begun_upload_is_his,
    ("GET", "/v1/uploads"): _lists_nothing,
    ("OPTIONS", "/v1/uploads"): _says_the_same_to_all,
    ("OPTIONS", "/v1/uploads/{id}"): _says_the_same_to_all,
    ("GET", "/v1/webhooks/secret"): _secret_is_his,
    ("POST", "/v1/webhooks/secret"): _secret_is_his,
    ("GET", "/v1/limits"): _limits_are_his,
    ("GET", "/v1/methods"): _tells_nothing,
    ("GET", "/v1/architectures"): _tells_nothing,
}


def test_every_call_has_a_case(keyed: Keyed) -> None:
    guarded = [call for call in calls(keyed) if call not in OPEN]
    assert sorted(guarded) == sorted([*NAMED, *OTHERS])
    assert all(path.startswith("/v1/") for _, path in guarded), "the guard stands before /v1"


def test_no_call_answers_without_a_key_and_all_refusals_are_one(keyed: Keyed) -> None:
    good, _ = keyed.key("ann")
    expired, _ = keyed.key("ann", expires_at=utc_now())
    revoked, id = keyed.key("ann")
    with keyed.database.write() as work:
        assert work.keys.revoke(id)
    wrong = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YW5uOmFubg=="},
        {"Authorization": f"Bearer zsq_{'0' * 24}_{'A' * 43}"},
        {"Authorization": f"Bearer {expired}"},
        {"Authorization": f"Bearer {revoked}"},
        {"Authorization": f"Token {good}"},
        {"Authorization": f"Bearer {good[:-1]}"},
    ]
    texts = set()
    for method, path in calls(keyed):
        filled = re.sub(r"{\w+}", "x", path)
        assert keyed.http.request(
            method, f"{filled}?key={good}&api_key={good}&access_token={good}"
        ).is_error or ((method, path) in OPEN), "addresses are logged: no key is read there"
        if (method, path) in OPEN:
            assert keyed.http.request(method, filled).status_code == 200
            continue
        for headers in wrong:
            response = keyed.http.request(method, filled, headers=headers)
            texts.add(refused(response, 401, "unauthorized"))
            assert response.headers["www-authenticate"] == "Bearer"
    assert len(texts - {""}) == 1


@pytest.mark.parametrize(("method", "path"), sorted(NAMED), ids=lambda part: part)
def test_what_one_owner_made_is_not_there_for_another(
    keyed: Keyed, hers: Owned, method: str, path: str
) -> None:
    with keyed.calling_as("ann"):
        before = everything(keyed)
        if method == "DELETE":  # only what no unfinished job uses can be deleted at all
            keyed.http.post(f"/v1/jobs/{hers.queued}/cancel")
            before = everything(keyed)
    with keyed.calling_as("bob"):
        his = refused(send(keyed, method, hers.fill(path)), 404, "not_found")
        nobodys = Owned(*(re.sub("[0-9a-f]{24}", "0" * 24, id) for id in vars(hers).values()))
        none = refused(send(keyed, method, nobodys.fill(path)), 404, "not_found")
        assert re.sub("[0-9a-f]{24}", "0" * 24, his) == none, "nor can he tell the two apart"
    with keyed.calling_as("ann"):
        assert everything(keyed) == before
        assert send(keyed, method, hers.fill(path)).is_success, "the case does name what is hers"


@pytest.mark.parametrize(("method", "path"), sorted(OTHERS), ids=lambda part: part)
def test_other_calls_show_and_change_nothing_of_anothers(
    keyed: Keyed, hers: Owned, method: str, path: str
) -> None:
    with keyed.calling_as("ann"):
        before = everything(keyed)
    with keyed.calling_as("bob"):
        OTHERS[method, path](keyed, path, hers)
    with keyed.calling_as("ann"):
        assert everything(keyed) == before
        assert keyed.http.get(f"/v1/jobs/{hers.succeeded}/artifacts/model.onnx").is_success


def everything(keyed: Keyed) -> list[Any]:
    paths = ("/v1/checkpoints", "/v1/datasets", "/v1/jobs", "/v1/uploads", "/v1/webhooks/secret")
    return [keyed.http.get(path).json() for path in paths]
