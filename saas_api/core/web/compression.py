"""Compression of responses that are text: Zstandard or gzip, as the client accepts it.

A response to a browser that another site sent here with cookies stays as it is. Whoever chooses the input of a page
and sees how long its compressed form is can guess secrets beside that input (BREACH), and such requests are the only
ones that a stranger can make a visitor's browser send.
"""

import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal

from flask import Flask, Response, request

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Encoding = Literal["zstd", "gzip"]
ENCODINGS: tuple[Encoding, ...] = ("zstd", "gzip")
"""The preferred one first, among those that a client likes equally."""
MIN_BYTES = 1_024
"""Shorter bodies gain less than their headers cost; the length of a streamed one is not known."""
_GZIP_LEVEL, _ZSTD_LEVEL = 5, 3
_STORED_GZIP_LEVEL, _STORED_ZSTD_LEVEL = 9, 12
_GZIP_HEADER = zlib.MAX_WBITS | 16
_TEXT_TYPES = frozenset(("application/json", "application/javascript", "application/xml"))
_OWN_VISITS = ("same-origin", "none")


def init_app(app: Flask) -> None:
    """Compress the responses of an application; hooks that were registered before see the compressed body."""
    app.after_request(compress_response)


def compress_response(response: Response) -> Response:
    """Compress the body of a response when it is text, the client accepts it, and no stranger could measure it."""
    encoding = negotiate(response)
    if encoding is None:
        return response
    if response.is_streamed:
        pieces = response.iter_encoded()
        response.call_on_close(getattr(response.response, "close", lambda: None))
        response.response = _zstd_pieces(pieces) if encoding == "zstd" else _gzip_pieces(pieces)
        response.direct_passthrough = False  # or werkzeug closes nothing, not even the file that is compressed
        response.headers.pop("Content-Length", None)
    else:
        response.set_data(compress(response.get_data(), encoding))
    mark_compressed(response, encoding)
    return response


def negotiate(response: Response) -> Encoding | None:
    """The encoding to compress a response with, or None to leave it as it is; names in Vary what decides."""
    length = response.content_length
    if (length is not None and length < MIN_BYTES) or not _is_compressible(response):
        return None
    response.vary.add("Accept-Encoding")
    accepted = request.accept_encodings
    encoding = max(ENCODINGS, key=accepted.quality)
    return None if not accepted.quality(encoding) or _is_sent_by_a_stranger() else encoding


def mark_compressed(response: Response, encoding: Encoding) -> None:
    """Say in the headers that the body is compressed; it is another representation, so a strong ETag becomes weak."""
    response.headers["Content-Encoding"] = encoding
    response.headers.pop("Accept-Ranges", None)
    etag, is_weak = response.get_etag()
    if etag is not None and not is_weak:
        response.set_etag(etag, weak=True)


def compress(body: bytes, encoding: Encoding, *, is_stored: bool = False) -> bytes:
    """Compress a whole body.

    is_stored: it is sent many times, so a smaller result is worth more time
    """
    if encoding == "zstd":
        return zstd.compress(body, _STORED_ZSTD_LEVEL if is_stored else _ZSTD_LEVEL)
    return gzip.compress(body, _STORED_GZIP_LEVEL if is_stored else _GZIP_LEVEL, mtime=0)


def _zstd_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Compress a stream; the client can read each piece as soon as it has it."""
    compressor = zstd.ZstdCompressor(level=_ZSTD_LEVEL)
    for piece in pieces:
        yield compressor.compress(piece, compressor.FLUSH_BLOCK)
    yield compressor.flush()


def _gzip_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same with gzip."""
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_HEADER)
    for piece in pieces:
        yield compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


def _is_compressible(response: Response) -> bool:
    """Whether a response has a body of text that nothing has encoded yet and that may be changed on its way."""
    media_type = response.mimetype or ""
    is_text = media_type.startswith("text/") or media_type in _TEXT_TYPES or media_type.endswith(("+json", "+xml"))
    return (
        is_text
        and media_type != "text/event-stream"  # its events would wait in the compressor and in proxies
        and response.status_code not in (204, 206, 304)
        and "Content-Encoding" not in response.headers
        and "no-transform" not in response.headers.get("Cache-Control", "")
    )


def _is_sent_by_a_stranger() -> bool:
    """Whether another site may have made the browser send this request with the visitor's cookies."""
    headers = request.headers
    return "Cookie" in headers and headers.get("Sec-Fetch-Site") not in _OWN_VISITS
