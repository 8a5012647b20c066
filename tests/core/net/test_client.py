"""Webhooks go to public addresses only, whatever they are called; and nobody on the other side can hold us up."""

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from saas_api.core.net import client, vetting
from saas_api.core.net.client import DeadlineExceeded, HttpResponse
from saas_api.core.net.vetting import AddressNotAllowed, ConnectionFailed
from tests.support.listeners import Kept, Listener, certificate

LOOPBACK = ("127.0.0.0/8", "::1/128")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Connections of one test are not asked in another."""
    yield
    for waiting in client._idle.connections.values():
        for connection in waiting:
            connection.close()
    client._idle.connections.clear()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(answer: Callable[[socket.socket], None] = lambda _: None) -> Listener:
        made.append(Listener(answer))
        return made[-1]

    yield make
    for listener in made:
        listener.server.close()


def send(url: str, **options: Any) -> HttpResponse:
    return client.post_once(url, b"{}", {"content-type": "application/json"}, **{"allowed": LOOPBACK, **options})


def request_of(connection: socket.socket) -> bytes:
    """What the sender said, to the end of a body of two bytes."""
    said = b""
    while b"\r\n\r\n{}" not in said:
        more = connection.recv(4096)
        if not more:
            return said
        said += more
    return said


def test_a_name_that_nobody_knows_yet_is_no_reason_to_refuse_it() -> None:
    vetting.validate_url("https://nobody-knows.invalid/hook")
    with pytest.raises(ConnectionFailed):
        client.post_once("https://nobody-knows.invalid/hook", b"{}", {})


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let a name lead to other addresses with every question, the last ones from then on."""
    left = list(answers)

    def resolve(_host: str, port: int, **_: Any) -> list[Any]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("saas_api.core.net.vetting.socket.getaddrinfo", resolve)


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(AddressNotAllowed):
        vetting.validate_url("https://mixed.example/")


def test_a_name_that_turned_private_after_it_was_checked_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]
) -> None:
    listener = listen()
    names(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    vetting.validate_url("https://rebound.example/")
    with pytest.raises(AddressNotAllowed):
        client.post_once(f"https://rebound.example:{listener.port}/", b"{}", {})
    assert listener.connections == 0


def test_the_connection_goes_to_the_address_that_was_vetted(
    monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]
) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        seen.append(request_of(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    listener = listen(answer)
    names(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    assert send(f"http://named.example:{listener.port}/hook?a=1").status == 204
    assert b"POST /hook?a=1 HTTP/1.1\r\n" in seen[0]
    assert f"Host: named.example:{listener.port}".encode() in seen[0]


def test_http_and_any_port_are_for_allowed_networks_only(listen: Callable[..., Listener]) -> None:
    listener = listen()
    vetting.validate_url(listener.url, LOOPBACK)
    with pytest.raises(AddressNotAllowed):
        vetting.validate_url(listener.url, ("10.0.0.0/8",))


def test_a_redirect_is_an_answer_and_is_not_followed(listen: Callable[..., Listener]) -> None:
    elsewhere = listen()

    def answer(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode())

    assert send(listen(answer).url).status == 302
    assert elsewhere.connections == 0


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]
) -> None:
    proxy = listen()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)

    def answer(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    assert send(listen(answer).url).body == b"ok"
    assert proxy.connections == 0


def drip(prefix: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(prefix)
        while True:
            connection.sendall(piece)
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"", b""),
        drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["silence", "headers", "body", "chunks"],
)
def test_an_answer_that_drips_is_cut_at_the_deadline(
    answer: Callable[[socket.socket], None], listen: Callable[..., Listener]
) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        send(listen(answer).url, deadline=0.5)
    assert time.monotonic() - started < 2


def test_a_handshake_that_drips_is_cut_at_the_deadline(listen: Callable[..., Listener]) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")
        while True:
            connection.sendall(b"\x00")
            time.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        send(listen(answer).url.replace("http:", "https:"), deadline=0.5)
    assert time.monotonic() - started < 2


def test_an_endless_answer_is_read_no_further_than_wanted(listen: Callable[..., Listener]) -> None:
    def answer(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"a" * 65_536)

    reply = send(listen(answer).url, max_response=1000)
    assert (reply.status, len(reply.body)) == (200, 1000)


def test_nobody_at_home_and_a_cut_connection_are_unreachable(listen: Callable[..., Listener]) -> None:
    listener = listen(request_of)
    with pytest.raises(ConnectionFailed):
        send(listener.url)
    listener.server.close()
    with pytest.raises(ConnectionFailed):
        send(listener.url)


@pytest.fixture
def keeper() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kept) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_kept_connection_is_used_again_and_replaced_when_it_is_dead(
    keeper: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[client._Connection] = []
    connect = client._Connection.connect

    def count(connection: client._Connection) -> None:
        made.append(connection)
        connect(connection)

    monkeypatch.setattr(client._Connection, "connect", count)
    url = f"http://127.0.0.1:{keeper.server_address[1]}/"
    assert [send(url).status for _ in range(3)] == [200, 200, 200]
    assert len(made) == 1
    made[0].sock.shutdown(socket.SHUT_RDWR)
    assert send(url).status == 200
    assert len(made) == 2


def test_a_kept_connection_is_given_up_when_its_vetting_is_old(
    keeper: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{keeper.server_address[1]}/"
    send(url)
    monkeypatch.setattr(client, "IDLE_SECONDS", 0.0)
    names(monkeypatch, ["10.0.0.1"])
    with pytest.raises(AddressNotAllowed):
        send(url)


def test_a_kept_connection_that_nobody_comes_back_for_is_closed(
    keeper: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = keeper.server_address[1]
    send(f"http://127.0.0.1:{port}/")
    [[left]] = client._idle.connections.values()
    monkeypatch.setattr(client._idle, "cleared_at", time.monotonic() - 31)
    left.created_at -= 31
    send(f"http://localhost:{port}/")
    assert left.sock is None
    assert [key[1] for key in client._idle.connections] == ["localhost"]


def test_tls_is_checked_for_the_name_that_was_asked_for(
    keeper: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert, key)
    keeper.socket = server_side.wrap_socket(keeper.socket, server_side=True)
    port = keeper.server_address[1]
    with pytest.raises(ConnectionFailed, match="certificate is not valid"):
        send(f"https://localhost:{port}/")
    monkeypatch.setattr(client, "_tls", ssl.create_default_context(cafile=str(cert)))
    assert send(f"https://localhost:{port}/").status == 200
    with pytest.raises(ConnectionFailed, match="certificate is not valid"):
        send(f"https://127.0.0.1:{port}/")
