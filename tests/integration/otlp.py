"""A receiver of traces, as OTLP over HTTP has it: protobuf, maybe compressed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.http_server import Handler, listening


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str]
    linked: tuple[str, ...]


class Receiver:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.endpoint = ""

    def take(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.spans.append(
                        Span(
                            service=resource["service.name"],
                            name=span.name,
                            trace=span.trace_id.hex(),
                            id=span.span_id.hex(),
                            parent=span.parent_span_id.hex(),
                            attributes={
                                each.key: each.value.string_value or str(each.value.int_value)
                                for each in span.attributes
                            },
                            linked=tuple(link.trace_id.hex() for link in span.links),
                        )
                    )

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Collector(Handler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            found.take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.answer(200, answer, content_type="application/x-protobuf")

    with listening(Collector) as found.endpoint:
        yield found
