"""Keys and rates before every call under /v1."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from api.access.keyring import TRUST_SECONDS
from api.settings import ApiSettings
from store.tables import ApiKey
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_keys_everyone_is_the_one_local_owner(api: Api) -> None:
    assert api.http.get("/v1/limits").json()["owner"] == "local"
    assert api.http.get("/v1/limits", headers=bearer("whatever")).json()["key_id"] is None


def test_a_key_lets_its_owner_in_and_its_use_is_noted(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    key, id = keyed.key("ann")
    for scheme in ("Bearer", "bearer"):
        found = keyed.http.get("/v1/limits", headers={"Authorization": f"{scheme} {key}"}).json()
        assert (found["owner"], found["key_id"]) == ("ann", id)
    with keyed.database.read() as work:
        row = work.keys.get(id)
        assert row is not None and row.last_used_at is not None


def test_two_keys_in_one_call_are_none(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    headers = [("Authorization", f"Bearer {keyed.key(owner)[0]}") for owner in ("ann", "bob")]
    problem(keyed.http.get("/v1/limits", headers=headers), 401, "unauthorized")


def test_a_revoked_key_ends_within_the_seconds_of_trust(
    serve: Callable[..., Keyed], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = serve()
    key, id = keyed.key("ann")
    now = [0.0]
    monkeypatch.setattr(keyed.resources.access.keyring, "_clock", lambda: now[0])
    assert keyed.http.get("/v1/jobs", headers=bearer(key)).is_success
    with keyed.database.write() as work:
        work.keys.revoke(id)
    now[0] = TRUST_SECONDS + 0.1
    problem(keyed.http.get("/v1/jobs", headers=bearer(key)), 401, "unauthorized")


def test_calls_in_a_row_ask_the_database_once(
    serve: Callable[..., Keyed], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = serve()
    key, _ = keyed.key("ann")
    keyring = keyed.resources.access.keyring
    looks: list[str] = []

    def look_up(digest: str, ask: Callable[[str], ApiKey | None] = keyring.look_up) -> ApiKey | None:
        looks.append(digest)
        return ask(digest)

    monkeypatch.setattr(keyring, "look_up", look_up)
    monkeypatch.setattr(keyring, "_clock", lambda: 0.0)
    for _ in range(5):
        assert keyed.http.get("/v1/methods", headers=bearer(key)).is_success
    assert len(looks) == 1


def test_addresses_that_lead_nowhere_ask_for_a_key_too(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1/jobs/", "/v1/%2e%2e/healthz"):
        problem(keyed.http.get(path), 401, "unauthorized")
    problem(keyed.http.get("/v1x"), 404, "not_found")


def test_a_path_in_front_of_the_application_changes_nothing(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    with TestClient(keyed.http.app, root_path="/zsq") as http:
        problem(http.get("/zsq/v1/jobs"), 401, "unauthorized")
        assert http.get("/zsq/healthz").is_success


def test_a_key_is_asked_for_before_anything_of_the_body_is_read(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    response = keyed.http.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"})
    problem(response, 401, "unauthorized")


@pytest.mark.parametrize(
    ("server", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.1", 401), ("2001:db8::1", 401)]
)
def test_what_comes_from_outside_needs_a_key_whatever_the_settings_say(
    api: Api, server: str, status: int
) -> None:
    """uvicorn's own --host may listen elsewhere than ZSQ_HOST says."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await api.http.app({**scope, "server": (server, 8000)}, receive, send)  # type: ignore[operator]

    http = TestClient(app, raise_server_exceptions=False)  # not entered: the lifespan has run
    assert http.get("/v1/methods").status_code == status


@pytest.mark.parametrize(
    "headers",
    [{"x-forwarded-for": "203.0.113.7"}, {"forwarded": "for=203.0.113.7"}, {"x-real-ip": "127.0.0.1"}],
    ids=lambda headers: next(iter(headers)),
)
def test_what_a_proxy_on_this_machine_hands_on_needs_a_key(api: Api, headers: dict[str, str]) -> None:
    problem(api.http.get("/v1/methods", headers=headers), 401, "unauthorized")


def test_callers_that_are_not_on_this_machine_need_a_key(api: Api) -> None:
    """As uvicorn tells of them when it trusts what a proxy says."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await api.http.app({**scope, "client": ("203.0.113.7", 5000)}, receive, send)  # type: ignore[operator]

    http = TestClient(app, raise_server_exceptions=False)
    assert http.get("/v1/methods").status_code == 401


def test_a_database_that_is_away_is_503_and_not_a_wrong_key(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    key, _ = keyed.key("ann")
    keyed.database.engine.dispose()
    object.__setattr__(
        keyed.resources.access.keyring, "_database", type(keyed.database).from_settings(_away(keyed))
    )
    response = keyed.http.get("/v1/methods", headers=bearer(key))
    problem(response, 503, "service_unavailable")
    assert response.headers["retry-after"]


def _away(keyed: Keyed) -> ApiSettings:
    return keyed.settings.model_copy(update={"database_url": "postgresql://127.0.0.1:1/none"})


# --- rates


def test_calls_beyond_the_rate_are_429_with_the_time_to_wait(serve: Callable[..., Keyed]) -> None:
    keyed = serve(rate_per_minute=3)
    anns, bobs = (bearer(keyed.key(owner)[0]) for owner in ("ann", "bob"))
    left = []
    for _ in range(3):
        response = keyed.http.get("/v1/jobs", headers=anns)
        assert response.is_success
        assert response.headers["ratelimit-policy"] == '"minute";q=3;w=60'
        left.append(response.headers["ratelimit"].partition(";t=")[0])
    assert left == ['"minute";r=2', '"minute";r=1', '"minute";r=0']
    refused = keyed.http.get("/v1/methods", headers=anns)
    problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"].startswith('"minute";r=0;t=')
    assert keyed.http.get("/v1/jobs", headers=bobs).is_success, "owners have their own"
    assert keyed.http.get("/healthz").is_success


def test_all_keys_of_an_owner_share_the_rate(serve: Callable[..., Keyed]) -> None:
    keyed = serve(rate_per_minute=2)
    answers = [keyed.http.get("/v1/jobs", headers=bearer(keyed.key("ann")[0])) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


def test_the_rate_holds_without_keys_and_without_a_broker(serve: Callable[..., Keyed]) -> None:
    api = serve(auth="off", rate_per_minute=2, broker_url="redis://127.0.0.1:1/0")
    assert [api.http.get("/v1/jobs").status_code for _ in range(3)] == [200, 200, 429]


def test_without_a_limit_no_rate_is_told(api: Api) -> None:
    assert "ratelimit" not in api.http.get("/v1/jobs").headers


def test_guesses_from_one_address_end_in_429_and_good_keys_still_work(
    serve: Callable[..., Keyed], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = serve(failed_keys_per_minute=4)
    known, unseen = (keyed.key(owner)[0] for owner in ("ann", "bob"))
    now = [0.0]
    monkeypatch.setattr(keyed.resources.access.keyring, "_clock", lambda: now[0])
    assert keyed.http.get("/v1/jobs", headers=bearer(known)).is_success
    guesses = [f"zsq_{i:024x}_{'A' * 43}" for i in range(6)]
    answers = [keyed.http.get("/v1/jobs", headers=bearer(guess)) for guess in guesses]
    assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 2
    assert answers[-1].headers["retry-after"]
    now[0] = TRUST_SECONDS + 1  # beyond trust: it must be looked up again, and is
    assert keyed.http.get("/v1/jobs", headers=bearer(known)).is_success
    problem(keyed.http.get("/v1/jobs", headers=bearer(unseen)), 429, "rate_limited")
    problem(keyed.http.get("/v1/jobs"), 401, "unauthorized")


def test_calls_without_a_key_are_no_guesses(serve: Callable[..., Keyed]) -> None:
    keyed = serve(failed_keys_per_minute=2)
    assert {keyed.http.get("/v1/jobs").status_code for _ in range(5)} == {401}
    assert keyed.http.get("/v1/jobs", headers=bearer(keyed.key("ann")[0])).is_success
