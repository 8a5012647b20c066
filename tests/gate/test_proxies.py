"""Whose address counts: as many hops of X-Forwarded-For as there are proxies, and never one more."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core.db.engine import db
from tests.support.gate import LIST, Headers, make_key, sign_up

OFFICE, FORGED, PROXY = "203.0.113.7", "198.51.100.66", "10.9.8.7"
Behind = Callable[[int], FlaskClient]


@pytest.fixture(scope="module")
def behind(app: Flask, config: dict[str, Any]) -> Iterator[Behind]:
    """A caller of an application behind that many proxies; each application is made once."""
    made: dict[int, Flask] = {}

    def build(hops: int) -> FlaskClient:
        if hops not in made:
            made[hops] = create_app({**config, "TRUSTED_PROXIES": hops})
        return made[hops].test_client()

    yield build
    for each in made.values():
        with each.app_context():
            db.engine.dispose()


@pytest.fixture
def key(client: FlaskClient) -> Headers:
    """A key for the office, over IPv4 and IPv6, and for nowhere else."""
    return make_key(client, sign_up(client), allowed_ips=["203.0.113.0/24", "2001:db8::/32"])[1]


def verdict(client: FlaskClient, key: Headers, peer: str, forwarded: str | None) -> str:
    headers = key if forwarded is None else {**key, "X-Forwarded-For": forwarded}
    answer = client.get(LIST, headers=headers, environ_base={"REMOTE_ADDR": peer})
    return "OK" if answer.status_code == 200 else str(answer.json["error"]["code"])


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
def test_only_the_hops_that_are_ours_say_where_a_call_comes_from(
    behind: Behind, key: Headers, hops: int, peer: str, forwarded: str | None, expected: str
) -> None:
    assert verdict(behind(hops), key, peer, forwarded) == expected


@pytest.mark.parametrize("garbage", ["unknown", "203.0.113.7:80", "203.0.113", "<script>", "٢٠٣.0.113.7"])
def test_an_address_that_is_none_is_not_allowed(behind: Behind, key: Headers, garbage: str) -> None:
    assert verdict(behind(1), key, PROXY, garbage.encode().decode("latin-1")) == NOT_ALLOWED


def test_a_key_without_networks_works_from_anywhere_even_unknown(behind: Behind, client: FlaskClient) -> None:
    _, open_key = make_key(client, sign_up(client))
    assert verdict(behind(1), open_key, PROXY, "unknown") == "OK"


def test_the_log_of_acts_shows_the_callers_address_and_not_a_forged_one(
    behind: Behind, client: FlaskClient, superuser: Any
) -> None:
    person = sign_up(client)
    told = {**person, "X-Forwarded-For": f"{FORGED}, {OFFICE}"}
    made = behind(1).post("/api/v1/keys", json={"name": "k"}, headers=told, environ_base={"REMOTE_ADDR": PROXY})
    assert made.status_code == 201
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT host(ip) FROM audit_events WHERE action = 'api_key.created'")
        assert cursor.fetchall() == [(OFFICE,)]


@pytest.mark.parametrize(("hops", "is_told"), [(0, False), (1, True)])
def test_https_is_believed_of_our_own_proxies_only(behind: Behind, hops: int, is_told: bool) -> None:
    answer = behind(hops).get("/healthz", headers={"X-Forwarded-Proto": "https"})
    assert ("Strict-Transport-Security" in answer.headers) == is_told
