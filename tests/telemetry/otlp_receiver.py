"""What a collector is to an SDK: a server that takes OTLP over HTTP, and keeps what came."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Came:
    """
    One metric, log record or span, as protobuf, with whence it came.

    Attributes:
        service: ``service.name`` of its resource.
        scope: Name of its scope.
        schema_url: The scope's.
        item: The thing itself.

    """

    service: str
    scope: str
    schema_url: str
    item: Any


@dataclass
class Received:
    """Everything that came so far."""

    endpoint: str
    metrics: list[Came] = field(default_factory=list, repr=False)
    logs: list[Came] = field(default_factory=list, repr=False)
    spans: list[Came] = field(default_factory=list, repr=False)
    encodings: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


def attributes_of(item: Any) -> dict[str, Any]:
    """The attributes of a point, a record, a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in item.attributes}


def _items(resources: Any, scopes: str, items: str) -> Iterator[Came]:
    for resource in resources:
        service = attributes_of(resource.resource).get("service.name", "")
        for scope in getattr(resource, scopes):
            for item in getattr(scope, items):
                yield Came(service, scope.scope.name, scope.schema_url, item)


class _Handler(BaseHTTPRequestHandler):
    received: ClassVar[Received]
    lock: ClassVar[threading.Lock]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers.get("Content-Encoding", "identity")
        kind = self.headers.get("Content-Type")
        if kind != "application/x-protobuf" or encoding not in ("gzip", "identity"):
            self._refuse(415, f"{self.path} {kind} {encoding}")
            return
        content = gzip.decompress(body) if encoding == "gzip" else body
        answer: Any
        with self.lock:
            self.received.encodings.add(encoding)
            if self.path == "/v1/metrics":
                resources = ExportMetricsServiceRequest.FromString(content).resource_metrics
                self.received.metrics += _items(resources, "scope_metrics", "metrics")
                answer = ExportMetricsServiceResponse()
            elif self.path == "/v1/logs":
                resources = ExportLogsServiceRequest.FromString(content).resource_logs
                self.received.logs += _items(resources, "scope_logs", "log_records")
                answer = ExportLogsServiceResponse()
            elif self.path == "/v1/traces":
                resources = ExportTraceServiceRequest.FromString(content).resource_spans
                self.received.spans += _items(resources, "scope_spans", "spans")
                answer = ExportTraceServiceResponse()
            else:
                self._refuse(404, self.path)
                return
        self._answer(200, answer.SerializeToString())

    def _refuse(self, status: int, what: str) -> None:
        self.received.refused.append(what)
        self._answer(status, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def otlp_receiver() -> Iterator[Received]:
    """Listen on a free port of this machine for as long as the block takes."""
    handler = type("Handler", (_Handler,), {"lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.received = received = Received(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]  # as declared
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
