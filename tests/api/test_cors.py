from __future__ import annotations

from collections.abc import Callable

from tests.api.conftest import Api, Keyed

PAGE = "https://pages.example.org"
ASK = {
    "origin": PAGE,
    "access-control-request-method": "PATCH",
    "access-control-request-headers": "authorization, idempotency-key, last-event-id, tus-resumable",
}


def test_no_page_from_elsewhere_may_call_by_default(api: Api) -> None:
    for response in (api.http.options("/v1/jobs", headers=ASK), api.http.get("/v1/jobs", headers=ASK)):
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_a_listed_page_may_and_needs_no_key_to_ask_whether(serve: Callable[..., Keyed]) -> None:
    keyed = serve(cors_origins=(PAGE,))
    preflight = keyed.http.options("/v1/jobs", headers=ASK)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in preflight.headers
    other = keyed.http.options("/v1/jobs", headers={**ASK, "origin": "https://evil.example"})
    assert other.status_code == 400 and "access-control-allow-origin" not in other.headers

    refused = keyed.http.get("/v1/jobs", headers={"origin": PAGE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    with keyed.calling_as("ann"):
        response = keyed.http.get("/v1/jobs", headers={"origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    shown = {name.strip() for name in response.headers["access-control-expose-headers"].split(",")}
    assert {"ETag", "Location", "Retry-After", "RateLimit", "Upload-Offset", "Upload-Expires"} <= shown
    assert "Origin" in response.headers["vary"] and "Authorization" in response.headers["vary"]
