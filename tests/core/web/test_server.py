"""The web as it is served: deadlines, connections, addresses, and requests that do not reach the application."""

import contextlib
import json
import os
import re
import runpy
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask

from config import load
from saas_api.core.web import serving
from tests.support import web_server
from tests.support.services import create_service
from tests.support.web_server import WebServer, read_all, read_response, request

pytestmark = pytest.mark.long
HEAD_SECONDS, BODY_SECONDS, KEEPALIVE_SECONDS, CONNECTIONS = 2, 2, 3, 30
SLOW, PROXY, JSON = "127.0.0.2", "127.0.0.3", "Content-Type: application/json"
MANY_SECONDS = 60
"""After these a test fails, on a busy machine too."""
HEALTHY = b"HTTP/1.1 200 OK"
BUNDLE = "/static/swagger-ui-bundle.js"


@contextlib.contextmanager
def serve(server: str, config: dict[str, Any], directory: Path) -> Iterator[WebServer]:
    """Serve the web with short deadlines and one trusted proxy."""
    settings = {
        "SERVER": server,
        "REQUEST_HEAD_SECONDS": str(HEAD_SECONDS),
        "REQUEST_BODY_SECONDS": str(BODY_SECONDS),
        "KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS),
        "CONNECTIONS_PER_ADDRESS": str(CONNECTIONS),
        "TRUSTED_PROXY_IPS": PROXY,
        "APP_URL": "https://api.example",
    }
    with web_server.serve(config, directory, **settings) as web:
        yield web


@pytest.fixture(scope="module")
def web(app: Flask, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """The web with gunicorn."""
    with serve("gunicorn", config, tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(scope="module")
def granian(app: Flask, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """The web with granian."""
    with serve("granian", config, tmp_path_factory.mktemp("granian")) as server:
        yield server


@pytest.fixture(params=["web", "granian"])
def each_web(request: pytest.FixtureRequest) -> WebServer:
    """The web with either server."""
    server: WebServer = request.getfixturevalue(request.param)
    return server


@contextlib.contextmanager
def clients(web: WebServer, count: int, first_bytes: bytes) -> Iterator[list[socket.socket]]:
    """Connections of another address that have sent the beginning of a request."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(web.connect(SLOW)) for _ in range(count)]
        for connection in opened:
            connection.sendall(first_bytes)
        yield opened


def waiting(connections: list[socket.socket]) -> list[socket.socket]:
    """The connections that have received nothing."""
    answered, _, _ = select.select(connections, [], [], 0)
    return [connection for connection in connections if connection not in answered]


def drip(connections: list[socket.socket], web: WebServer) -> bool:
    """Send a byte on each connection every 0.2 s until all have a response.

    returns: whether others were served while all were waiting
    """
    were_others_served, ends_at = False, time.monotonic() + MANY_SECONDS
    while slow := waiting(connections):
        assert time.monotonic() < ends_at, "a byte now and then defers the deadline"
        for connection in slow:
            with contextlib.suppress(OSError):
                connection.send(b"a")
        assert web.get("/healthz").startswith(HEALTHY)
        were_others_served = were_others_served or waiting(connections) == connections
        time.sleep(0.2)
    return were_others_served


@pytest.mark.parametrize(
    ("beginning", "seconds"),
    [
        (request("GET", "/healthz").removesuffix(b"\r\n") + b"X-Slow: ", HEAD_SECONDS),
        (request("POST", "/api/v1/auth/login", JSON, "Content-Length: 1000") + b"{", BODY_SECONDS),
        (request("POST", "/api/v1/auth/login", JSON, "Transfer-Encoding: chunked") + b"3e8\r\n{", BODY_SECONDS),
    ],
    ids=["head", "body", "chunked body"],
)
def test_slow_requests_end_at_the_deadline_and_delay_nobody(web: WebServer, beginning: bytes, seconds: int) -> None:
    """G2: 24 clients that send a byte now and then get 408 at the deadline; others are served meanwhile."""
    started_at = time.monotonic()
    with clients(web, 24, beginning) as slow:
        assert drip(slow, web)
        assert all(read_all(connection).startswith(b"HTTP/1.1 408 ") for connection in slow)
    assert seconds < time.monotonic() - started_at


def test_granian_has_a_deadline_for_the_head_only(granian: WebServer) -> None:
    """A proxy in front has to have one for the body, as docs/deployment.md says."""
    head = request("GET", "/healthz").removesuffix(b"\r\n") + b"X-Slow: "
    body = request("POST", "/api/v1/auth/login", JSON, "Content-Length: 1000") + b"{"
    with clients(granian, 24, b"") as silent, clients(granian, 24, head) as heads, clients(granian, 24, body) as bodies:
        assert granian.get("/healthz").startswith(HEALTHY)
        assert {read_all(connection) for connection in silent + heads} == {b""}
        assert waiting(bodies) == bodies


def test_silent_connection_is_closed_without_a_response(web: WebServer) -> None:
    """G2: no byte at all."""
    with clients(web, 24, b"") as silent:
        assert web.get("/healthz").startswith(HEALTHY)
        assert {read_all(connection) for connection in silent} == {b""}


def test_client_that_does_not_read_delays_nobody(each_web: WebServer) -> None:
    """G2, its sibling: 24 clients ask for a large file and do not read it."""
    each_web.get(BUNDLE)  # compresses the file once
    with clients(each_web, 24, request("GET", BUNDLE)):
        time.sleep(0.3)
        assert each_web.get("/healthz").startswith(HEALTHY)  # a delayed client gives up after 10 seconds


def test_client_that_does_not_close_delays_nobody(each_web: WebServer) -> None:
    """G2, its sibling: the server closes a connection, and the client keeps its half open."""
    with clients(each_web, 24, request("GET", "/healthz", "Connection: close")) as lingering:
        assert all(read_all(connection).startswith(HEALTHY) for connection in lingering)
        assert each_web.get("/healthz").startswith(HEALTHY)  # a delayed client gives up after 10 seconds


def test_address_has_a_limit_of_connections_of_its_own(web: WebServer) -> None:
    """G2: the 31st connection of an address is refused, another address is served."""
    with clients(web, CONNECTIONS, b"G"), web.connect(SLOW) as one_too_many:
        assert read_all(one_too_many).startswith(b"HTTP/1.1 429 ")
        assert web.get("/healthz").startswith(HEALTHY)
        [worker] = web_server.process_of(web).children()
        for _ in range(50):
            with web.connect(SLOW) as reset:
                reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert web.get("/healthz").startswith(HEALTHY)
        assert web_server.process_of(web).children() == [worker]
    web_server.wait_until_served(web)
    deadline = time.monotonic() + MANY_SECONDS
    while not web.get("/healthz", source=SLOW).startswith(HEALTHY):
        assert time.monotonic() < deadline


def test_proxy_has_no_limit_of_connections(each_web: WebServer) -> None:
    """G2: all clients of a proxy share its address."""
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS + 1):
            connection = stack.enter_context(each_web.connect(PROXY))
            connection.sendall(request("GET", "/healthz"))
            assert read_response(connection).startswith(HEALTHY)


def test_large_body_in_pieces_is_read(each_web: WebServer) -> None:
    """G2: a legitimate upload of 60 KiB that takes a second passes."""
    body = json.dumps({"email": "a" * 60_000}).encode()
    with each_web.connect() as connection:
        connection.sendall(request("POST", "/api/v1/auth/login", JSON, f"Content-Length: {len(body)}"))
        for start in range(0, len(body), 12_000):
            connection.sendall(body[start : start + 12_000])
            time.sleep(0.15)
        response = read_response(connection)
        assert (response[:12], json.loads(response.partition(b"\r\n\r\n")[2])["error"]["code"]) == (
            b"HTTP/1.1 422",
            "VALIDATION_ERROR",
        )
        connection.sendall(request("GET", "/healthz"))
        assert read_response(connection).startswith(HEALTHY)


@pytest.mark.parametrize("size", [70_000, 300_000, 5_000_000])
def test_body_over_the_limit_gets_413(each_web: WebServer, size: int) -> None:
    with each_web.connect() as connection:
        connection.sendall(request("POST", "/api/v1/auth/login", JSON, f"Content-Length: {size}"))
        with contextlib.suppress(OSError):
            connection.sendall(b"x" * size)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_body_that_ends_early_does_not_reach_the_application(each_web: WebServer) -> None:
    """A client that dies in the middle of a form has sent half of its values."""
    with each_web.connect() as connection:
        connection.sendall(request("POST", "/api/v1/auth/login", JSON, "Content-Length: 1000") + b"{}")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).partition(b"\r\n")[0] in (
            b"HTTP/1.1 400 BAD REQUEST",
            b"HTTP/1.1 400 Bad Request",
            b"",
        )


def test_usage_events_have_up_to_one_mebibyte(app: Flask, each_web: WebServer) -> None:
    token = create_service(app)
    for size, status in ((1_048_576, b"200"), (1_048_577, b"413")):
        body = b'{"events": []}'.ljust(size)
        head = request("POST", "/api/v1/events", JSON, f"Authorization: Bearer {token}", f"Content-Length: {size}")
        with each_web.connect() as connection:
            connection.sendall(head + body)
            assert read_response(connection).startswith(b"HTTP/1.1 " + status)


def test_large_response_arrives_whole(each_web: WebServer) -> None:
    head, _, body = each_web.get(BUNDLE).partition(b"\r\n\r\n")
    assert head.startswith(HEALTHY)
    assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body) > 1_000_000


def test_connection_is_kept_longer_than_the_deadlines(each_web: WebServer) -> None:
    """A9: a request on a connection that was idle for longer than the deadline of a head is served."""
    with each_web.connect() as connection:
        for pause in (HEAD_SECONDS + 0.5, 0):
            connection.sendall(request("GET", "/healthz"))
            assert read_response(connection).startswith(HEALTHY)
            time.sleep(pause)


def test_connection_is_kept_for_75_seconds_by_default() -> None:
    """A9: longer than the 60 s for which usual proxies and balancers keep theirs."""
    assert load(env_file=None)["KEEPALIVE_SECONDS"] == 75


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"GET /api/v1/x HTTP/1.1\r\nHost localhost\r\n\r\n", b"400", "INVALID_REQUEST"),
        (request("GET", "/api/v1/" + "x" * 5000), b"414", "URI_TOO_LONG"),
        (request("GET", "/api/v1/x", *[f"X-{n}: x" for n in range(60)]), b"431", "HEADERS_TOO_LARGE"),
        (request("GET", "/api/v1/x", "X-Long: " + "x" * 9000), b"431", "HEADERS_TOO_LARGE"),
        (request("GET", "/x", "Accept: application/json", "X: " + "x" * 9000), b"431", "HEADERS_TOO_LARGE"),
        (request("POST", "/api/v1/x", "Transfer-Encoding: chunked") + b"xyz\r\n", b"400", "INVALID_REQUEST"),
    ],
)
def test_request_that_cannot_be_read_has_the_error_envelope(
    web: WebServer, raw: bytes, status: bytes, code: str
) -> None:
    """A14: the server's own refusals are JSON as the application's."""
    with web.connect() as connection:
        connection.sendall(raw)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert f"X-Request-Id: {error['request_id']}".encode() in head
    assert b"X-Content-Type-Options: nosniff" in head


def test_page_that_cannot_be_read_is_a_page_of_the_product(web: WebServer) -> None:
    """Small: 414 and 431 are pages with the security headers, and say what to do."""
    for headers, path, status in ((("X: " + "x" * 9000,), "/login", b"431"), ((), "/" + "x" * 5000, b"414")):
        response = web.get(path, *headers)
        assert response.startswith(b"HTTP/1.1 " + status)
        assert b"X-Frame-Options: DENY" in response
        assert b"Request ID" in response


def test_long_address_has_the_error_envelope_of_granian_too(granian: WebServer) -> None:
    head, _, body = granian.get("/api/v1/" + "x" * 5000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 414 ")
    assert json.loads(body)["error"]["code"] == "URI_TOO_LONG"


def test_server_header_does_not_name_the_server_software(each_web: WebServer) -> None:
    """Small: `Server: gunicorn`."""
    for path in ("/healthz", "/" + "x" * 5000):
        response = each_web.get(path).lower()
        assert response.count(b"\r\nserver: ") == response.count(b"\r\nserver: saas-api\r\n")
        assert not re.search(b"gunicorn|granian", response)


def test_loopback_is_served_on_ipv4_and_ipv6(web: WebServer) -> None:
    """A14: dual stack."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with socket.create_connection(("::1", web.port), 10) as connection:
        connection.sendall(request("GET", "/healthz"))
        assert read_response(connection).startswith(HEALTHY)


def test_only_loopback_is_listened_on(each_web: WebServer) -> None:
    """Small: another machine of the network reaches the mailbox of development."""
    main = web_server.process_of(each_web)
    connections = [found for process in (main, *main.children()) for found in process.net_connections("tcp")]
    addresses = {connection.laddr.ip for connection in connections if connection.status == "LISTEN"}
    assert "127.0.0.1" in addresses <= {"127.0.0.1", "::1"}


def test_all_addresses_are_listened_on_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A14: in production the web listens on every address, of IPv6 too."""
    monkeypatch.setenv("LISTEN_ON", "all")
    [bind] = runpy.run_path("gunicorn.conf.py")["bind"]
    assert bind.startswith("[::]:" if socket.has_dualstack_ipv6() else "0.0.0.0:")


@pytest.mark.parametrize("path", ["/ops/mail", "/api/v1/billing/plans", "/login"])
def test_unknown_host_is_refused_outside_production(each_web: WebServer, path: str) -> None:
    """Small: a page of evil.example whose name leads to 127.0.0.1 (DNS rebinding) reads nothing."""
    with each_web.connect() as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: evil.example:{each_web.port}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        response = read_all(connection)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"APP_URL" in response


def test_hsts_follows_app_url(each_web: WebServer) -> None:
    """Small: behind a proxy that ends TLS the request is plain HTTP, and the public address is https."""
    for path in ("/healthz", "/" + "x" * 5000):
        assert b"\r\nstrict-transport-security: max-age=31536000\r\n" in each_web.get(path).lower()


def count_of_version_requests(each_web: WebServer) -> int:
    [line] = re.findall(rb'saas_http_requests_total{.*route="/version".*} (\d+)', each_web.get("/metrics"))
    return int(line)


def test_what_a_killed_process_has_counted_stays_in_the_metrics(each_web: WebServer) -> None:
    each_web.get("/version")
    counted = count_of_version_requests(each_web)
    each_web.kill_worker()
    web_server.wait_until_served(each_web)
    each_web.get("/version")
    assert count_of_version_requests(each_web) == counted + 1


def test_killed_web_process_is_replaced(each_web: WebServer) -> None:
    """G2: a kill in the middle of slow requests leaves nothing behind."""
    with clients(each_web, 10, b"GET /healthz HTTP/1.1\r\nX: "):
        killed = each_web.kill_worker()
        web_server.wait_until_served(each_web)
    assert [child.pid for child in web_server.process_of(each_web).children()] != [killed]


def test_stop_answers_the_request_that_is_being_read(each_web: WebServer) -> None:
    """G2: a deploy loses no request whose body is on its way. The last test of these webs."""
    with each_web.connect() as connection:
        connection.sendall(request("POST", "/api/v1/auth/login", JSON, "Content-Length: 2"))
        time.sleep(0.2)
        os.kill(each_web.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(b"{}")
        assert read_all(connection).startswith(b"HTTP/1.1 422 ")


@pytest.fixture
def unprotected_table(app: Flask, superuser: Any) -> Iterator[None]:
    """A table of organizations whose rows every organization reads."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("CREATE TABLE strays (organization_id uuid)")
    yield
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DROP TABLE strays")


@pytest.mark.usefixtures("unprotected_table")
@pytest.mark.parametrize("server", ["gunicorn", "granian"])
def test_web_ends_when_the_database_does_not_separate_tenants(
    config: dict[str, Any], server: str, tmp_path: Path
) -> None:
    """A server that started its processes again and again would hide it."""
    log = tmp_path / "log"
    assert web_server.start(config, log, SERVER=server).process.wait(60) == serving.BOOT_ERROR
    assert "DATABASE_URL: table strays is not protected by row-level security" in log.read_text()


def test_web_process_ends_with_the_granian_that_started_it(config: dict[str, Any], tmp_path: Path) -> None:
    """A killed supervisor would leave a process that serves old code on the same port as its successor."""
    server = web_server.start(config, tmp_path / "log", SERVER="granian")
    web_server.wait_until_served(server, tmp_path / "log")
    children = web_server.process_of(server).children()
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(children, MANY_SECONDS)
    assert not alive


def test_granian_that_is_stopped_while_it_starts_ends(config: dict[str, Any], tmp_path: Path) -> None:
    """A process that loads the application has no handler of its own yet."""
    started = web_server.start(config, tmp_path / "log", SERVER="granian")
    deadline = time.monotonic() + MANY_SECONDS
    while not web_server.process_of(started).children():
        assert time.monotonic() < deadline
    [child] = web_server.process_of(started).children()
    started.process.terminate()
    assert started.process.wait(MANY_SECONDS) == 0
    assert not child.is_running()
