"""Nightly checks: valid data pass, and every violation that is planted past the constraints is found."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts import users
from saas_api.accounts.models import Operator
from saas_api.billing import invariants, invoice_lifecycle
from saas_api.billing import jobs as billing_jobs
from saas_api.billing.invariants import INVARIANTS, CheckInProgress
from saas_api.billing.invoice_lifecycle import BillingOnHold
from saas_api.core import clock, ids
from saas_api.usage import jobs as usage_jobs
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import (
    JUNE,
    OPERATOR,
    audit_actions,
    close_periods,
    create_credit_note,
    create_invoice,
    newest_invoice,
    settle_payment,
    system_session,
)

pytestmark = pytest.mark.usefixtures("context")

Plant = Callable[[str], None]


@pytest.fixture
def plant(superuser: Any) -> Plant:
    """Do what every guard would refuse."""

    def execute(sql: str) -> None:
        with superuser, superuser.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(sql)
            assert cursor.rowcount, sql

    return execute


def organization_with_history() -> BillingOrganization:
    """An organization with late usage, credit, payments, a void invoice, a carry and plan changes."""
    organization = create_organization(at=day(1, month=3), plan="scale@1")
    organization.grant(500, "promotional", 5)
    organization.use(99_990, at=day(10, month=3))
    organization.use(7, "email", at=day(10, month=3))
    failed = organization.use(2, at=day(11, month=3))
    first = close_periods(organization, day(1, 2))
    settle_payment(organization, first.id, first.due_minor)
    create_credit_note(organization, first.id, amount_minor=100)
    organization.use(20, at=day(20, month=3), is_late=True)
    organization.reverse(failed)
    organization.switch("starter@1", day(16))
    organization.use(5_305, at=day(20))
    second = close_periods(organization)
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, second.id, OPERATOR, is_replaced=True)
    create_credit_note(organization, newest_invoice(organization).id, amount_minor=50)
    usage_jobs.roll_up()
    return organization


def violations_by_check() -> dict[str, list[str]]:
    """Violations by check, of checks that find any."""
    results = invariants.check_invariants()
    assert [result.check.name for result in results] == [check.name for check in INVARIANTS]
    return {
        result.check.name: [create_organization.what for create_organization in result.violations]
        for result in results
        if result.violations
    }


def test_valid_data_pass_every_check() -> None:
    organization = organization_with_history()
    carol, _ = create_invoice(name="Carol")
    usage_jobs.roll_up()
    assert violations_by_check() == {}
    assert invariants.check_invariants(organization.id, since=day(1)) != []
    with system_session() as session:
        stored = session.execute(text("SELECT check_name, violations FROM invariant_results")).all()
    assert sorted(stored) == sorted((check.name, 0) for check in INVARIANTS)
    assert carol.rows("SELECT parked_at FROM billing_profiles") == [(None,)]


@pytest.mark.parametrize(
    ("check", "sql"),
    [
        ("ownership.time", "UPDATE usage_events SET occurred_at = '2026-02-01Z' WHERE late_for_period_id IS NULL"),
        ("ownership.time", "UPDATE usage_events SET occurred_at = '2026-04-20Z' WHERE late_for_period_id IS NOT NULL"),
        ("ownership.closed", "UPDATE usage_events SET recorded_at = recorded_at + interval '1 day'"),
        ("amounts.quantity", "UPDATE usage_events SET quantity = quantity + 1 WHERE meter_code = 'email'"),
        ("amounts.quantity", "DELETE FROM usage_events WHERE meter_code = 'email'"),
        ("amounts.quantity", "DELETE FROM invoice_lines WHERE meter_code = 'email'"),
        ("amounts.quantity", "UPDATE invoice_lines SET quantity = quantity + 1 WHERE kind = 'late_usage'"),
        ("amounts.rerated", "UPDATE invoice_lines SET amount_minor = amount_minor + 1 WHERE kind = 'base'"),
        ("amounts.rerated", "UPDATE invoice_lines SET amount_minor = amount_minor + 1 WHERE kind = 'late_usage'"),
        ("amounts.rerated", "UPDATE invoice_lines SET calculation = '{}' WHERE kind = 'usage'"),
        ("amounts.rerated", "UPDATE price_tiers SET unit_price = unit_price * 2 WHERE plan_version_id = 'scale@1'"),
        (
            "sums.lines",
            "UPDATE invoices SET subtotal_minor = subtotal_minor + 1, discount_minor = discount_minor + 1",
        ),
        ("sums.payments", "UPDATE payments SET allocated_minor = allocated_minor - 1, excess_minor = 1"),
        ("sums.payments", "DELETE FROM payments"),
        ("sums.credit_notes", "DELETE FROM credit_notes WHERE to_due_minor > 0"),
        ("sums.credit_notes", "UPDATE credit_note_lines SET amount_minor = amount_minor + 1"),
        ("sums.grants", "UPDATE credit_grants SET remaining_minor = remaining_minor + 1 WHERE kind = 'promotional'"),
        ("sums.grants", "DELETE FROM credit_entries"),
        ("numbers.gapless", "UPDATE number_series SET last_value = last_value + 1 WHERE series = 'INV'"),
        ("numbers.gapless", "UPDATE invoices SET serial = serial + 1 WHERE serial = 3"),
        ("numbers.gapless", "DELETE FROM number_series WHERE series = 'CN'"),
        ("coverage.chain", "UPDATE billing_periods SET starts_at = starts_at + interval '1 hour' WHERE seq = 2"),
        ("coverage.chain", "DELETE FROM billing_periods WHERE seq = 1"),
        ("coverage.chain", "UPDATE subscription_segments SET starts_at = starts_at - interval '1 hour' WHERE seq = 2"),
        ("coverage.now", "UPDATE billing_periods SET ends_at = starts_at + interval '1 minute' WHERE seq = 3"),
        ("coverage.now", "UPDATE subscription_segments SET ends_at = '2026-04-20Z' WHERE ends_at IS NULL"),
        (
            "coverage.invoiced",
            "UPDATE billing_periods SET state = 'closed', closed_at = now() - interval '3 hours' WHERE seq = 2",
        ),
        ("rollup.ledger", "UPDATE usage_rollups SET quantity = quantity + 1 WHERE meter_code = 'email'"),
        ("rollup.ledger", "DELETE FROM usage_rollups WHERE meter_code = 'email'"),
        (
            "money.in_flight",
            "UPDATE payments SET state = 'pending', captured_minor = 0, allocated_minor = 0, created_at = '2026-4-1Z'",
        ),
        (
            "holds.recorded",
            """INSERT INTO holds (organization_id, id, source, idempotency_key, meter_code, quantity, created_at,
                expires_at, ended_at, status, usage_event_id, settled_quantity)
              SELECT organization_id, id, 'completions', 'k', meter_code, 9, occurred_at, occurred_at + interval '1 h',
                occurred_at, 'settled', id, quantity + 1 FROM usage_events WHERE meter_code = 'email'""",
        ),
        ("ledger.keys", "DELETE FROM usage_event_keys WHERE quantity > 0"),
        ("ledger.keys", "UPDATE usage_event_keys SET event_id = gen_random_uuid()"),
        ("ledger.keys", "DELETE FROM usage_events WHERE meter_code = 'email'"),
    ],
)
def test_planted_violation_is_found(check: str, sql: str, plant: Plant, superuser: Any) -> None:
    organization_with_history()
    try:
        plant(sql)
        assert check in violations_by_check()
    finally:
        restore_prices(superuser)


def restore_prices(superuser: Any) -> None:
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("""UPDATE price_tiers SET unit_price = CASE meter_code WHEN 'sms' THEN 0.005 - ordinal * 0.001
          ELSE 0.0005 - ordinal * 0.0001 END WHERE plan_version_id = 'scale@1'""")


def test_every_check_has_a_planted_violation() -> None:
    marks = test_planted_violation_is_found.pytestmark
    planted = {case[0] for mark in marks if mark.name == "parametrize" for case in mark.args[1]}
    assert planted == {check.name for check in INVARIANTS}


def test_organization_without_account_is_found_after_two_hours(plant: Plant) -> None:
    organization = create_organization(at=day(1))
    for table in ("billing_periods", "subscription_segments", "subscriptions"):
        plant(f"DELETE FROM {table}")
    assert "coverage.now" not in violations_by_check()
    clock.freeze_time(day(1, 3))
    plant("UPDATE organizations SET created_at = '2026-04-01Z'")
    assert violations_by_check()["coverage.now"] == ["no account"]
    assert organization.rows("SELECT parked_reason FROM billing_profiles") == [("check coverage.now",)]


def test_violation_holds_billing_of_its_organization_and_alerts_operators(plant: Plant) -> None:
    organization, carol = organization_with_history(), create_organization("Carol", plan="starter@1")
    with system_session() as session:
        olga = users.create_user(session, "olga@platform.example", "correct horse battery", "Olga")
        session.add(Operator(user_id=olga.id, role="support"))
    plant(
        f"""UPDATE credit_grants SET remaining_minor = 1
          WHERE organization_id = '{organization.id}' AND kind = 'promotional'"""
    )
    billing_jobs.check_invariants()
    [profile] = organization.rows("SELECT parked_at, parked_reason FROM billing_profiles")
    assert (profile.parked_at, profile.parked_reason) == (clock.now(), "check sums.grants")
    assert audit_actions(organization)[-1] == "billing.parked"
    assert carol.rows("SELECT parked_at FROM billing_profiles") == [(None,)]
    with system_session() as session:
        [mail] = session.execute(text("SELECT * FROM mails WHERE template = 'operator_alert'")).all()
        stored = session.execute(text("SELECT * FROM invariant_results WHERE violations > 0")).all()
    assert mail.recipient == "olga@platform.example"
    assert "check sums.grants failed" in mail.subject
    assert [(row.check_name, row.sample[0]["organization_id"]) for row in stored] == [
        ("sums.grants", ids.format_id("org", organization.id))
    ]


def test_organization_on_hold_gets_drafts_until_an_operator_releases_it(plant: Plant, app: Flask) -> None:
    organization = create_organization(plan="starter@1")
    plant("UPDATE billing_profiles SET parked_at = now(), parked_reason = 'check sums.lines'")
    draft = close_periods(organization)
    assert draft.state == "draft"
    with pytest.raises(BillingOnHold), system_session() as session:
        invoice_lifecycle.finalize_invoice(session, organization.id, draft.id, OPERATOR)
    ask = app.test_cli_runner().invoke
    organization_id = ids.format_id("org", organization.id)
    assert ask(args=["billing", "release", organization_id, "--reason", "repaired"]).exit_code == 0
    assert "not on hold" in ask(args=["billing", "release", organization_id, "--reason", "repaired"]).output
    assert audit_actions(organization)[-1] == "billing.unparked"
    arguments = ["billing", "finalize", organization_id, ids.format_id("inv", draft.id), "--reason", "fine"]
    assert "INV-000001" in ask(args=arguments).output
    assert close_periods(organization, JUNE).state == "open"


def test_wrong_rollups_are_rebuilt_and_hold_no_billing(plant: Plant) -> None:
    organization = organization_with_history()
    plant("UPDATE usage_rollups SET quantity = quantity + 1")
    assert list(violations_by_check()) == ["rollup.ledger"]
    assert violations_by_check() == {}
    assert organization.rows("SELECT parked_at FROM billing_profiles") == [(None,)]


def test_check_of_one_organization_ignores_the_others(plant: Plant) -> None:
    organization, carol = organization_with_history(), create_organization("Carol")
    plant(
        f"""UPDATE credit_grants SET remaining_minor = 1
          WHERE organization_id = '{organization.id}' AND kind = 'promotional'"""
    )
    assert not any(result.violations for result in invariants.check_invariants(carol.id))
    [wrong] = [result for result in invariants.check_invariants(organization.id) if result.violations]
    assert wrong.violations[0].organization_id == organization.id


def test_second_concurrent_check_is_rejected(app: Flask) -> None:
    with system_session() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('billing.invariants', 2))"))
        with pytest.raises(CheckInProgress):
            invariants.check_invariants()
        billing_jobs.check_invariants()
        assert app.test_cli_runner().invoke(args=["billing", "invariants"]).exit_code == 1
    assert violations_by_check() == {}


def test_nightly_check_leaves_out_old_usage(plant: Plant) -> None:
    organization_with_history()
    plant("UPDATE usage_events SET quantity = quantity + 1 WHERE meter_code = 'email'")
    usage = {result.check.name for result in invariants.check_invariants(since=clock.now()) if result.violations}
    assert usage == set()
    clock.freeze_time(clock.now() + timedelta(minutes=1))
    assert "amounts.quantity" in violations_by_check()


def test_invariants_command_exits_with_3_for_a_violation(plant: Plant, app: Flask) -> None:
    organization = organization_with_history()
    ask = app.test_cli_runner().invoke
    sound = ask(args=["billing", "invariants", "--json"])
    assert (sound.exit_code, {len(check["violations"]) for check in json.loads(sound.output)["checks"]}) == (0, {0})
    plant("UPDATE number_series SET last_value = last_value + 1 WHERE series = 'INV'")
    wrong = ask(args=["billing", "invariants"])
    assert wrong.exit_code == 3
    assert "platform: series INV: 3 numbers from 1 to 3, last given 4" in wrong.output
    assert organization.rows("SELECT parked_at FROM billing_profiles") == [(None,)]
    assert ask(args=["billing", "invariants", "--organization", ids.format_id("org", organization.id)]).exit_code == 0
    assert ask(args=["billing", "invariants", "--organization", "org_1"]).exit_code == 2
