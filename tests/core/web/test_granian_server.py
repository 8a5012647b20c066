"""The application as granian calls it: whole requests, whole responses, and what a trusted proxy says."""

import io
from typing import Any

import pytest
from flask import Flask, Response, request

from saas_api.core.web import serving
from saas_api.core.web.granian_server import BufferedApplication

PROXY, STRANGER = "192.0.2.1", "198.51.100.1"


@pytest.fixture(scope="module")
def echo() -> BufferedApplication:
    """An application that answers with what it was told about the request."""
    app = Flask("echo")

    @app.post("/")
    def show() -> Response:
        return Response(f"{request.scheme} {request.remote_addr} {request.get_data(as_text=True)}")

    @app.get("/large")
    def show_large() -> Response:
        return Response(b"x" * (serving.RESPONSE_SPOOL_BYTES + 1))

    return BufferedApplication(app, [PROXY])


def call(application: BufferedApplication, path: str = "/", body: bytes = b"", **environ: str) -> tuple[Any, bytes]:
    """Headers and body of the response, from what granian hands over."""
    answers: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]]) -> None:
        answers.append((status, headers))

    pieces = application(
        {
            "REQUEST_METHOD": "POST" if body else "GET",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": STRANGER,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.url_scheme": "http",
            **environ,
        },
        start,
    )
    return answers[0], b"".join(pieces)


@pytest.mark.parametrize(("peer", "scheme"), [(PROXY, b"https"), (STRANGER, b"http")])
def test_scheme_is_taken_from_a_trusted_proxy_only(echo: BufferedApplication, peer: str, scheme: bytes) -> None:
    _, body = call(echo, body=b"a", REMOTE_ADDR=peer, HTTP_X_FORWARDED_PROTO="https")
    assert body == scheme + f" {peer} a".encode()


def test_ipv4_address_of_a_dual_stack_socket_is_unwrapped(echo: BufferedApplication) -> None:
    _, body = call(echo, body=b"a", REMOTE_ADDR=f"::ffff:{PROXY}", HTTP_X_FORWARDED_PROTO="https")
    assert body == f"https {PROXY} a".encode()


def test_small_response_is_handed_over_at_once_and_a_large_one_in_pieces(echo: BufferedApplication) -> None:
    """granian copies a list without keeping a thread; what does not fit into memory is read as the client takes it."""
    (status, headers), body = call(echo, "/large")
    assert (status, len(body)) == ("200 OK", serving.RESPONSE_SPOOL_BYTES + 1)
    assert ("Server", "saas-api") in headers
