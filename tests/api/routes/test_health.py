from __future__ import annotations

from starlette.testclient import TestClient

from api.app import create_app
from tests.api.conftest import Api
from tests.api.problems import problem


def test_ready_when_all_three_answer(api_on: Api) -> None:
    assert api_on.http.get("/healthz").json() == {"status": "ok"}
    body = api_on.http.get("/readyz")
    assert body.status_code == 200
    assert {name: check["ok"] for name, check in body.json()["checks"].items()} == {
        "database": True,
        "broker": True,
        "blobs": True,
    }


def test_not_ready_names_what_is_away(api: Api) -> None:
    away = {
        "database": {"database_url": "postgresql://u:secret@127.0.0.1:1/db"},
        "broker": {"broker_url": "redis://:secret@127.0.0.1:1/0"},
    }
    for name, update in away.items():
        with TestClient(create_app(api.settings.model_copy(update=update))) as http:
            response = http.get("/readyz")
            body = problem(response, 503, "service_unavailable")
            assert [each for each, check in body["checks"].items() if not check["ok"]] == [name]
            assert "secret" not in response.text
            assert http.get("/healthz").status_code == 200
