"""Address and id of the current request, for logs and the audit log."""

import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog
from flask import request


def client_ip() -> str:
    """Address of the client, with IPv4 unwrapped from IPv6; "invalid" when the server got no address."""
    try:
        address = ipaddress.ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return "invalid"
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@dataclass(frozen=True)
class RequestOrigin:
    """Request id and address of an audit event; both None for jobs and commands."""

    request_id: str | None = None
    ip: str | None = None


_origin: ContextVar[RequestOrigin] = ContextVar("origin", default=RequestOrigin())  # noqa: B039 - it is frozen


def current_origin() -> RequestOrigin:
    """Origin of the current request."""
    return _origin.get()


def begin_request(request_id: str, ip: str | None) -> None:
    """Set the origin, and add the request id to every following log line."""
    clear_context()
    _origin.set(RequestOrigin(request_id, ip))
    bind_context(request_id=request_id)


def bind_context(**values: Any) -> None:
    """Add values to every following log line of this request or job."""
    structlog.contextvars.bind_contextvars(**values)


def clear_context() -> None:
    """Remove the origin and the values of log lines; threads are reused."""
    structlog.contextvars.clear_contextvars()
    _origin.set(RequestOrigin())
