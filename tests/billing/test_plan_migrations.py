"""A plan version moves an organization only when an operator says so, and a mail says what changes."""

import json
from decimal import Decimal
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import Actor
from saas_api.billing import plan_migrations, plans, subscriptions
from saas_api.billing.rating import plan_file
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import add_endpoint, published_events

pytestmark = pytest.mark.usefixtures("context")
OLGA = Actor("system", "olga")


def publish_changed(version_id: str, **changes: Any) -> str:
    """Publish a version of the same plan with changed fields; returns its id."""
    with tenancy.system_session("billing.catalogue") as session:
        document = plan_file.to_document(plans.get_plan_content(session, version_id))
    published = plans.publish_plan({**document, **changes}, OLGA).version_id
    assert published is not None
    return published


def versions(organization: BillingOrganization) -> list[tuple[str, Any]]:
    rows = organization.rows("SELECT plan_version_id, starts_at FROM subscription_segments ORDER BY seq")
    return [(row.plan_version_id, row.starts_at) for row in rows]


def base_amounts(organization: BillingOrganization) -> list[int]:
    return organization.rows(
        "SELECT v.base_amount_minor FROM subscription_segments s JOIN plan_versions v ON v.id = s.plan_version_id "
        "ORDER BY s.seq"
    )


def mails_of(organization: BillingOrganization) -> list[Any]:
    with tenancy.system_session("billing.close") as session:
        sql = "SELECT * FROM mails WHERE organization_id = :id AND template = 'plan_version_changed'"
        return list(session.execute(text(sql), {"id": organization.id}).all())


def audit_reasons(organization: BillingOrganization) -> list[str]:
    rows = organization.rows("SELECT data FROM audit_events WHERE action = 'subscription.changed' ORDER BY id")
    return [row.data["reason"] for row in rows]


def migrate(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["plans", "migrate", *arguments])


def test_published_version_moves_an_organization_neither_at_the_next_sync_nor_at_the_next_start(app: Flask) -> None:
    """B1: a version moves no organization unless the operator says so."""
    acme = create_organization(plan="starter@1")
    publish_changed("starter@1", base_amount="39.00")
    result = app.test_cli_runner().invoke(args=["billing", "sync"])
    assert result.output == "The catalogue is current.\n"
    clock.freeze_time(day(3, month=5))
    plan_migrations.sync_setting_price(OLGA)
    assert versions(acme) == [("starter@1", day(1))]


def test_dry_run_shows_the_difference_and_moves_no_organization(app: Flask) -> None:
    """B1: the operator sees the difference for each organization before."""
    acme = create_organization(plan="starter@1")
    acme.use(5_200)
    target = publish_changed("starter@1", base_amount="39.00")
    result = migrate(app, "starter@1", target, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown == {
        "organizations": [
            {
                "organization_id": ids.format_id("org", acme.id),
                "organization_name": "Acme",
                "effective_at": "2026-05-01T00:00:00.000Z",
                "before": "31.00",
                "after": "41.00",
                "difference": "10.00",
                "currency": "USD",
                "spend_cap_conflict": None,
            }
        ],
        "moved": 0,
        "dry_run": True,
    }
    assert len(versions(acme)) == 1
    assert mails_of(acme) == []


def test_migration_moves_each_organization_once_with_mail_event_and_audit_event(app: Flask) -> None:
    """B1: a move leaves a mail, an event and an audit event; a repeat moves nothing more."""
    acme = create_organization(plan="starter@1")
    other = create_organization("Other", plan="pro@1")
    target = publish_changed("starter@1", base_amount="39.00")
    first = migrate(app, "starter@1", target, "--yes")
    assert first.exit_code == 0, first.output
    assert first.stdout == "Organizations moved: 1.\n"
    assert migrate(app, "starter@1", target, "--yes").stdout == "Organizations moved: 0.\n"
    assert versions(acme) == [("starter@1", day(1)), (target, day(1, month=5))]
    assert [version for version, _ in versions(other)] == ["pro@1"]
    assert audit_reasons(acme) == [f"moved from starter@1 to {target}"]
    [mail] = mails_of(acme)
    assert mail.recipient == "alice@acme.example"
    assert "Base amount: $29.00 a month before, $39.00 from then on" in mail.text_body
    assert "May 1, 2026, 12:00 AM UTC" in mail.text_body


def test_migration_publishes_an_event_with_the_new_version(app: Flask) -> None:
    """B1: the organization's systems see the move."""
    acme = create_organization(plan="starter@1")
    add_endpoint(acme)
    target = publish_changed("starter@1", base_amount="39.00")
    assert migrate(app, "starter@1", target, "--yes", "--at", "now").exit_code == 0
    [(_, data)] = published_events(acme, "subscription.updated")
    assert (data["plan"]["version"], data["effective_at"]) == (target, clock.format_rfc3339(clock.now()))


def test_organization_with_a_scheduled_change_stays(app: Flask) -> None:
    acme = create_organization(plan="starter@1")
    with acme.transaction() as session:
        subscriptions.change_plan(session, acme.id, "free", "period_end", OLGA)
    target = publish_changed("starter@1", base_amount="39.00")
    result = migrate(app, "starter@1", target, "--yes")
    assert result.stdout == "Organizations moved: 0.\n"
    assert "stays: a change of its plan is scheduled" in result.stderr
    assert [version for version, _ in versions(acme)] == ["starter@1", "free@1"]


def test_migration_moves_one_organization_where_one_is_named(app: Flask) -> None:
    acme, other = create_organization(plan="starter@1"), create_organization("Other", plan="starter@1")
    target = publish_changed("starter@1", base_amount="39.00")
    assert migrate(app, "starter@1", target, "--yes", "--organization", ids.format_id("org", other.id)).exit_code == 0
    assert len(versions(acme)) == 1
    assert [version for version, _ in versions(other)] == ["starter@1", target]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("starter@1", "starter@9", "There is no published plan version starter@9."),
        ("nothing@1", "starter@1", "There is no published plan version nothing@1."),
        ("starter@1", "starter@1", "Name another version than the source."),
    ],
)
def test_migration_between_impossible_versions_is_refused(app: Flask, source: str, target: str, reason: str) -> None:
    result = migrate(app, source, target, "--yes")
    assert result.exit_code != 0
    assert reason in result.stderr


def test_changed_rate_moves_each_organization_to_its_own_content_and_says_so(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: the rate moves customers of an older version to that version with the new rate, by mail and audit event."""
    acme = create_organization(plan="starter@1")
    publish_changed("starter@1", base_amount="39.00")
    newcomer = create_organization("Newcomer", plan="starter@2")
    monkeypatch.setitem(app.config, "BILLING_RATE_PER_REQUEST", Decimal("0.02"))
    result = plan_migrations.sync_setting_price(OLGA)
    assert result.moved == 2
    assert plan_migrations.sync_setting_price(OLGA) == plan_migrations.SettingSync([], 0)
    assert [row.base_amount_minor for row in base_amounts(acme)] == [2900, 2900]
    assert [row.base_amount_minor for row in base_amounts(newcomer)] == [3900, 3900]
    with tenancy.system_session("billing.close") as session:
        newest = plans.get_newest_version_id(session, "starter")
        assert plans.get_versions(session, [newest])[newest].base_amount_minor == 3900
    [mail] = mails_of(acme)
    assert "Price of sms changes" in mail.text_body
    assert len(audit_reasons(acme)) == 1


def test_migration_that_stopped_halfway_moves_the_rest_at_its_repeat() -> None:
    acme, other = create_organization(plan="starter@1"), create_organization("Other", plan="starter@1")
    target = publish_changed("starter@1", base_amount="39.00")
    next(plan_migrations.migrate("starter@1", target, "period_end", OLGA))
    assert (len(versions(acme)), len(versions(other))) == (2, 1)
    assert len(list(plan_migrations.migrate("starter@1", target, "period_end", OLGA))) == 1
    assert (len(versions(acme)), len(versions(other))) == (2, 2)
    assert (len(mails_of(acme)), len(mails_of(other))) == (1, 1)
