"""Text is compressed on its way, once, and never where a stranger could measure it."""

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from flask import Flask, Response, send_file
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from saas_api.core.web import compression, pages
from saas_api.core.web.compression import MIN_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LONG = "one line of text\n" * 200
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstd.decompress}
closed: list[str] = []
opened: list[io.BytesIO] = []


def rows() -> Iterator[Sequence[Any]]:
    try:
        for number in range(20_000):
            yield [number, "text"]
    finally:
        closed.append("rows")


def send_open_file() -> Response:
    opened.append(io.BytesIO(LONG.encode()))
    return send_file(opened[-1], mimetype="text/css")


VIEWS: dict[str, Callable[[], Response]] = {
    "/long": lambda: Response(LONG, mimetype="text/html"),
    "/json": lambda: Response(f'{{"a": "{"a" * MIN_BYTES}"}}', mimetype="application/json"),
    "/svg": lambda: Response("<svg>" + LONG, mimetype="image/svg+xml"),
    "/short": lambda: Response("a" * (MIN_BYTES - 1), mimetype="text/html"),
    "/png": lambda: Response(LONG, mimetype="image/png"),
    "/events": lambda: Response(iter([LONG]), mimetype="text/event-stream"),
    "/encoded": lambda: Response(LONG, mimetype="text/plain", headers={"Content-Encoding": "br"}),
    "/fixed": lambda: Response(LONG, mimetype="text/plain", headers={"Cache-Control": "no-transform"}),
    "/part": lambda: Response(LONG, 206, mimetype="text/plain"),
    "/tagged": lambda: Response(LONG, mimetype="text/plain", headers={"ETag": '"v1"', "Accept-Ranges": "bytes"}),
    "/csv": lambda: pages.csv_response("rows.csv", ["number", "text"], rows()),
    "/file": send_open_file,
    "/slow": lambda: Response(iter(["first ", "second"]), mimetype="text/csv"),
}


@pytest.fixture(scope="module")
def small_app() -> Flask:
    small = Flask("compressed")
    compression.init_app(small)
    for path, view in VIEWS.items():
        small.add_url_rule(path, path, view)
    return small


@pytest.fixture
def visitor(small_app: Flask) -> FlaskClient:
    return small_app.test_client(use_cookies=False)


def accept(visitor: FlaskClient, path: str, encoding: str, **headers: str) -> TestResponse:
    sent = {"Accept-Encoding": encoding, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return visitor.get(path, headers=sent)


@pytest.mark.parametrize("path", ["/long", "/json", "/svg"])
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_text_is_compressed(visitor: FlaskClient, path: str, encoding: str) -> None:
    plain, response = visitor.get(path), accept(visitor, path, encoding)
    assert response.headers["Content-Encoding"] == encoding
    assert DECOMPRESS[encoding](response.data) == plain.data
    assert response.content_length == len(response.data) < len(plain.data)
    assert [part.headers["Vary"] for part in (plain, response)] == ["Accept-Encoding"] * 2, "caches keep both"


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("*", "zstd"),
        ("zstd;q=0, gzip;q=0", None),
        ("br", None),
        ("identity", None),
        ("", None),
    ],
)
def test_client_chooses_the_encoding(visitor: FlaskClient, accepted: str, encoding: str | None) -> None:
    assert accept(visitor, "/long", accepted).headers.get("Content-Encoding") == encoding


@pytest.mark.parametrize("path", ["/short", "/png", "/events", "/fixed", "/part"])
def test_other_responses_stay_as_they_are(visitor: FlaskClient, path: str) -> None:
    response = accept(visitor, path, "zstd, gzip")
    assert "Content-Encoding" not in response.headers
    assert response.data == visitor.get(path).data


def test_compressed_response_is_not_compressed_again(visitor: FlaskClient) -> None:
    response = accept(visitor, "/encoded", "zstd, gzip")
    assert response.headers["Content-Encoding"] == "br"
    assert response.text == LONG


def test_compressed_body_has_a_weak_etag(visitor: FlaskClient) -> None:
    """A strong one promises the same bytes, which ranges are cut from."""
    assert visitor.get("/tagged").headers["ETag"] == '"v1"'
    response = accept(visitor, "/tagged", "gzip")
    assert response.headers["ETag"] == 'W/"v1"'
    assert "Accept-Ranges" not in response.headers


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_csv_is_compressed_as_it_is_read(visitor: FlaskClient, encoding: str) -> None:
    closed.clear()
    response = accept(visitor, "/csv", encoding)
    assert "Content-Length" not in response.headers
    read = list(csv.reader(io.StringIO(DECOMPRESS[encoding](response.data).decode("utf-8-sig"))))
    assert read == [["number", "text"], *([str(number), "text"] for number in range(20_000))]
    response.close()
    assert closed == ["rows"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_client_that_leaves_ends_the_stream(small_app: Flask, encoding: str) -> None:
    closed.clear()
    response = small_app.test_client().get("/csv", headers={"Accept-Encoding": encoding}, buffered=False)
    next(response.iter_encoded())
    response.close()
    assert closed == ["rows"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd", ""])
def test_file_is_closed_behind_its_response(visitor: FlaskClient, encoding: str) -> None:
    response = accept(visitor, "/file", encoding)
    body = response.data
    assert (DECOMPRESS[encoding](body) if encoding else body) == LONG.encode()
    response.close()
    assert opened[-1].closed


def test_each_piece_of_a_stream_can_be_read_at_once(visitor: FlaskClient) -> None:
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    pieces = accept(visitor, "/slow", "gzip").iter_encoded()
    assert unzip.decompress(next(pieces)) == b"first "
    unzip = zstd.ZstdDecompressor()
    pieces = accept(visitor, "/slow", "zstd").iter_encoded()
    assert unzip.decompress(next(pieces)) == b"first "


@pytest.mark.parametrize(
    ("site", "cookie", "is_compressed"),
    [
        ("same-origin", "session=1", True),
        ("none", "session=1", True),
        ("cross-site", "session=1", False),
        ("same-site", "session=1", False),
        (None, "session=1", False),
        ("cross-site", None, True),
    ],
)
def test_response_whose_length_a_stranger_could_read_is_not_compressed(
    visitor: FlaskClient, site: str | None, cookie: str | None, is_compressed: bool
) -> None:
    """BREACH: a page with a secret, opened again and again by another site with guesses of it."""
    headers = {"Sec_Fetch_Site": site, "Cookie": cookie}
    response = accept(visitor, "/long", "zstd, gzip", **{name: value for name, value in headers.items() if value})
    assert ("Content-Encoding" in response.headers) == is_compressed
    assert response.headers["Vary"] == "Accept-Encoding"


def test_documents_and_static_files_are_compressed(client: FlaskClient) -> None:
    for path in ("/api/v1/openapi.json", "/static/app.css", "/pricing"):
        plain = FlaskClient(client.application, use_cookies=False).get(path)
        for encoding, decompress in DECOMPRESS.items():
            response = FlaskClient(client.application, use_cookies=False).get(
                path, headers={"Accept-Encoding": encoding}
            )
            assert response.headers["Content-Encoding"] == encoding, path
            assert "Accept-Encoding" in response.headers["Vary"]
            if path != "/pricing":  # a visitor's page has a token of its own
                assert decompress(response.data) == plain.data
