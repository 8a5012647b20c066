"""The client address behind proxies: only the trusted hops of X-Forwarded-For count."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core import request_context
from saas_api.core.db.engine import db
from tests.support.accounts import Headers, make_key, sign_up
from tests.support.messages import LIST

OFFICE, FORGED, PROXY = "203.0.113.7", "198.51.100.66", "10.9.8.7"
Behind = Callable[[int], FlaskClient]


@pytest.fixture(scope="module")
def behind(app: Flask, config: dict[str, Any]) -> Iterator[Behind]:
    """Builds the client of an application behind a number of proxies, one application for each number."""
    apps: dict[int, Flask] = {}

    def build(hops: int) -> FlaskClient:
        if hops not in apps:
            apps[hops] = create_app({**config, "TRUSTED_PROXIES": hops})
        return apps[hops].test_client()

    yield build
    for behind_proxies in apps.values():
        with behind_proxies.app_context():
            db.engine.dispose()


@pytest.fixture
def key(client: FlaskClient) -> Headers:
    """A key that only the office may use, over IPv4 and IPv6."""
    return make_key(client, sign_up(client), allowed_ips=["203.0.113.0/24", "2001:db8::/32"])


def verdict(client: FlaskClient, key: Headers, peer: str, forwarded: str | None) -> str:
    headers = key if forwarded is None else {**key, "X-Forwarded-For": forwarded}
    response = client.get(LIST, headers=headers, environ_base={"REMOTE_ADDR": peer})
    return "OK" if response.status_code == 200 else str(response.json["error"]["code"])


NOT_ALLOWED = "IP_NOT_ALLOWED"
CASES = [
    (0, OFFICE, None, "OK"),
    (0, "2001:db8::5", None, "OK"),
    (0, f"::ffff:{OFFICE}", None, "OK"),
    (0, FORGED, OFFICE, NOT_ALLOWED),
    (0, OFFICE, FORGED, "OK"),
    (1, PROXY, OFFICE, "OK"),
    (1, PROXY, f"{FORGED}, {OFFICE}", "OK"),
    (1, PROXY, f"{OFFICE}, {FORGED}", NOT_ALLOWED),
    (1, PROXY, f"{OFFICE}, {OFFICE}, {FORGED}", NOT_ALLOWED),
    (1, PROXY, None, NOT_ALLOWED),
    (1, PROXY, f"::ffff:{OFFICE}", "OK"),
    (2, PROXY, f"{OFFICE}, 10.0.0.1", "OK"),
    (2, PROXY, f"{FORGED}, {OFFICE}, 10.0.0.1", "OK"),
    (2, PROXY, f"{OFFICE}, {FORGED}, 10.0.0.1", NOT_ALLOWED),
    (2, PROXY, OFFICE, NOT_ALLOWED),
    (2, PROXY, None, NOT_ALLOWED),
]


@pytest.mark.parametrize(("hops", "peer", "forwarded", "expected"), CASES)
def test_client_address_comes_from_trusted_hops_only(
    behind: Behind, key: Headers, hops: int, peer: str, forwarded: str | None, expected: str
) -> None:
    assert verdict(behind(hops), key, peer, forwarded) == expected


@pytest.mark.parametrize("forwarded", ["203.0.113.7:51234", "[2001:db8::5]:51234", "[2001:db8::5]"])
def test_address_with_the_port_of_the_client_is_read(behind: Behind, key: Headers, forwarded: str) -> None:
    """A2: some balancers add the port."""
    assert verdict(behind(1), key, PROXY, forwarded) == "OK"


def test_unreadable_addresses_are_counted_by_the_address_of_the_proxy(app: Flask) -> None:
    """A2: clients with unreadable addresses do not share one bucket."""
    networks = []
    for peer in (PROXY, "10.9.8.6"):
        environ = {"REMOTE_ADDR": "unknown", "werkzeug.proxy_fix.orig": {"REMOTE_ADDR": peer}}
        with app.test_request_context(environ_overrides=environ):
            networks.append(request_context.client_network())
    assert networks == [PROXY, "10.9.8.6"]


@pytest.mark.parametrize(
    "garbage", ["unknown", "203.0.113.7:80:80", "[203.0.113.7", "203.0.113", "<script>", "٢٠٣.0.113.7"]
)
def test_malformed_address_is_not_allowed(behind: Behind, key: Headers, garbage: str) -> None:
    assert verdict(behind(1), key, PROXY, garbage.encode().decode("latin-1")) == NOT_ALLOWED


def test_key_without_networks_works_from_any_address(behind: Behind, client: FlaskClient) -> None:
    open_key = make_key(client, sign_up(client))
    assert verdict(behind(1), open_key, PROXY, "unknown") == "OK"


def test_audit_log_has_the_client_address_and_not_a_forged_one(
    behind: Behind, client: FlaskClient, superuser: Any
) -> None:
    user = sign_up(client)
    headers = {**user.headers, "X-Forwarded-For": f"{FORGED}, {OFFICE}"}
    response = behind(1).post("/api/v1/keys", json={"name": "k"}, headers=headers, environ_base={"REMOTE_ADDR": PROXY})
    assert response.status_code == 201
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT host(ip) FROM audit_events WHERE action = 'api_key.created'")
        assert cursor.fetchall() == [(OFFICE,)]


@pytest.mark.parametrize("hops", [0, 1])
def test_forwarded_protocol_does_not_turn_hsts_on(behind: Behind, hops: int) -> None:
    """Small: HSTS follows APP_URL, not what a request says."""
    response = behind(hops).get("/healthz", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in response.headers
