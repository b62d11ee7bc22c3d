from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.api.conftest import Api

URL = "https://example.com/hook"


def test_the_secret_stays_until_it_is_renewed(api: Api) -> None:
    first = api.http.get("/v1/webhooks/secret").json()["secret"]
    assert first == api.http.get("/v1/webhooks/secret").json()["secret"]
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32
    renewed = api.http.post("/v1/webhooks/secret").json()["secret"]
    assert renewed != first and renewed == api.http.get("/v1/webhooks/secret").json()["secret"]


def test_a_job_says_where_it_will_tell_and_what_became_of_it(api: Api) -> None:
    checkpoint = api.upload()
    job = api.submit(checkpoint["id"], webhook={"url": URL})
    assert job["webhook"] == {"url": URL}
    href = job["links"]["deliveries"]
    assert api.http.get(href).json()["items"] == []
    api.http.post(f"/v1/jobs/{job['id']}/cancel")
    (delivery,) = api.http.get(href).json()["items"]
    assert (delivery["status"], delivery["url"], delivery["attempts"]) == ("pending", URL, 0)


def test_the_one_shot_form_takes_the_url_as_it_is(api: Api) -> None:
    fields = {"architecture": "cifar/resnet20", "bits": "w4a4", "webhook": URL}
    response = api.http.post("/v1/quantize", files={"file": b"weights"}, data=fields)
    assert response.status_code == 202, response.text
    assert response.json()["webhook"] == {"url": URL}


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "https://",
        "/hook",
        "https://user:password@example.com/",
        "https://example.com/a b",
        "https://example.com:99999/",
        "https://exämple.com/",
        "https://example.com/\n",
        7,
    ],
)
def test_what_is_no_url_is_refused(api: Api, url: Any) -> None:
    body = {"checkpoint_id": api.upload()["id"], "bits": "w4a4", "webhook": {"url": url}}
    response = api.http.post("/v1/jobs", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "webhook.url"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254"])
def test_private_addresses_are_refused_at_once(api: Api, host: str) -> None:
    body = {"checkpoint_id": api.upload()["id"], "bits": "w4a4", "webhook": {"url": f"http://{host}/"}}
    response = api.http.post("/v1/jobs", json=body)
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert (fault["field"], fault["code"]) == ("webhook.url", "forbidden_address")
