"""The files that pages load: addressed by their content, so that a browser asks once a year."""

import functools
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from importlib.resources import files

from flask import Response, request

from saas_api.core.access import public
from saas_api.core.errors import NotFound

PLACES = {
    "app.css": "saas_api/static/app.css",
    "app.js": "saas_api/static/app.js",
    "favicon.svg": "saas_api/static/favicon.svg",
    "htmx.min.js": "js_lib_htmx/static/htmx/htmx.min.js",
}
_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """A file, as it is and gzipped.

    version: 12 hex digits of its SHA-256
    """

    body: bytes
    packed: bytes
    version: str
    media_type: str


def address(name: str) -> str:
    """Where a page finds a file; another content has another address."""
    return f"/static/{name}?v={_asset(name).version}"


@public
def serve(name: str) -> Response:
    """Give a file, packed for who takes it."""
    if name not in PLACES:
        raise NotFound
    asset = _asset(name)
    response = Response(asset.body, mimetype=asset.media_type)
    if request.accept_encodings.quality("gzip"):
        response.set_data(asset.packed)
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    is_named = request.args.get("v") == asset.version
    response.headers["Cache-Control"] = _YEAR if is_named else "no-cache"
    return response


@functools.cache
def _asset(name: str) -> Asset:
    package, _, path = PLACES[name].partition("/")
    body = files(package).joinpath(path).read_bytes()
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Asset(body, gzip.compress(body, 9, mtime=0), hashlib.sha256(body).hexdigest()[:12], kind)
