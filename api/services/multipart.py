"""A multipart form read piece by piece: files go into writers, fields into memory."""

from __future__ import annotations

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import Invalid, MalformedRequest, PayloadTooLarge
from store.blobs import BlobWriter

_MAX_FIELD_BYTES = 64 << 10


class FormReader:
    """Push parser: `feed` it the body in any pieces, then `finish`; `fields` and `files` hold the result.

    A file may hold `max_bytes`, and all else in the body (fields, headers, what stands behind the last
    boundary) as much as the fields may, each at its longest.
    """

    def __init__(
        self,
        boundary: bytes,
        *,
        text_fields: frozenset[str],
        file_fields: frozenset[str],
        open_file: Callable[[], BlobWriter],
        max_bytes: int,
    ) -> None:
        if not boundary:
            raise MalformedRequest("The Content-Type names no multipart boundary.")
        self.fields: dict[str, str] = {}
        self.files: dict[str, BlobWriter] = {}
        self._text_fields = text_fields
        self._file_fields = file_fields
        self._open_file = open_file
        self._max_bytes = max_bytes
        self._max_beside = _MAX_FIELD_BYTES * (len(text_fields) + len(file_fields))
        self._fed = 0
        self._begun = False
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._text = bytearray()
        self._writer: BlobWriter | None = None
        self._ended = False
        self._parser = _parser(boundary, self)

    def feed(self, data: bytes) -> None:
        self._fed += len(data)
        if not self._begun:
            # The parser skips what follows them up to the boundary, or refuses it, by where the pieces end.
            data = data.lstrip(b"\r\n")
            self._begun = bool(data)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedRequest(f"The multipart body is malformed: {error}.") from None
        if self._fed - sum(writer.size for writer in self.files.values()) > self._max_beside:
            raise PayloadTooLarge(f"Beside its files a form may hold {self._max_beside} bytes.")

    def finish(self) -> None:
        if not self._ended:
            raise MalformedRequest("The multipart body ends before its last boundary.")

    # --- the parser's callbacks, in the order in which they come

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        self._name = name = _decoded(options.get(b"name", b""), "a field's name")
        if name not in self._text_fields and name not in self._file_fields:
            known = ", ".join(sorted(self._text_fields | self._file_fields))
            raise Invalid.one(name.replace("\0", ""), "extra_forbidden", f"no such field; there are: {known}")
        if name in self.fields or name in self.files:
            raise Invalid.one(name, "duplicate_field", "given more than once")
        self._text = bytearray()
        self._writer = None
        if name in self._file_fields:
            self._writer = self.files[name] = self._open_file()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._writer is None:
            self._text.extend(data[start:end])
            if len(self._text) > _MAX_FIELD_BYTES:
                raise Invalid.one(self._name, "too_long", f"longer than {_MAX_FIELD_BYTES} bytes")
            return
        if self._writer.size + end - start > self._max_bytes:
            raise too_large(self._max_bytes)
        self._writer.write(memoryview(data)[start:end])

    def on_part_end(self) -> None:
        if self._writer is None:
            self.fields[self._name] = _decoded(bytes(self._text), self._name)

    def on_end(self) -> None:
        self._ended = True


def _parser(boundary: bytes, reader: FormReader) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_header_end": reader.on_header_end,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_part_end": reader.on_part_end,
                "on_end": reader.on_end,
            },
        )
    except FormParserError as error:
        raise MalformedRequest(f"The multipart boundary is malformed: {error}.") from None


def _decoded(text: bytes, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise MalformedRequest(f"The form is not valid UTF-8: {what}.") from None


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"Files may hold {max_bytes} bytes at most (ZSQ_MAX_UPLOAD_BYTES).")
