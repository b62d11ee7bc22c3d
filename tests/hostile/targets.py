"""What must hold for whatever is sent: each target takes an input and says what came of it.

A file is read or refused with a code and a sentence; a request is answered or refused by an error
that has a status; nothing else is ever raised.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import torch
from fastapi import Request
from starlette.types import Message

from api.errors import STATUS, ApiError
from api.schemas.uploads import CheckpointFields
from api.services import tus
from api.services.multipart import FormReader
from api.services.quota import Room
from api.services.ranges import asked_range
from api.services.receive import receive
from core.errors import InputError
from core.evaluate.datasets import inspect_dataset
from core.networks.load import load_state_dict
from store.blobs import LocalBlobs

MAX_BYTES = 2000
# More than some of the forms take, less than others.
ROOM = Room(used=0, allowed=1000)
FILE_BYTES = 2500
# A file of a few kilobytes may not become more than this.
MOST_BYTES = 64 << 20


class Targets:
    """`folder` holds the one file that is looked at, and the blob store that uploads go to."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "input"
        self.blobs = LocalBlobs(folder / "blobs")

    def checkpoint(self, data: bytes) -> str:
        self.file.write_bytes(data)
        try:
            state = load_state_dict(self.file)
        except InputError as error:
            return _refused(error)
        assert sum(value.numel() * value.element_size() for value in state.values()) < MOST_BYTES
        assert all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point())
        return "read"

    def dataset(self, data: bytes) -> str:
        self.file.write_bytes(data)
        try:
            found = inspect_dataset(self.file)
        except InputError as error:
            return _refused(error)
        assert sum(found["counts"].values()) == found["images"] > 0
        return "read"

    def form(self, data: bytes, splits: list[int]) -> str:
        """The same whatever pieces it comes in."""
        outcomes = {
            self._fed(pieces) for pieces in ([data], _split(data, splits), [bytes([b]) for b in data])
        }
        assert len(outcomes) == 1, outcomes
        return str(outcomes.pop()[0])

    def upload(self, data: bytes, content_type: str, query: list[tuple[str, str]], splits: list[int]) -> str:
        return anyio.run(self._received, data, content_type, urlencode(query), splits)

    def range(self, value: str) -> str:
        try:
            part = asked_range(value, FILE_BYTES)
        except ApiError as error:
            return _problem(error)
        assert part is None or 0 <= part[0] < part[1] <= FILE_BYTES
        return "whole" if part is None else "read"

    def tus(self, metadata: str, checksum: str, length: str) -> str:
        """What a resumable upload says in its headers."""
        try:
            assert all(isinstance(value, str) for value in tus.metadata(metadata).values())
            tus.Checksum.of(checksum)
            assert 0 <= tus.count({"Upload-Length": length}, "Upload-Length") < 2**63
        except ApiError as error:
            return _problem(error)
        return "read"

    def _fed(self, pieces: Iterable[bytes]) -> tuple[Any, ...]:
        writers = []

        def open_file() -> Any:
            writers.append(self.blobs.writer())
            return writers[-1].__enter__()

        names = frozenset(CheckpointFields.model_fields)
        try:
            reader = FormReader(
                b"b",
                text_fields=names,
                file_fields=frozenset({"file"}),
                open_file=open_file,
                max_bytes=MAX_BYTES,
            )
            for piece in pieces:
                reader.feed(piece)
            reader.finish()
            files = tuple((name, writer.sha256) for name, writer in reader.files.items())
            return "read", tuple(reader.fields.items()), files
        except ApiError as error:
            return _problem(error), type(error)
        finally:
            for writer in writers:
                writer.__exit__(None, None, None)

    async def _received(self, data: bytes, content_type: str, query: str, splits: list[int]) -> str:
        messages: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": True} for piece in _split(data, splits)
        ]
        messages.append({"type": "http.request", "body": b"", "more_body": False})

        async def next_message() -> Message:
            return messages.pop(0)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/checkpoints",
            "headers": [(b"content-type", content_type.encode("latin-1"))],
            "query_string": query.encode(),
        }
        request = Request(scope, next_message)
        try:
            async with receive(request, self.blobs, CheckpointFields, MAX_BYTES, ROOM) as received:
                assert 0 < received.files["file"].size <= MAX_BYTES
                return "read"
        except ApiError as error:
            return _problem(error)
        finally:
            assert not list((self.blobs.root / "incoming").iterdir()), "something was kept"


def _refused(error: InputError) -> str:
    assert error.detail and len(error.detail) < 2000 and error.detail.isprintable(), error.detail
    assert error.code and error.field
    return error.code


def _problem(error: ApiError) -> str:
    assert type(error) in STATUS and error.detail and len(error.detail) < 5000
    return error.code


def _split(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[begin:end] for begin, end in pairwise(cuts)]
