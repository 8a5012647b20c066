"""Traces for OpenTelemetry and errors for Sentry, each where its setting is set; otherwise a span is nothing at all.

Spans are our own: instrumentation packages wrap clients that the fast paths go around.
"""

import contextlib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from saas_api.core import secret_format

_NOTHING: AbstractContextManager[Any] = contextlib.nullcontext()
_tracers: list[Any] = []
_providers: list[Any] = []
_sentry: list[Any] = []


def init(config: Mapping[str, Any]) -> None:
    """Begin to send traces and errors to where the settings say.

    config: OTEL_EXPORTER_OTLP_ENDPOINT, SENTRY_DSN, VERSION, REVISION, APP_ENV, PROCESS
    """
    _tracers.clear()
    for provider in _providers:
        provider.shutdown()
    _providers.clear()
    _sentry.clear()
    if config.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        _send_traces(config)
    if config.get("SENTRY_DSN"):
        _send_errors(config)


def is_active() -> bool:
    """Whether spans are sent."""
    return bool(_tracers)


def span(name: str, kind: str = "internal", parent: Mapping[str, str] | None = None) -> AbstractContextManager[Any]:
    """A span for the length of a block, as a child of the current one.

    kind: "server" for a request, "client" for a call of another system, "consumer" for a job, or "internal"
    parent: headers of a request whose `traceparent` names another parent
    """
    return _span(name, kind, parent) if _tracers else _NOTHING


def describe(name: str | None = None, **attributes: Any) -> None:
    """Rename the current span, and add attributes to it; None is left out."""
    if not _tracers:
        return
    from opentelemetry import trace  # noqa: PLC0415 - loaded only where traces are sent

    current = trace.get_current_span()
    if name:
        current.update_name(name)
    current.set_attributes({key: value for key, value in attributes.items() if value is not None})


def report_error(error: BaseException) -> None:
    """Send an unexpected error to Sentry, where it is set up."""
    if _sentry:
        _sentry[0].capture_exception(error)


def flush() -> None:
    """Send the spans and errors that wait to be sent."""
    for provider in _providers:
        provider.force_flush()
    for sentry in _sentry:
        sentry.flush()


def headers() -> dict[str, str]:
    """The header that tells another system of the current span; none where no traces are sent."""
    carrier: dict[str, str] = {}
    if _tracers:
        from opentelemetry import propagate  # noqa: PLC0415 - loaded only where traces are sent

        propagate.inject(carrier)
    return carrier


@contextlib.contextmanager
def _span(name: str, kind: str, parent: Mapping[str, str] | None) -> Iterator[None]:
    from opentelemetry import propagate  # noqa: PLC0415 - loaded only where traces are sent
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - the same

    context = propagate.extract(parent) if parent is not None else None
    with _tracers[0].start_as_current_span(name, context=context, kind=SpanKind[kind.upper()]):
        yield


def _send_traces(config: Mapping[str, Any]) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - loaded only here
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the same
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the same
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - the same

    names = {"service.name": "saas-api", "service.version": config["VERSION"], "process": config.get("PROCESS", "")}
    provider = TracerProvider(resource=Resource.create(names))
    endpoint = f"{config['OTEL_EXPORTER_OTLP_ENDPOINT'].rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _providers.append(provider)
    _tracers.append(provider.get_tracer("saas-api"))
    if not event.contains(sa.Engine, "before_cursor_execute", _begin_statement):
        event.listen(sa.Engine, "before_cursor_execute", _begin_statement)
        event.listen(sa.Engine, "after_cursor_execute", _end_statement)
        event.listen(sa.Engine, "handle_error", _end_failed_statement)


def _begin_statement(*arguments: Any) -> None:
    connection, _, statement = arguments[:3]
    if _tracers:
        entered = span(f"postgresql {statement.split(maxsplit=1)[0].upper()}", "client")
        entered.__enter__()
        connection.info.setdefault("spans", []).append(entered)


def _end_statement(connection: sa.Connection, *_: Any) -> None:
    spans = connection.info.get("spans")
    if spans:
        spans.pop().__exit__(None, None, None)


def _end_failed_statement(context: Any) -> None:
    if context.connection is not None:
        _end_statement(context.connection)


def _send_errors(config: Mapping[str, Any]) -> None:
    """Send the errors that are reported, and nothing that Sentry would collect by itself.

    Its integrations add requests, statements and calls of other systems, whose addresses and headers have secrets.
    """
    import sentry_sdk  # noqa: PLC0415 - loaded only where errors are sent
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415 - the same
    from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415 - the same

    sentry_sdk.init(
        dsn=config["SENTRY_DSN"],
        release=config["REVISION"] or config["VERSION"],
        environment=config["APP_ENV"],
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[AtexitIntegration(callback=lambda _pending, _timeout: None), DedupeIntegration()],
        include_local_variables=False,  # they hold keys and passwords
        before_send=_hide_secrets,  # type: ignore[arg-type]  # its Event is a TypedDict
    )
    _sentry.append(sentry_sdk)


def _hide_secrets(report: MutableMapping[str, Any], _hint: Any) -> MutableMapping[str, Any]:
    for error in report.get("exception", {}).get("values", ()):
        error["value"] = secret_format.hide_secrets(error.get("value") or "")
    return report
