"""`@metered`: what a view of this application uses is limited, and recorded once, together with its effect."""

from collections.abc import Iterator, Mapping
from typing import Any

import marshmallow as ma
import pytest
import sqlalchemy as sa
from flask import Blueprint
from flask.testing import FlaskClient
from marshmallow import fields

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.app import create_app
from saas_api.core.db import engine
from saas_api.core.errors import Conflict
from saas_api.core.web.app import App
from saas_api.core.web.endpoint import endpoint
from saas_api.metering.metered_endpoints import metered
from saas_api.usage import meters
from tests.support.accounts import Headers, User, make_key, sign_up
from tests.support.metering import move_to_plan, publish_meter, usage_events

PERMISSION = "messages:write"
RENAME = sa.text("UPDATE organizations SET name = 'Renamed'")


class ProbeIn(ma.Schema):
    """A number of lookups, of which some are found."""

    asked = fields.Integer(required=True)
    found = fields.Integer(required=True)


class ProbeOut(ma.Schema):
    """The number of lookups that were found."""

    found = fields.Integer()


def declare(path: str, *, is_failing: bool = False, writes: bool = False, **options: Any) -> Blueprint:
    """A blueprint with one metered view, which may write in its transaction and then fail."""
    name = path.strip("/")
    bp = Blueprint(name, f"saas_api.{name}.api")

    def probe(body: Mapping[str, Any]) -> dict[str, int]:
        if writes:
            engine.session().execute(RENAME)
        if is_failing:
            raise Conflict("It failed.")
        return {"found": body["found"]}

    probe.__module__ = f"saas_api.{name}.api"
    view = endpoint(operation_id=f"probe_{name}", tag="probe", body=ProbeIn(), returns=ProbeOut())(probe)
    bp.add_url_rule("", view_func=metered("lookups", permission=PERMISSION, **options)(view), methods=["POST"])
    return bp


BLUEPRINTS = {
    "/constant": {},
    "/asked": {"quantity": lambda body: body["asked"]},
    "/found": {"quantity": lambda _body, answer: answer["found"]},
    "/writing": {"writes": True},
    "/failing": {"writes": True, "is_failing": True},
}


@pytest.fixture(scope="module")
def probes(config: dict[str, Any]) -> Iterator[App]:
    """An application with the views of BLUEPRINTS beside its own."""
    application = create_app(config)
    for path, options in BLUEPRINTS.items():
        application.register_blueprint(declare(path, **options), url_prefix=f"/api/v1{path}")
    yield application
    with application.app_context():
        engine.dispose_connections()


@pytest.fixture
def client(app: App, probes: App) -> FlaskClient:
    publish_meter(app, dimensions=[])
    return probes.test_client()


@pytest.fixture
def acme(client: FlaskClient) -> User:
    return sign_up(client)


@pytest.fixture
def key(client: FlaskClient, acme: User) -> Headers:
    return make_key(client, acme)


def call(client: FlaskClient, key: Headers, path: str, asked: int = 5, found: int = 2, **headers: str) -> int:
    body = {"asked": asked, "found": found}
    return client.post(f"/api/v1{path}", headers={**key, **headers}, json=body).status_code


@pytest.mark.parametrize(("path", "quantity"), [("/constant", 1), ("/asked", 5), ("/found", 2), ("/writing", 1)])
def test_quantity_is_a_number_or_comes_from_the_body_or_the_answer(
    app: App, client: FlaskClient, key: Headers, path: str, quantity: int
) -> None:
    assert call(client, key, path) == 200
    assert usage_events(app, "source, meter_code, quantity::int") == [(f"{path[1:]}.probe", "lookups", quantity)]


@pytest.mark.parametrize("path", ["/constant", "/writing"])
def test_repeat_with_an_idempotency_key_counts_once(app: App, client: FlaskClient, key: Headers, path: str) -> None:
    statuses = [call(client, key, path, **{"Idempotency-Key": "order-1"}) for _ in range(3)]
    assert (statuses, len(usage_events(app))) == ([200] * 3, 1)


def test_view_that_fails_writes_and_counts_nothing(app: App, client: FlaskClient, acme: User, key: Headers) -> None:
    move_to_plan(app, acme, entitlements={"lookups_a_month": {"meter": "lookups", "limit": "1"}})
    assert [call(client, key, "/failing") for _ in range(3)] == [409] * 3
    assert usage_events(app) == []
    assert acme.call("GET", "/organization")[1]["organization"]["name"] != "Renamed"
    assert [call(client, key, "/writing") for _ in range(2)] == [200, 429]
    assert acme.call("GET", "/organization")[1]["organization"]["name"] == "Renamed"


def test_quantity_of_the_answer_counts_against_the_quota_of_the_next_call(
    app: App, client: FlaskClient, acme: User, key: Headers
) -> None:
    move_to_plan(app, acme, entitlements={"lookups_a_month": {"meter": "lookups", "limit": "10"}})
    assert [call(client, key, "/found", found=9) for _ in range(3)] == [200, 200, 429]
    assert sum(quantity for _, quantity in usage_events(app)) == 18


def test_restricted_organization_is_refused(client: FlaskClient, acme: User, key: Headers, superuser: Any) -> None:
    assert acme.call("GET", "/billing/subscription")[0] == 200  # opens the billing account
    with superuser, superuser.cursor() as cursor:
        cursor.execute("UPDATE subscriptions SET standing = 'restricted'")
    assert call(client, key, "/constant") == 402


def test_calls_of_a_test_key_are_kept_apart(app: App, client: FlaskClient, acme: User) -> None:
    assert call(client, make_key(client, acme, mode="test"), "/asked") == 200
    assert usage_events(app) == []
    assert usage_events(app, "quantity::int", "test_usage_events") == [(5,)]


def test_call_of_an_archived_meter_is_refused(app: App, client: FlaskClient, key: Headers) -> None:
    with app.app_context():
        meters.archive_meter("lookups", SYSTEM_ACTOR)
    meters._catalogue.clear()
    assert call(client, key, "/constant") == 503
    assert usage_events(app) == []


def test_permission_of_users_cannot_be_metered() -> None:
    with pytest.raises(ValueError, match="permission of users"):
        metered("lookups", permission="messages:read")
