"""What a form may hold, however it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from api.errors import MalformedRequest, PayloadTooLarge
from api.services.multipart import FormReader
from store.blobs import LocalBlobs
from tests.api.conftest import Api
from tests.api.problems import problem

MIB = bytes(1 << 20)
NAME = b'--b\r\nContent-Disposition: form-data; name="name"\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
END = b"\r\n--b--\r\n"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[FormReader]:
    blobs = LocalBlobs(tmp_path)
    with ExitStack() as opened:
        yield FormReader(
            b"b",
            text_fields=frozenset({"name"}),
            file_fields=frozenset({"file"}),
            open_file=lambda: opened.enter_context(blobs.writer()),
            max_bytes=3 * len(MIB),
        )


def test_a_file_and_a_field_as_large_as_they_may_be(reader: FormReader) -> None:
    reader.feed(NAME + b"\r\n" + b"n" * (64 << 10) + b"\r\n" + FILE)
    for _ in range(3):
        reader.feed(MIB)
    reader.feed(END + b"what other programs leave behind it")
    reader.finish()
    assert reader.files["file"].size == 3 * len(MIB) and len(reader.fields["name"]) == 64 << 10


def test_a_file_that_is_larger_is_refused(reader: FormReader) -> None:
    reader.feed(FILE + MIB * 3)
    with pytest.raises(PayloadTooLarge, match="ZSQ_MAX_UPLOAD_BYTES"):
        reader.feed(b"xx" + END)


@pytest.mark.parametrize(
    ("begun", "more"),
    [(FILE + b"x" + END, MIB), (b"", b"\r\n" * 1000)],
    ids=["behind the last boundary", "before the first boundary"],
)
def test_what_stands_beside_the_files_counts_too(reader: FormReader, begun: bytes, more: bytes) -> None:
    reader.feed(begun)
    with pytest.raises(PayloadTooLarge, match="Beside its files"):
        for _ in range(1000):
            reader.feed(more)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_line_ends_before_the_first_boundary_are_skipped_however_they_come(
    reader: FormReader, size: int
) -> None:
    body = b"\r\n\r\n" + FILE + b"x" + END
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.finish()
    assert reader.files["file"].size == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("before", [b"text\r\n", b"\r\ntext\r\n", b"\r\n--bx\r\n"])
def test_text_before_the_first_boundary_is_refused_however_it_comes(
    reader: FormReader, before: bytes, size: int
) -> None:
    body = before + FILE + b"x" + END
    with pytest.raises(MalformedRequest):
        for start in range(0, len(body), size):
            reader.feed(body[start : start + size])


def test_a_body_without_its_end_is_malformed(reader: FormReader) -> None:
    reader.feed(FILE + b"x")
    with pytest.raises(MalformedRequest, match="last boundary"):
        reader.finish()


def test_an_upload_with_much_behind_its_last_boundary_is_refused_and_not_kept(api: Api) -> None:
    architecture = b'--b\r\nContent-Disposition: form-data; name="architecture"\r\n\r\ncifar/resnet20\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = architecture + FILE + b"weights" + END
    assert api.http.post("/v1/datasets", content=FILE + b"npz" + END, headers=headers).status_code == 201
    answer = api.http.post("/v1/checkpoints", content=body + MIB * 3, headers=headers)
    problem(answer, 413, "payload_too_large")
    assert len(api.stored_files()) == 1
    assert api.http.post("/v1/checkpoints", content=body + bytes(1000), headers=headers).status_code == 201
