"""Other people's pages against a server on the user's own machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.conftest import Keyed
from tests.api.problems import problem

JOB = {"checkpoint_id": "ckpt_0", "bits": "w4a4"}


@pytest.fixture
def local(serve: Callable[..., Keyed]) -> Keyed:
    """A server without keys, as `zsq up` starts it."""
    api = serve(auth="off", allowed_hosts=(), cors_origins=("https://pages.example.org",))
    api.http.headers["host"] = "127.0.0.1:8000"
    return api


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "localhost.", "[::1]:8000", "127.9.9.9", "a.localhost"],
)
def test_loopback_goes_by_its_own_names(local: Keyed, host: str) -> None:
    assert local.http.get("/v1/jobs", headers={"host": host}).is_success


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.0.2.1:8000",
        "",
        "[::1",
        "0.0.0.0",
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/", "/openapi.json"])
def test_a_name_that_was_made_to_point_here_is_refused(local: Keyed, host: str, path: str) -> None:
    problem(local.http.get(path, headers={"host": host}), 403, "foreign_host")
    assert local.http.get("/healthz", headers={"host": host}).is_success, "probes name it as they like"


def test_allowed_hosts_are_names_and_what_is_below_them(serve: Callable[..., Keyed]) -> None:
    api = serve(auth="off", allowed_hosts=("zsq.example.org", "*.lab.example"))
    for host, fine in [
        ("zsq.example.org", True),
        ("ZSQ.example.org:443", True),
        ("gpu1.lab.example", True),
        ("lab.example", False),
        ("evillab.example", False),
        ("x.zsq.example.org", False),
        ("localhost", True),
    ]:
        assert api.http.get("/v1/jobs", headers={"host": host}).is_success is fine, host


def test_with_keys_the_name_is_checked_once_there_is_a_list(serve: Callable[..., Keyed]) -> None:
    anywhere = serve(allowed_hosts=())
    problem(anywhere.http.get("/v1/jobs", headers={"host": "any.example"}), 401, "unauthorized")
    listed = serve(allowed_hosts=("zsq.example.org",))
    problem(listed.http.get("/v1/jobs", headers={"host": "any.example"}), 403, "foreign_host")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9000", "http://127.0.0.1", ""]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/quantize"),
        ("POST", "/v1/jobs/job_0/cancel"),
        ("DELETE", "/v1/checkpoints/ckpt_0"),
        ("PATCH", "/v1/jobs"),
    ],
)
def test_foreign_pages_change_nothing(local: Keyed, method: str, path: str, origin: str) -> None:
    response = local.http.request(method, path, headers={"origin": origin})
    problem(response, 403, "foreign_origin")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8000", "https://pages.example.org"])
def test_its_own_page_and_those_on_the_list_may_change_things(local: Keyed, origin: str | None) -> None:
    headers = {"origin": origin} if origin else {}
    problem(local.http.post("/v1/jobs", json=JOB, headers=headers), 404, "not_found")


def test_reading_is_left_to_the_browsers_own_rules(local: Keyed) -> None:
    response = local.http.get("/v1/jobs", headers={"origin": "https://evil.example"})
    assert response.is_success
    assert "access-control-allow-origin" not in response.headers, "so the page cannot see it"


def test_with_keys_pages_need_the_key_and_nothing_else(serve: Callable[..., Keyed]) -> None:
    keyed = serve()
    with keyed.calling_as("ann"):
        response = keyed.http.post("/v1/jobs", json=JOB, headers={"origin": "https://pages.example"})
    problem(response, 404, "not_found")
