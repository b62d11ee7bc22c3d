"""`zsq uploads` as a user types it, against the real API."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from api.settings import ApiSettings
from tests.api.serving import serving
from zsq.cli import app
from zsq.client import Client


def test_what_is_begun_is_listed_and_deleted(tmp_path: Path, broker_url: str) -> None:
    with serving(ApiSettings(data_dir=tmp_path, broker_url=broker_url)) as served:

        def zsq(*words: str) -> str:
            result = CliRunner().invoke(app, ["uploads", *words, "--server", served.url])
            assert result.exit_code == 0, result.output
            return result.stdout

        assert zsq("list").strip() == "None is begun."
        headers = {"tus-resumable": "1.0.0", "upload-length": "3072", "upload-metadata": "kind ZGF0YXNldA=="}
        with Client(served.url) as client:
            client._transport.call("POST", "/v1/uploads", headers=headers)
        [found] = json.loads(zsq("list", "--json"))
        shown = zsq("list")
        assert found["id"] in shown and "dataset" in shown and "0 B of 3.0 KiB" in shown
        zsq("delete", found["id"])
        assert json.loads(zsq("list", "--json")) == []
