"""Client address, request id and origin of the running request, for logs and audit."""

import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog
from flask import request


def client_ip() -> str:
    """The caller's address, IPv4 unfolded from IPv6; "invalid" for what is no address."""
    try:
        address = ipaddress.ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return "invalid"
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@dataclass(frozen=True)
class RequestOrigin:
    """Where an act comes from; nothing of it for jobs and commands."""

    request_id: str | None = None
    ip: str | None = None


_origin: ContextVar[RequestOrigin] = ContextVar("origin", default=RequestOrigin())  # noqa: B039 - it is frozen


def current_origin() -> RequestOrigin:
    """The request that is being answered."""
    return _origin.get()


def begin_request(request_id: str, ip: str | None) -> None:
    """Remember the request that begins, and name it in every following log line."""
    clear_context()
    _origin.set(RequestOrigin(request_id, ip))
    bind_context(request_id=request_id)


def bind_context(**values: Any) -> None:
    """Add to every following log line of this request or job."""
    structlog.contextvars.bind_contextvars(**values)


def clear_context() -> None:
    """Forget what was bound: threads are reused."""
    structlog.contextvars.clear_contextvars()
    _origin.set(RequestOrigin())
