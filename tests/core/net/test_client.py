"""Webhooks go to public addresses only, and a server cannot delay them beyond the deadline."""

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from saas_api.core.net import client, vetting
from saas_api.core.net.client import DeadlineExceeded, HttpResponse
from saas_api.core.net.vetting import AddressNotAllowed, ConnectionFailed
from tests.support.certificates import create_certificate
from tests.support.http_receiver import run_receiver, wait_until
from tests.support.listeners import KeepAliveHandler, Listener

LOOPBACK = ("127.0.0.0/8", "::1/128")


@pytest.fixture(autouse=True)
def no_idle_connections() -> Iterator[None]:
    """Closes idle connections, so that no test uses those of another."""
    yield
    for idle in client._idle.connections.values():
        for connection in idle:
            connection.close()
    client._idle.connections.clear()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    listeners: list[Listener] = []

    def make(respond: Callable[[socket.socket], None] = lambda _: None) -> Listener:
        listeners.append(Listener(respond))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.server.close()


def send(url: str, **options: Any) -> HttpResponse:
    return client.post_once(url, b"{}", {"content-type": "application/json"}, **{"allowed": LOOPBACK, **options})


def read_request(connection: socket.socket) -> bytes:
    """The bytes of a request whose body has two bytes."""
    data = b""
    while b"\r\n\r\n{}" not in data:
        chunk = connection.recv(4096)
        if not chunk:
            return data
        data += chunk
    return data


def test_unresolvable_host_is_valid_and_cannot_be_connected_to() -> None:
    vetting.validate_url("https://unknown.invalid/hook")
    with pytest.raises(ConnectionFailed):
        client.post_once("https://unknown.invalid/hook", b"{}", {})


def resolve_to(monkeypatch: pytest.MonkeyPatch, *responses: list[str]) -> None:
    """Resolve every host to the given addresses, the last ones repeatedly."""
    remaining = list(responses)

    def resolve(_host: str, port: int, **_: Any) -> list[Any]:
        addresses = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("saas_api.core.net.vetting.socket.getaddrinfo", resolve)


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(AddressNotAllowed):
        vetting.validate_url("https://mixed.example/")


def test_host_that_became_private_after_validation_is_refused(
    monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]
) -> None:
    listener = listen()
    resolve_to(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    vetting.validate_url("https://rebound.example/")
    with pytest.raises(AddressNotAllowed):
        client.post_once(f"https://rebound.example:{listener.port}/", b"{}", {})
    assert listener.connections == 0


def test_connection_uses_the_vetted_address(monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]) -> None:
    requests: list[bytes] = []

    def respond(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    listener = listen(respond)
    resolve_to(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    assert send(f"http://named.example:{listener.port}/hook?a=1").status == 204
    assert b"POST /hook?a=1 HTTP/1.1\r\n" in requests[0]
    assert f"Host: named.example:{listener.port}".encode() in requests[0]


def test_http_and_other_ports_need_an_allowed_network(listen: Callable[..., Listener]) -> None:
    listener = listen()
    vetting.validate_url(listener.url, LOOPBACK)
    with pytest.raises(AddressNotAllowed):
        vetting.validate_url(listener.url, ("10.0.0.0/8",))


def test_redirect_is_returned_and_not_followed(listen: Callable[..., Listener]) -> None:
    target = listen()

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {target.url}\r\nContent-Length: 0\r\n\r\n".encode())

    assert send(listen(respond).url).status == 302
    assert target.connections == 0


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]) -> None:
    proxy = listen()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)

    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    assert send(listen(respond).url).body == b"ok"
    assert proxy.connections == 0


def slow_response(prefix: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(prefix)
        while True:
            connection.sendall(piece)
            time.sleep(0.05)

    return respond


@pytest.mark.parametrize(
    "respond",
    [
        slow_response(b"", b""),
        slow_response(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        slow_response(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        slow_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["silence", "headers", "body", "chunks"],
)
def test_slow_response_is_aborted_at_the_deadline(
    respond: Callable[[socket.socket], None], listen: Callable[..., Listener]
) -> None:
    with pytest.raises(DeadlineExceeded):
        send(listen(respond).url, deadline=0.5)


def test_slow_tls_handshake_is_aborted_at_the_deadline(listen: Callable[..., Listener]) -> None:
    def respond(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")
        while True:
            connection.sendall(b"\x00")
            time.sleep(0.05)

    with pytest.raises(DeadlineExceeded):
        send(listen(respond).url.replace("http:", "https:"), deadline=0.5)


def test_endless_response_is_read_up_to_the_maximum(listen: Callable[..., Listener]) -> None:
    def respond(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"a" * 65_536)

    response = send(listen(respond).url, max_response=1000)
    assert (response.status, len(response.body)) == (200, 1000)


def test_refused_and_closed_connections_are_connection_failures(listen: Callable[..., Listener]) -> None:
    listener = listen(read_request)
    with pytest.raises(ConnectionFailed):
        send(listener.url)
    listener.server.close()
    with pytest.raises(ConnectionFailed):
        send(listener.url)


@pytest.fixture
def keep_alive_server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), KeepAliveHandler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[client._Connection]:
    """The connections that were opened, in their order."""
    connections: list[client._Connection] = []
    connect = client._Connection.connect

    def count(connection: client._Connection) -> None:
        connections.append(connection)
        connect(connection)

    monkeypatch.setattr(client._Connection, "connect", count)
    return connections


def test_idle_connection_is_reused_and_replaced_when_closed(
    keep_alive_server: http.server.ThreadingHTTPServer, opened: list[client._Connection]
) -> None:
    url = f"http://127.0.0.1:{keep_alive_server.server_address[1]}/"
    assert [send(url).status for _ in range(3)] == [200, 200, 200]
    assert len(opened) == 1
    opened[0].sock.shutdown(socket.SHUT_RDWR)
    assert send(url).status == 200
    assert len(opened) == 2


def test_as_many_connections_stay_idle_as_were_used_at_once(opened: list[client._Connection]) -> None:
    """F10: four stayed, so a receiver of ten requests at a time saw a new connection for most of them."""
    with run_receiver(is_holding=True) as receiver, ThreadPoolExecutor(10) as pool:
        headers = {"webhook-id": "evt_1"}
        for _ in range(2):
            sent = [pool.submit(client.post_once, receiver.url, b"{}", headers, allowed=LOOPBACK) for _ in range(10)]
            wait_until(lambda: receiver.at_once == 10)
            receiver.release()
            assert [response.result().status for response in sent] == [204] * 10
            receiver.released.clear()
    assert len(opened) == 10


def test_expired_idle_connection_is_vetted_again(
    keep_alive_server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{keep_alive_server.server_address[1]}/"
    send(url)
    monkeypatch.setattr(client, "IDLE_SECONDS", 0.0)
    resolve_to(monkeypatch, ["10.0.0.1"])
    with pytest.raises(AddressNotAllowed):
        send(url)


def test_expired_idle_connections_are_closed(
    keep_alive_server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = keep_alive_server.server_address[1]
    send(f"http://127.0.0.1:{port}/")
    [[connection]] = client._idle.connections.values()
    monkeypatch.setattr(client._idle, "cleared_at", time.monotonic() - 31)
    connection.created_at -= 31
    send(f"http://localhost:{port}/")
    assert connection.sock is None
    assert [key[1] for key in client._idle.connections] == ["localhost"]


def test_certificate_is_verified_for_the_requested_host(
    keep_alive_server: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = create_certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert, key)
    keep_alive_server.socket = server_side.wrap_socket(keep_alive_server.socket, server_side=True)
    port = keep_alive_server.server_address[1]
    with pytest.raises(ConnectionFailed, match="certificate is not valid"):
        send(f"https://localhost:{port}/")
    monkeypatch.setattr(client, "_tls", ssl.create_default_context(cafile=str(cert)))
    assert send(f"https://localhost:{port}/").status == 200
    with pytest.raises(ConnectionFailed, match="certificate is not valid"):
        send(f"https://127.0.0.1:{port}/")
