"""The OpenAPI document taken at its word: requests made from it, answers held against it.

Every route that the document names is covered, the new ones too. Longer:
`st run http://127.0.0.1:8000/openapi.json --max-examples 500 --exclude-checks positive_data_acceptance`
beside `zsq up`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    use_after_free,
)
from starlette.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from tests.api.conftest import Api
from tests.api.serving import serving
from tests.generated import REPEATABLE

# Whether a file or a name in the catalogue is right cannot be said in a schema, nor that 1.0 is no integer.
WITHOUT = [positive_data_acceptance]
SECONDS = 20
BRIEF = settings(REPEATABLE, max_examples=8)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[dict[str, str]]:
    """A real server; `url`, and the ids of what is there by the path under which it is found."""
    folder = tmp_path_factory.mktemp("api")
    api_settings = ApiSettings(data_dir=folder, broker_url=broker_url, max_upload_bytes=1_000_000)
    with serving(api_settings) as served:
        api = Api(TestClient(served.app), served.resources, api_settings)
        job, _ = api.succeeded_job()
        found = api.http.get(f"/v1/jobs/{job}").json()
        dataset = api.http.post("/v1/datasets", files={"file": b"images"}).json()["id"]
        # An unfinished job holds what it needs against DELETE.
        api.submit(found["checkpoint_id"], evaluation={"dataset_id": dataset})
        ids = {"jobs": job, "checkpoints": found["checkpoint_id"], "datasets": dataset}
        yield {"url": served.url, **ids}


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
