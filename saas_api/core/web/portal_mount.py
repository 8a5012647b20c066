"""The customer portal shows pages of the dashboard below its own root, and other sites may embed them.

A request for /portal/dashboard/... is served by the view of /dashboard/..., with /portal as the root of the
application, so that every URL that the page builds stays in the portal. No other page of the product is reachable
below that root, and the cookies of the portal are sent to it alone.
"""

from collections.abc import MutableMapping, Sequence
from typing import Any

from flask import current_app, g, request, url_for

ROOT = "/portal"
_MOUNTED = "/dashboard"


def mount(environ: MutableMapping[str, Any]) -> None:
    """Lead a request for a page of the dashboard in the portal to its view."""
    path = environ.get("PATH_INFO", "")
    inner = path.removeprefix(ROOT)
    if path != inner and (inner == _MOUNTED or inner.startswith(f"{_MOUNTED}/")):
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = environ.get("SCRIPT_NAME", "") + ROOT, inner


def is_portal_request() -> bool:
    """Whether the current request is for a page of the portal."""
    return ROOT in (request.script_root, request.path) or request.path.startswith(f"{ROOT}/")


def page_url(endpoint: str) -> str:
    """URL of a page of the dashboard in the portal."""
    path = url_for(endpoint)
    return path if request.script_root == ROOT else f"{ROOT}{path}"


def cookie_name(name: str) -> str:
    """Name of a cookie of the portal."""
    return f"__Secure-portal-{name}" if current_app.config["SESSION_COOKIE_SECURE"] else f"portal-{name}"


def has_embeddable_cookies() -> bool:
    """Whether cookies of this response are sent in a frame of another site; browsers ask for https then."""
    return bool(embedding_origins()) and bool(current_app.config["SESSION_COOKIE_SECURE"])


def allow_embedding(origins: Sequence[str]) -> None:
    """Let pages of some origins embed the response of this request."""
    g.embedding_origins = tuple(origins)


def embedding_origins() -> Sequence[str]:
    """The origins whose pages may embed the response of this request; none by default."""
    origins: Sequence[str] = g.get("embedding_origins", ())
    return origins
