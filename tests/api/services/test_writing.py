"""Writers ask a store that may hang: never on the event loop, and to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from api.services.writing import writers
from store.blobs import BlobStore, make_blobs
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem
from tests.api.routes.test_resumable import begun, send
from tests.store.blob_stores import everything, writer_class

CONTENT = bytes(range(256)) * 400


def on_the_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def watched(monkeypatch: pytest.MonkeyPatch, blobs: BlobStore) -> list[tuple[str, bool]]:
    """What is done to writers, and whether it was on the event loop."""
    seen: list[tuple[str, bool]] = []
    writer = writer_class(blobs)

    def watch(name: str) -> None:
        real = getattr(writer, name)

        def call(self: Any, *given: Any) -> Any:
            seen.append((name, on_the_event_loop()))
            return real(self, *given)

        monkeypatch.setattr(writer, name, call)

    for name in ("__init__", "write", "sync", "commit", "__exit__"):
        watch(name)
    return seen


def form(api: Api) -> None:
    api.upload(CONTENT)


def body(api: Api) -> None:
    headers = {"content-type": "application/octet-stream"}
    answer = api.http.post("/v1/checkpoints?architecture=cifar/resnet20", content=CONTENT, headers=headers)
    assert answer.status_code == 201, answer.text


def refused(api: Api) -> None:
    problem(
        api.http.post("/v1/checkpoints", files={"file": CONTENT}), 422, "validation_error", "architecture"
    )


def in_parts(api: Api) -> None:
    url = begun(api, len(CONTENT))
    for offset, part in ((0, CONTENT[:1000]), (1000, CONTENT[1000:])):
        assert send(api, url, offset, part).status_code == 204


def too_much(api: Api) -> None:
    """It does not say how much comes, so that it is written as far as it may."""
    answer = send(api, begun(api, 1000), 0, iter([CONTENT]))  # type: ignore[arg-type]
    problem(answer, 413, "payload_too_large")


@pytest.mark.parametrize("way", [form, body, refused, in_parts, too_much])
def test_no_writer_is_used_on_the_event_loop(
    serve: Callable[..., Keyed], blobs_url: str, monkeypatch: pytest.MonkeyPatch, way: Callable[[Api], None]
) -> None:
    api = serve(auth="off", blobs_url=blobs_url)
    seen = watched(monkeypatch, api.resources.blobs)
    way(api)
    opened, closed = (sum(name == step for name, _ in seen) for step in ("__init__", "__exit__"))
    assert opened == closed > 0
    assert [name for name, on_loop in seen if on_loop] == []


def test_who_is_cancelled_cleans_up_all_the_same(blobs_url: str) -> None:
    blobs = make_blobs(blobs_url)

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            async with writers(blobs) as open_writer:
                part = await run_sync(open_writer)
                await run_sync(part.write, bytes(9 << 20))  # more than S3 takes at its commit
                await run_sync(part.sync)
                assert everything(blobs)
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(cancelled)
    assert everything(blobs) == []
