"""The OpenAPI document taken at its word: requests made from it, answers held against it.

Every route that the document names is covered, the new ones too. Longer:
`st run http://127.0.0.1:8000/openapi.json --max-examples 500 --exclude-checks positive_data_acceptance`
beside `zsq up`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    use_after_free,
)
from starlette.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from store.migrate import upgrade
from tests.api.conftest import Api

# Whether a file or a name in the catalogue is right cannot be said in a schema, nor that 1.0 is no integer.
WITHOUT = [positive_data_acceptance]
SECONDS = 20
BRIEF = settings(
    max_examples=8,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[dict[str, str]]:
    """A real server; `url`, and the ids of what is there by the path under which it is found."""
    folder = tmp_path_factory.mktemp("api")
    api_settings = ApiSettings(data_dir=folder, broker_url=broker_url, max_upload_bytes=1_000_000)
    upgrade(api_settings.database_url)
    app = create_app(api_settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    api = Api(TestClient(app), app.state.resources, api_settings)
    job, _ = api.succeeded_job()
    found = api.http.get(f"/v1/jobs/{job}").json()
    dataset = api.http.post("/v1/datasets", files={"file": b"images"}).json()["id"]
    # An unfinished job holds what it needs against DELETE.
    api.submit(found["checkpoint_id"], evaluation={"dataset_id": dataset})
    port = server.servers[0].sockets[0].getsockname()[1]
    ids = {"jobs": job, "checkpoints": found["checkpoint_id"], "datasets": dataset}
    yield {"url": f"http://127.0.0.1:{port}", **ids}
    server.should_exit = True
    thread.join(SECONDS)


# A piece of an upload is bytes like any other.
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")

# 412 is what tus prescribes for requests without its version; the rest are schemathesis's own.
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "428", "429", "5xx"]
CHECKS = {
    name: {"expected-statuses": REFUSED} for name in ("negative_data_rejection", "missing_required_header")
}

# The document needs no server, so that there is a test for each operation.
schema = schemathesis.openapi.from_dict(
    create_app(ApiSettings()).openapi(), config=schemathesis.Config.from_dict({"checks": CHECKS})
)


@schema.parametrize()
@BRIEF
def test_any_request(case: schemathesis.Case, there: dict[str, str]) -> None:
    case.call_and_validate(there["url"], excluded_checks=WITHOUT, timeout=SECONDS)


@schema.include(path_regex=r"\{id\}").parametrize()
@BRIEF
def test_any_request_to_what_is_there(case: schemathesis.Case, there: dict[str, str]) -> None:
    id = there.get(case.path.split("/")[2])
    if id is None:
        return
    case.path_parameters["id"] = id
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "model.onnx"
    # The ids were changed behind its back: it cannot know which of its requests are wrong.
    blind = [negative_data_rejection, use_after_free]
    case.call_and_validate(there["url"], excluded_checks=WITHOUT + blind, timeout=SECONDS)
