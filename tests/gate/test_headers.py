"""Headers of every kind of response, and the origins that may read them."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.web import compression
from tests.support.accounts import make_key, sign_up
from tests.support.messages import LIST
from tests.support.rate_limits import stay_within_a_minute

SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}
DATA = {**SAFETY, "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Vary": "Origin"}
PAGE = {
    **SAFETY,
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
VARIABLE = {"Content-Type", "Content-Length", "X-Request-Id", "Allow", "WWW-Authenticate", "Retry-After"}
ORIGIN = "https://app.example"


def constant_headers(response: Any) -> dict[str, str]:
    """Headers, without those that depend on the single response."""
    names = [name for name, _ in response.headers]
    assert len(names) == len(set(names)), "a header is sent twice"
    return {name: value for name, value in response.headers.items() if name not in VARIABLE}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/api/v1/billing/plans", {}, 200),
        ("POST", "/api/v1/auth/login", {"data": b"{", "content_type": "application/json"}, 400),
        ("GET", LIST, {}, 401),
        ("GET", "/api/v1/nothing", {}, 404),
        ("DELETE", "/api/v1/billing/plans", {}, 405),
        ("POST", "/api/v1/auth/login", {"data": b"x" * 70_000, "content_type": "application/json"}, 413),
        ("POST", "/api/v1/auth/login", {"data": b"x" * 10_000_000, "content_type": "application/json"}, 413),
        ("POST", "/api/v1/auth/login", {"data": b"x", "content_type": "text/plain"}, 415),
        ("POST", "/api/v1/auth/login", {"json": {}}, 422),
    ],
)
def test_api_responses_have_the_same_headers(
    client: FlaskClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = client.open(path, method=method, **options)
    assert (response.status_code, response.mimetype) == (status, "application/json")
    vary = "Origin, Accept-Encoding" if len(response.data) >= compression.MIN_BYTES else "Origin"
    assert constant_headers(response) == {**DATA, "Vary": vary}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/docs/", 200), ("POST", "/docs/", 405)]
)
def test_pages_have_the_same_headers(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert (response.status_code, response.mimetype) == (status, "text/html")
    assert {**constant_headers(response), "Vary": ""} == {**PAGE, "Vary": ""}  # an error page depends on the session


def test_crash_and_rate_limit_responses_have_the_headers(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(client, sign_up(client), rate_limit_per_minute=1)
    stay_within_a_minute(5)
    assert client.get(LIST, headers=key).status_code == 200
    full = client.get(LIST, headers=key)
    assert full.status_code == 429
    assert {name: value for name, value in constant_headers(full).items() if "ratelimit" not in name.lower()} == DATA

    def crash() -> None:
        raise RuntimeError("inside")

    crash.__access__ = app.view_functions["ops.healthz"].__access__  # type: ignore[attr-defined]  # as a view declares it
    monkeypatch.setitem(app.view_functions, "billing_plans.list_plans", crash)
    monkeypatch.setitem(app.config, "PROPAGATE_EXCEPTIONS", False)
    broken = client.get("/api/v1/billing/plans")
    assert broken.status_code == 500
    assert constant_headers(broken) == DATA


@pytest.mark.parametrize("path", ["/login", "/api/v1/webhooks/stripe"])
def test_compressed_form_or_event_gets_415(client: FlaskClient, path: str) -> None:
    """A14, its siblings: forms and events of providers."""
    response = client.post(path, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.headers["Accept-Encoding"]) == (415, "identity")


def test_api_neither_sets_nor_reads_cookies(client: FlaskClient) -> None:
    body = {"organization_name": "Acme", "email": "alice@acme.example", "password": "correct horse battery"}
    response = client.post("/api/v1/auth/register", json=body)
    assert response.status_code == 201
    assert "Set-Cookie" not in response.headers
    token = response.json["data"]["token"]
    for name in ("access_token", "access_token_cookie", "session", "token", "Authorization"):
        client.set_cookie(name, token)
    assert client.get(LIST).status_code == 401


def test_api_uses_the_key_and_ignores_the_cookie(client: FlaskClient) -> None:
    user = sign_up(client)
    key = make_key(client, user, scopes=["usage:read"])
    client.set_cookie("access_token_cookie", user.token)
    response = client.get(LIST, headers={"Authorization": f"Bearer {key['X-API-Key']}"})
    assert (response.status_code, response.json["error"]["code"]) == (403, "INSUFFICIENT_SCOPE")


CORS_HEADERS = {
    "Access-Control-Allow-Origin": ORIGIN,
    "Access-Control-Expose-Headers": (
        "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, "
        "X-RateLimit-Reset, Idempotency-Replayed"
    ),
}
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, X-API-Key, Content-Type, Idempotency-Key",
    "Access-Control-Max-Age": "600",
}


def cors_headers(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


def preflight(client: FlaskClient, path: str, origin: str) -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    return client.options(path, headers=headers)


def test_every_header_of_the_limits_is_exposed(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: a page of an allowed origin reads the limits as any other client."""
    monkeypatch.setitem(app.config, "CORS_ORIGINS", [ORIGIN])
    response = client.get(LIST, headers={**make_key(client, sign_up(client)), "Origin": ORIGIN})
    limits = {name for name, _ in response.headers if "ratelimit" in name.lower()}
    assert len(limits) == 5
    assert limits <= set(response.headers["Access-Control-Expose-Headers"].split(", "))


def test_allowed_origin_can_call_the_api(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "CORS_ORIGINS", [ORIGIN])
    response = preflight(client, "/api/v1/messages/send", ORIGIN)
    assert response.status_code == 200
    assert cors_headers(response) == {**CORS_HEADERS, **PREFLIGHT_HEADERS}
    for path in ("/api/v1/billing/plans", LIST, "/api/v1/nothing"):
        assert cors_headers(client.get(path, headers={"Origin": ORIGIN})) == CORS_HEADERS


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil.example",
        "https://app.example:8443",
        "https://APP.example",
        "null",
        "*",
        "",
    ],
)
def test_other_origin_cannot_call_the_api(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setitem(app.config, "CORS_ORIGINS", [ORIGIN])
    for response in (client.get("/api/v1/billing/plans", headers={"Origin": origin}), preflight(client, LIST, origin)):
        assert cors_headers(response) == {}
        assert "Origin" in response.vary


def test_cors_is_off_by_default_and_never_on_for_pages(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cors_headers(client.get("/api/v1/billing/plans", headers={"Origin": ORIGIN})) == {}
    monkeypatch.setitem(app.config, "CORS_ORIGINS", [ORIGIN])
    for path in ("/docs/", "/healthz", "/nothing"):
        assert cors_headers(client.get(path, headers={"Origin": ORIGIN})) == {}
