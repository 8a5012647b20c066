"""What gunicorn and granian have in common when they serve the application: limits, addresses, the check at the start.

The application gets requests that are complete and hands over responses that are complete; it never waits for a client.
"""

import ipaddress
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.errors import ApiError, BadRequest
from saas_api.core.observability import get_logger
from saas_api.core.web import app as web_app

log = get_logger(__name__)

BOOT_ERROR = 3
"""Exit code of a web process that must not be started again; gunicorn has chosen it."""
SERVER_HEADER = "saas-api"
APPLICATION_THREADS = 8
"""Requests that a web process has in the application at a time."""
CONNECTIONS = 500
"""Connections of a web process; others wait in the queue of the kernel."""
STOP_SECONDS = 25
"""In which requests that have begun are answered after SIGTERM."""
MAX_TARGET_BYTES = 4094
"""Of the path with its query."""
MAX_REQUEST_BYTES = 1_048_576
"""The largest body that a view accepts; of a larger one the application sees a byte more, and refuses it."""
_REQUEST_SPOOL_BYTES = 262_144
RESPONSE_SPOOL_BYTES = 1_048_576
"""Up to this size a response is in memory until it is sent."""
_PIECE_BYTES = 65_536


def has_ipv6_loopback() -> bool:
    """Whether this machine has the address ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def any_host() -> str:
    """The address that stands for all of this machine, of IPv4 and, where the machine has it, of IPv6."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - LISTEN_ON asks for it


def unwrap_address(address: str) -> str:
    """An address without its zone, with IPv4 unwrapped from IPv6."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def require_isolation(application: Flask) -> None:
    """End this process when the database does not isolate tenants; an unreachable database is only logged."""
    with application.app_context():
        try:
            tenancy.verify_isolation()
        except UnsafeDatabase as error:
            sys.stderr.write(f"DATABASE_URL: {error}\n")
            sys.exit(BOOT_ERROR)
        except SQLAlchemyError:
            log.debug("the database is unreachable; /readyz checks it again")


def read_request(environ: Mapping[str, Any]) -> BinaryIO:
    """The body of a request; a large one is kept in a file, because many may arrive at the same time.

    raises: BadRequest when the client has sent less than it announced
    """
    stream, announced = environ["wsgi.input"], environ.get("CONTENT_LENGTH", "")
    body: Any = tempfile.SpooledTemporaryFile(_REQUEST_SPOOL_BYTES)  # noqa: SIM115 - freed with the request
    missing = MAX_REQUEST_BYTES + 1
    while missing and (piece := stream.read(min(missing, _REQUEST_SPOOL_BYTES))):
        body.write(piece)
        missing -= len(piece)
    if missing and announced.isdecimal() and body.tell() < int(announced):
        raise BadRequest("The body is shorter than its Content-Length.")
    body.seek(0)
    return body  # type: ignore[no-any-return]  # the stubs know the file only by its parts


def collect_response(pieces: Iterable[bytes]) -> BinaryIO:
    """The body of a response; a large one is kept in a file, because many may be sent at the same time."""
    body: Any = tempfile.SpooledTemporaryFile(RESPONSE_SPOOL_BYTES)  # noqa: SIM115 - closed once it is sent
    try:
        body.writelines(pieces)
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    body.seek(0)
    return body  # type: ignore[no-any-return]  # the same


def iter_and_close(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in pieces; the file is closed after the last."""
    with file:
        yield from iter(lambda: file.read(_PIECE_BYTES), b"")


def wants_json(path: str, accept: str) -> bool:
    """Whether a client is answered in JSON when its request cannot be read."""
    return path.startswith("/api/") or "application/json" in accept


def render_error(application: Flask, error: ApiError, *, is_json: bool) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status line, headers and body of the answer to a request that does not reach the application."""
    path = "/api/" if is_json else "/"
    with application.test_request_context(path, base_url=application.config["APP_URL"]):
        response = web_app.error_response(error)
    return response.status, list(response.headers), response.get_data()
