"""Address and id of the current request, for logs and the audit log."""

import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

import structlog
from flask import Request, g, request

from saas_api.core.observability import get_logger

log = get_logger(__name__)


def current_values() -> Any:
    """The values of `g`, for code that reads many: each access to `g` itself searches for the current request."""
    return g._get_current_object()  # noqa: SLF001 - werkzeug documents it, and names it so not to hide an attribute


def current_request() -> Request:
    """The current request, for code that reads much of it, as `current_values`."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return found


def client_ip() -> str:
    """Address of the client, with IPv4 unwrapped from IPv6; "invalid" when it cannot be read."""
    address = _parse_address(request.remote_addr or "")
    if address is None:
        _warn_unreadable()
        return "invalid"
    return address


def is_client_local() -> bool:
    """Whether the client is on this machine."""
    address = client_ip()
    return address != "invalid" and ipaddress.ip_address(address).is_loopback


def client_network(ipv6_prefix: int = 64) -> str:
    """The network by which throttles count a client: its IPv4 address, or the network of its IPv6 address.

    A client whose address cannot be read is counted by the address of the proxy that sent it.

    ipv6_prefix: 64 bits are what one customer of a provider gets, and may fill with addresses
    """
    peer = request.environ.get("werkzeug.proxy_fix.orig", {}).get("REMOTE_ADDR", "")
    address = _parse_address(request.remote_addr or "") or _parse_address(peer)
    return network_of(address, ipv6_prefix) if address else "invalid"


def network_of(address: str, ipv6_prefix: int = 64) -> str:
    """An IPv4 address, or the network of an IPv6 address."""
    return str(ip_network(f"{address}/{ipv6_prefix}", strict=False)) if ":" in address else address


@lru_cache(maxsize=1_024)
def _parse_address(text: str) -> str | None:
    """The address in "1.2.3.4", "1.2.3.4:567", "::1", "[::1]" or "[::1]:567", without a zone; None for other text."""
    host = text.strip()
    if host.startswith("[") and "]" in host:
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


@lru_cache(maxsize=1)
def _warn_unreadable() -> None:
    """Log once that proxies send addresses that cannot be read; each request would otherwise leave a line."""
    log.warning("client_address_unreadable", address=(request.remote_addr or "")[:100])


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
    """Set the origin, and add the request id to every following log line.

    request_id: with "client:" before one that the client chose
    """
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
