"""Every answer under /v1/uploads names the version of tus, whoever gives it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from store.database import Database
from store.errors import Unavailable
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem

TUS = {"Tus-Resumable": "1.0.0"}


def test_answers_of_the_routes_name_it(api: Api) -> None:
    problem_of_none = api.http.get("/v1/uploads/up_none")
    for response in (api.http.options("/v1/uploads"), api.http.get("/v1/uploads"), problem_of_none):
        assert response.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/uploads", 412),
        ("POST", "/v1/uploads/up_none", 405),
        ("PUT", "/v1/uploads/up_none", 405),
        ("GET", "/v1/uploads?limit=many", 422),
        ("GET", "/v1/uploads/up_none/more", 404),
    ],
)
def test_refusals_name_it(api: Api, method: str, path: str, status: int) -> None:
    response = api.http.request(method, path)
    assert (response.status_code, response.headers["tus-resumable"]) == (status, "1.0.0")


def test_refusals_before_the_routes_name_it(serve: Callable[..., Keyed]) -> None:
    keyed = serve(rate_per_minute=1)
    key = {"Authorization": f"Bearer {keyed.key('ann')[0]}"}
    answers = [keyed.http.get("/v1/uploads", headers=headers) for headers in ({}, key, key)]
    assert [answer.status_code for answer in answers] == [401, 200, 429]
    assert [answer.headers.get("tus-resumable") for answer in answers] == ["1.0.0"] * 3


@pytest.mark.parametrize(("error", "status"), [(Unavailable("away"), 503), (RuntimeError("inside"), 500)])
def test_failures_name_it(
    serve: Callable[..., Keyed], monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    keyed = serve()
    key = {"Authorization": f"Bearer {keyed.key('ann')[0]}"}
    assert keyed.http.get("/v1/uploads", headers=key).is_success

    def fails(self: Database) -> None:
        raise error

    monkeypatch.setattr(Database, "read", fails)
    response = keyed.http.get("/v1/uploads", headers=key)
    problem(response, status, "service_unavailable" if status == 503 else "internal_error")
    assert response.headers["tus-resumable"] == "1.0.0"


def test_others_do_not(api: Api) -> None:
    for path in ("/v1/jobs", "/v1/uploadsx", "/healthz"):
        assert "tus-resumable" not in api.http.get(path).headers
