"""`flask usage rebuild`: reports and corrects drifted rollups within the selection."""

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
from tests.support.usage import UsageOrganization, sign_up_organization


@pytest.fixture
def acme(app: Flask, client: FlaskClient) -> Any:
    organization = sign_up_organization(client)
    with app.app_context():
        organization.open_period(clock.now())
        organization.use(3)
        rollups.rebuild_rollups()
        yield organization


def rebuild(app: Flask, *options: str) -> dict[str, Any]:
    result = app.test_cli_runner().invoke(args=["usage", "rebuild", "--json", *options])
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def add_drift(by: int = 1) -> None:
    with tenancy.system_session("usage.roll_up") as session:
        session.execute(sa.text("UPDATE usage_rollups SET quantity = quantity + :by"), {"by": by})


def quantity(organization: UsageOrganization) -> int:
    with tenancy.tenant_session(organization.id) as session:
        return int(session.scalar(sa.text("SELECT sum(quantity) FROM usage_rollups")))


def test_correct_rollups_have_no_differences(app: Flask, acme: UsageOrganization) -> None:
    data = rebuild(app)
    assert (data["rows"], data["differences"]) == (1, 0)


@pytest.mark.parametrize("selection", ["all", "organization", "since"])
def test_drifted_rollups_are_reported_and_corrected(app: Flask, acme: UsageOrganization, selection: str) -> None:
    add_drift()
    earlier = clock.format_rfc3339(clock.now() - timedelta(hours=2))
    options = {
        "all": [],
        "organization": ["--organization", ids.format_id("org", acme.id)],
        "since": ["--since", earlier],
    }
    assert rebuild(app, *options[selection])["differences"] == 1
    assert quantity(acme) == 3
    assert rebuild(app, *options[selection])["differences"] == 0


def test_rollups_outside_the_selection_are_unchanged(app: Flask, client: FlaskClient, acme: UsageOrganization) -> None:
    other = sign_up_organization(client, "Carol & Co", "carol@carol.example")
    add_drift()
    assert rebuild(app, "--organization", ids.format_id("org", other.id))["differences"] == 0
    assert rebuild(app, "--since", clock.format_rfc3339(clock.now() + timedelta(hours=2)))["rows"] == 0
    assert quantity(acme) == 4


def test_usage_counted_by_a_rebuild_is_not_rolled_up_again(app: Flask, acme: UsageOrganization) -> None:
    acme.use(5)
    rebuild(app, "--organization", ids.format_id("org", acme.id))
    for _ in range(2):
        rollups.roll_up()
    rebuild(app)
    assert quantity(acme) == 8


def test_rebuild_is_in_the_audit_log(app: Flask, acme: UsageOrganization) -> None:
    rebuild(app, "--organization", ids.format_id("org", acme.id))
    with tenancy.tenant_session(acme.id) as session:
        [row] = session.execute(
            sa.text("SELECT actor_type, data FROM audit_events WHERE action = 'usage.rebuilt'")
        ).all()
    assert (row.actor_type, row.data["rows"]) == ("system", 1)
