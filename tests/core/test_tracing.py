"""Traces reach a collector and errors reach Sentry, without secrets; without their settings there is neither."""

import gzip
import json
import secrets
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from saas_api.app import create_app
from saas_api.core import observability, tracing
from tests.support.accounts import PASSWORD, User, make_key
from tests.support.http_receiver import Receiver, run_receiver, wait_until
from tests.support.messages import send_message
from tests.support.webhooks import WebhookOrganization, deliver

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def collector(config: dict[str, Any]) -> Iterator[Receiver]:
    """A collector to which this process sends traces."""
    with run_receiver(status=200) as receiver:
        endpoint = receiver.url.removesuffix("/hook")
        tracing.init({**config, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "PROCESS": "test"})
        yield receiver
        tracing.init(config)


@pytest.fixture
def acme(app: Flask, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch) -> WebhookOrganization:
    """Acme, which may have endpoints on this machine."""
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])
    return WebhookOrganization(client, alice)


def read_spans(collector: Receiver) -> list[Any]:
    """All spans that the collector has received, after those that wait were sent."""
    tracing.flush()
    spans = []
    for request in collector.received:
        assert request.path == "/v1/traces"
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        export = ExportTraceServiceRequest.FromString(body)
        spans += [span for group in export.resource_spans for scope in group.scope_spans for span in scope.spans]
    return spans


def attributes_of(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_request_is_a_trace_with_its_statements_and_limits(
    client: FlaskClient, alice: User, collector: Receiver
) -> None:
    key = make_key(client, alice)
    response = client.get("/api/v1/messages", headers={**key, "traceparent": PARENT})
    spans = read_spans(collector)
    [request] = [span for span in spans if span.name == "GET /api/v1/messages"]
    attributes = attributes_of(request)
    assert request.trace_id.hex() == PARENT.split("-")[1]
    assert attributes["request.id"] == response.headers["X-Request-Id"]
    assert attributes["http.response.status_code"] == 200
    assert attributes["organization_id"] == alice.organization_id
    children = {span.name for span in spans if span.trace_id == request.trace_id} - {request.name}
    assert {"redis limits", "postgresql SELECT"} <= children
    assert key["X-API-Key"] not in str(spans)


def test_accepted_message_and_its_delivery_are_spans(
    client: FlaskClient, alice: User, work: Callable[[], None], collector: Receiver
) -> None:
    send_message(client, make_key(client, alice))
    work()
    names = {span.name for span in read_spans(collector)}
    assert {"POST /api/v1/messages/send", "postgresql batch", "job messages.drain"} <= names


def test_receiver_of_a_webhook_gets_the_trace(app: Flask, acme: WebhookOrganization, collector: Receiver) -> None:
    with run_receiver() as receiver:
        acme.create_endpoint(receiver.url)
        acme.publish_event()
        deliver(app)
    [sent] = [span for span in read_spans(collector) if span.name == "webhook POST"]
    [request] = receiver.received
    assert request.headers["traceparent"].split("-")[1:3] == [sent.trace_id.hex(), sent.span_id.hex()]


def test_failed_statement_ends_its_span(client: FlaskClient, alice: User, collector: Receiver) -> None:
    for _ in range(2):  # the second name is taken
        client.post("/api/v1/auth/register", json={"email": "bob@acme.example", "password": PASSWORD})
    assert all(span.end_time_unix_nano for span in read_spans(collector))


def test_nothing_is_traced_without_a_collector(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        acme.create_endpoint(receiver.url)
        acme.publish_event()
        deliver(app)
    assert "traceparent" not in receiver.received[0].headers
    assert not tracing.is_active()


def test_unexpected_error_reaches_sentry_without_contents_of_the_request(
    config: dict[str, Any], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_receiver(status=200) as receiver:
        dsn = f"http://public@127.0.0.1:{receiver.port}/1"
        client = create_app({**config, "SENTRY_DSN": dsn}).test_client()
        key = make_key(client, alice)["X-API-Key"]

        def fail() -> None:
            raise RuntimeError(f"the key {key} could not be read")

        monkeypatch.setitem(client.application.view_functions, "ops.version", fail)
        token = secrets.token_hex(8)  # Sentry gets the lines of this file that surround the error
        assert client.get(f"/version?token={token}", headers=alice.headers).status_code == 500
        wait_until(lambda: bool(receiver.received))
        sent = read_envelope(receiver.received[0].body)
        tracing.init(config)
        observability.configure_logging(config)
    assert "the key [hidden] could not be read" in sent
    for value in (alice.token, token, key):
        assert value not in sent


def read_envelope(body: bytes) -> str:
    return (zlib.decompress(body, wbits=31) if body[:2] == b"\x1f\x8b" else body).decode()


def test_libraries_are_loaded_only_where_their_setting_is_set() -> None:
    code = "import sys, wsgi; print([name for name in ('sentry_sdk', 'opentelemetry.exporter') if name in sys.modules])"
    assert json.loads(run_python(code).replace("'", '"')) == []


def run_python(code: str) -> str:
    environment = {"APP_ENV": "test", "PATH": "", "SECRET_KEY": "s" * 32, "JWT_SECRET": "j" * 32}
    environment["API_KEY_PEPPER"] = "1:" + "p" * 32
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
