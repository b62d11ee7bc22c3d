from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from api.app import create_app
from api.settings import ApiSettings
from core.spec import PROFILES
from store.settings import StoreSettings
from tests.api.conftest import Api
from tests.api.problems import problem


def test_the_api_never_loads_torch_or_onnx() -> None:
    code = (
        "import sys, api.app, api.__main__; api.app.create_app();"
        "print([m for m in ('torch', 'torchvision', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_addresses_and_methods_that_are_not_there_are_problems(api: Api) -> None:
    problem(api.http.get("/v1/nothing"), 404, "not_found")
    response = api.http.put("/v1/jobs")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, POST"
    assert api.http.put("/v1/jobs/job_0").headers["allow"] == "DELETE, GET"
    assert api.http.post("/v1/datasets/data_0").headers["allow"] == "DELETE, GET"


def test_what_nobody_foresaw_is_a_problem_that_tells_nothing(api: Api, tmp_path: Path) -> None:
    app = create_app(api.settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the password is 1234")

    from starlette.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False) as http:
        body = problem(http.get("/broken"), 500, "internal_error")
    assert "1234" not in str(body)


def test_a_database_that_is_away_is_503(tmp_path: Path, broker_url: str) -> None:
    from starlette.testclient import TestClient

    settings = ApiSettings(data_dir=tmp_path, broker_url=broker_url)  # never migrated
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        response = http.get("/v1/jobs")
        problem(response, 503, "service_unavailable")
        assert response.headers["retry-after"]


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [each for value in node.values() for each in references(value)]
    if isinstance(node, list):
        return [each for value in node for each in references(value)]
    return []


def test_the_openapi_document_is_whole_and_names_the_problem_type(api: Api) -> None:
    document = api.http.get("/openapi.json").json()
    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    errors = [
        response
        for path in document["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if int(status) >= 400
    ]
    assert errors
    for response in errors:
        assert list(response["content"]) == ["application/problem+json"]
    upload = document["paths"]["/v1/checkpoints"]["post"]
    assert set(upload["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert {each["name"] for each in upload["parameters"]} >= {"architecture", "input_shape"}


def test_the_openapi_document_tells_of_streams_headers_and_resumable_uploads(api: Api) -> None:
    paths = api.http.get("/openapi.json").json()["paths"]
    for path in ("/v1/jobs", "/v1/quantize"):
        submit = paths[path]["post"]
        assert {"200", "202", "400", "422"} <= set(submit["responses"])
        assert "idempotency-key" in {each["name"].lower() for each in submit["parameters"]}
        assert "Idempotent-Replayed" in submit["responses"]["202"]["headers"]
    events = paths["/v1/jobs/{id}/events"]["get"]
    assert {"text/event-stream", "application/json"} == set(events["responses"]["200"]["content"])
    assert "204" in events["responses"]
    patch = paths["/v1/uploads/{id}"]["patch"]
    assert list(patch["requestBody"]["content"]) == ["application/offset+octet-stream"]
    assert {"409", "410", "412", "413", "415", "460"} <= set(patch["responses"])
    assert {each["name"] for each in patch["parameters"]} >= {"id", "Upload-Offset", "Tus-Resumable"}
    for path, operations in paths.items():  # what stands in braces is a parameter of every operation
        for method, operation in operations.items():
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)), f"{method} {path}"


def test_the_openapi_document_says_what_names_and_ids_may_be(api: Api) -> None:
    job = api.http.get("/openapi.json").json()["components"]["schemas"]["JobRequest"]["properties"]
    assert job["checkpoint_id"]["pattern"] == "^[0-9A-Za-z_]+$"
    assert job["checkpoint_id"]["maxLength"] == 64
    assert job["labels"]["additionalProperties"]["maxLength"] == 255


def test_every_setting_stands_in_the_example() -> None:
    text = (Path(__file__).parents[2] / ".env.example").read_text()
    written = dict(re.findall(r"^#? ?(ZSQ_\w+)=(.*)$", text, re.MULTILINE))
    for settings in (StoreSettings, ApiSettings):
        for name, field in settings.model_fields.items():
            default = "" if field.default == () else str(field.default)
            assert written[f"ZSQ_{name.upper()}"] == default, name


def test_the_dashboard_needs_nothing_from_elsewhere(api: Api) -> None:
    page = api.http.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page.text)
    assert "<option>zaq</option>" in page.text and "<option>minmax</option>" in page.text
    for name, profile in PROFILES.items():
        assert f'<option value="{name}">{name}: {profile.summary}</option>' in page.text
    for asset in re.findall(r'"(/static/[^"]+)"', page.text):
        assert api.http.get(asset).status_code == 200, asset
