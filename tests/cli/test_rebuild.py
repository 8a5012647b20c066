"""`flask usage rebuild`: whatever drifted is told and made right, and what was not asked for is left alone."""

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.usage import rollups
from tests.support.usage import UsageOrganization, sign_up


@pytest.fixture
def acme(app: Flask, client: FlaskClient) -> Any:
    company = sign_up(client)
    with app.app_context():
        company.open_period(clock.now())
        company.use(3)
        rollups.rebuild_rollups()
        yield company


def rebuild(app: Flask, *options: str) -> dict[str, Any]:
    done = app.test_cli_runner().invoke(args=["usage", "rebuild", "--json", *options])
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def drift(by: int = 1) -> None:
    with tenancy.system_session("usage.roll_up") as session:
        session.execute(sa.text("UPDATE usage_rollups SET quantity = quantity + :by"), {"by": by})


def quantity(company: UsageOrganization) -> int:
    with tenancy.tenant_session(company.id) as session:
        return int(session.scalar(sa.text("SELECT sum(quantity) FROM usage_rollups")))


def test_sound_rollups_differ_in_nothing(app: Flask, acme: UsageOrganization) -> None:
    found = rebuild(app)
    assert (found["rows"], found["differences"]) == (1, 0)


@pytest.mark.parametrize("way", ["all", "organization", "since"])
def test_what_drifted_is_told_and_made_right(app: Flask, acme: UsageOrganization, way: str) -> None:
    drift()
    earlier = clock.format_rfc3339(clock.now() - timedelta(hours=2))
    options = {
        "all": [],
        "organization": ["--organization", ids.format_id("org", acme.id)],
        "since": ["--since", earlier],
    }
    assert rebuild(app, *options[way])["differences"] == 1
    assert quantity(acme) == 3
    assert rebuild(app, *options[way])["differences"] == 0


def test_what_was_not_asked_for_is_left_alone(app: Flask, client: FlaskClient, acme: UsageOrganization) -> None:
    other = sign_up(client, "Carol & Co", "carol@carol.example")
    drift()
    assert rebuild(app, "--organization", ids.format_id("org", other.id))["differences"] == 0
    assert rebuild(app, "--since", clock.format_rfc3339(clock.now() + timedelta(hours=2)))["rows"] == 0
    assert quantity(acme) == 4


def test_usage_that_no_roll_up_has_counted_is_counted_once_afterwards(app: Flask, acme: UsageOrganization) -> None:
    acme.use(5)
    rebuild(app, "--organization", ids.format_id("org", acme.id))
    for _ in range(2):
        rollups.roll_up()
    rebuild(app)
    assert quantity(acme) == 8


def test_it_leaves_its_act(app: Flask, acme: UsageOrganization) -> None:
    rebuild(app, "--organization", ids.format_id("org", acme.id))
    with tenancy.tenant_session(acme.id) as session:
        [row] = session.execute(
            sa.text("SELECT actor_type, data FROM audit_events WHERE action = 'usage.rebuilt'")
        ).all()
    assert (row.actor_type, row.data["rows"]) == ("system", 1)
