from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.conftest import Api, Keyed

PATHS = [
    "/",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/static/key.js",
    "/nothing",
    "/v1/jobs",
    "/v1/jobs/job_0",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_tells_browsers_what_not_to_do(api: Api, path: str) -> None:
    headers = api.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "strict-transport-security" not in headers


def test_refusals_and_failures_are_answers_too(serve: Callable[..., Keyed]) -> None:
    keyed = serve()

    @keyed.http.app.get("/broken")  # type: ignore[attr-defined,untyped-decorator]
    def broken() -> None:
        raise RuntimeError("inside")

    for path, status in (("/v1/jobs", 401), ("/broken", 500)):
        response = keyed.http.get(path)
        assert response.status_code == status
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"] == "application/problem+json"


def test_what_is_someones_is_kept_in_no_cache_and_files_only_in_their_own(api: Api) -> None:
    id, _ = api.succeeded_job()
    for path in ("/v1/jobs", f"/v1/jobs/{id}/report", "/v1/jobs/job_0"):
        response = api.http.get(path)
        assert response.headers["cache-control"] == "no-store"
        assert "Authorization" in response.headers["vary"]
    file = api.http.get(f"/v1/jobs/{id}/artifacts/model.onnx").headers
    assert file["cache-control"].startswith("private") and "Authorization" in file["vary"]
    assert file["content-security-policy"].startswith("default-src 'none'"), (
        "a report is shown by nobody's page"
    )


def test_the_page_loads_its_own_files_and_nothing_else(api: Api) -> None:
    policy = api.http.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "img-src 'self' data: blob:" in policy


def test_https_is_insisted_on_when_that_is_asked_for(serve: Callable[..., Keyed]) -> None:
    headers = serve(hsts_seconds=86400).http.get("/healthz").headers
    assert headers["strict-transport-security"] == "max-age=86400"
