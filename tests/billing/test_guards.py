"""Constraints, triggers and grants of the database for periods, ledger, prices and invoices."""

from typing import Any

import psycopg2.errors
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from saas_api.core.db import tenancy
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import close_periods, settle_payment, system_session
from tests.support.ledger import USAGE_COLUMNS, append_sql

pytestmark = pytest.mark.usefixtures("context")
PERIOD = (
    "INSERT INTO billing_periods (organization_id, subscription_id, seq, starts_at, ends_at, nominal_seconds, timezone)"
)
EVENT_COLUMNS = f"{USAGE_COLUMNS}, reversal_of"
LATER = "SELECT organization_id, subscription_id"
INVOICE = (
    "INSERT INTO invoices (organization_id, billing_period_id, kind, currency, rule_version{0}) SELECT organization_id,"
)


@pytest.fixture
def organization() -> BillingOrganization:
    """Invoiced for April, with an open invoice and usage in it; in May, with usage too."""
    organization = create_organization(plan="starter@1")
    organization.use(5_305, at=day(10))
    close_periods(organization)
    organization.use(5, at=day(1, 1, month=5))
    return organization


VIOLATIONS: dict[str, str] = {
    # B2: events do not change, and each is billed in one period
    "an event without a period": append_sql(
        EVENT_COLUMNS, "SELECT organization_id, 'x', 'k', 'sms', 1, now(), NULL, NULL, now() FROM subscriptions"
    ),
    "an event changed": "UPDATE usage_events SET occurred_at = occurred_at - interval '1 day'",
    "an event moved to another period": "UPDATE usage_events SET billing_period_id = gen_random_uuid()",
    "an event deleted": "DELETE FROM usage_events",
    "a negative event that takes nothing back": append_sql(
        EVENT_COLUMNS,
        "SELECT organization_id, 'x', 'k', 'sms', -1, now(), id, NULL, month FROM billing_periods WHERE seq = 2",
    ),
    "an event of nothing": append_sql(
        EVENT_COLUMNS,
        "SELECT organization_id, 'x', 'k', 'sms', 0, now(), id, NULL, month FROM billing_periods WHERE seq = 2",
    ),
    "an event of an unknown meter": append_sql(
        EVENT_COLUMNS,
        "SELECT organization_id, 'x', 'k', 'smoke', 1, now(), id, NULL, month FROM billing_periods WHERE seq = 2",
    ),
    "an event late for the period that pays": """INSERT INTO usage_events (organization_id, source, idempotency_key,
      meter_code, quantity, occurred_at, billing_period_id, late_for_period_id, month)
      SELECT organization_id, 'x', 'k', 'sms', 1, now(), id, id, month FROM billing_periods WHERE seq = 2""",
    "an event in the partition of another month": append_sql(
        USAGE_COLUMNS,
        """SELECT organization_id, 'x', 'k', 'sms', 1, now(), id, month + interval '1 month' FROM billing_periods
          WHERE seq = 2""",
    ),
    # B3: a key counts once, for ever, and so does a reversal
    "an event counted twice": append_sql(
        USAGE_COLUMNS,
        """SELECT organization_id, source, idempotency_key, meter_code, quantity, occurred_at, billing_period_id, month
          FROM usage_events""",
    ),
    "an event reversed twice": append_sql(
        EVENT_COLUMNS,
        """SELECT organization_id, 'reversal', id::text, meter_code, -quantity, occurred_at, billing_period_id, id,
            month FROM usage_events, generate_series(1, 2)""",
    ),
    "an event reversed under another key": append_sql(
        EVENT_COLUMNS,
        """SELECT organization_id, 'reversal', 'k', meter_code, -quantity, occurred_at, billing_period_id, id, month
          FROM usage_events""",
    ),
    "a reversal of nothing": append_sql(
        EVENT_COLUMNS,
        """SELECT organization_id, 'reversal', v.id::text, 'sms', -1, now(), p.id, v.id, p.month
          FROM billing_periods p, (SELECT gen_random_uuid() AS id) v WHERE p.seq = 2""",
    ),
    # B4: no gap and no overlap
    "a gap between periods": f"""{PERIOD}
      {LATER}, 3, ends_at + interval '1 s', ends_at + interval '30 d', 2592000, 'UTC'
      FROM billing_periods WHERE seq = 2""",
    "an overlap of periods": f"""{PERIOD}
      {LATER}, 3, ends_at - interval '1 s', ends_at + interval '30 d', 2592000, 'UTC'
      FROM billing_periods WHERE seq = 2""",
    "a period's number skipped": f"""{PERIOD} {LATER}, 4, ends_at, ends_at + interval '30 d', 2592000, 'UTC'
      FROM billing_periods WHERE seq = 2""",
    "a second successor": f"""{PERIOD} {LATER}, 2, ends_at, ends_at + interval '30 d', 2592000, 'UTC'
      FROM billing_periods WHERE seq = 1""",
    "a second beginning": f"""{PERIOD} {LATER}, 1, starts_at - interval '30 d', starts_at, 2592000, 'UTC'
      FROM billing_periods WHERE seq = 1""",
    "a period that ends before it starts": f"""{PERIOD} {LATER}, 3, ends_at, ends_at - interval '30 d', 2592000, 'UTC'
      FROM billing_periods WHERE seq = 2""",
    "a period with usage shortened": "UPDATE billing_periods SET ends_at = ends_at - interval '1 day' WHERE seq = 2",
    "a period moved away from the one before": """UPDATE billing_periods
      SET starts_at = starts_at + interval '1 s' WHERE seq = 2""",
    "a period deleted": "DELETE FROM billing_periods WHERE seq = 2",
    "a gap between plans": """INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id,
      starts_at) SELECT organization_id, id, 2, 'pro@1', '2026-06-01' FROM subscriptions""",
    "two plans at once": """INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id,
      starts_at) SELECT organization_id, id, 1, 'pro@1', started_at FROM subscriptions""",
    # B5: published prices do not change, nor does the plan of a billed segment
    "a published price changed": "UPDATE prices SET unit_price = 0",
    "a published price deleted": "DELETE FROM prices",
    "a published tier changed": "UPDATE price_tiers SET unit_price = 0",
    "a tier added to a published price": "INSERT INTO price_tiers VALUES ('scale@1', 'sms', 4, NULL, 0)",
    "a published version changed": "UPDATE plan_versions SET base_amount_minor = 0",
    "a published version made a draft": "UPDATE plan_versions SET state = 'draft'",
    "a published version deleted": "DELETE FROM plan_versions",
    "a published right changed": "UPDATE entitlements SET value = '1'",
    "the plan of a billed period changed": "UPDATE subscription_segments SET plan_version_id = 'free@1'",
    "the plan ended within a billed period": "UPDATE subscription_segments SET ends_at = '2026-04-20'",
    "the plan of a billed period deleted": "DELETE FROM subscription_segments",
    # B6: a closed period keeps its bounds and stays closed
    "a billed period opened again": "UPDATE billing_periods SET state = 'open', closed_at = NULL WHERE seq = 1",
    "a billed period closed again": "UPDATE billing_periods SET state = 'closed' WHERE seq = 1",
    "a billed period lengthened": "UPDATE billing_periods SET ends_at = ends_at + interval '1 d' WHERE seq = 1",
    "a billed period closed at another time": "UPDATE billing_periods SET closed_at = now() WHERE seq = 1",
    "an open period invoiced": "UPDATE billing_periods SET state = 'invoiced', closed_at = now() WHERE seq = 2",
    # B7: one invoice for a period that is not void
    "a second invoice of a period": f"{INVOICE.format('')} billing_period_id, 'cycle', 'USD', 1 FROM invoices",
    "a cycle invoice without a period": f"{INVOICE.format('')} NULL, 'cycle', 'USD', 1 FROM invoices",
    # B8: a final invoice does not change
    "a total changed": "UPDATE invoices SET total_minor = 0, subtotal_minor = 0",
    "an invoice readdressed": """UPDATE invoices SET bill_to = '{"name": "Other"}'""",
    "an invoice that sells for another": """UPDATE invoices SET seller = '{"name": "Other"}'""",
    "a due date moved": "UPDATE invoices SET due_at = due_at + interval '1 day'",
    "an invoice made a draft": "UPDATE invoices SET state = 'draft'",
    "an invoice deleted": "DELETE FROM invoices",
    "a line changed": "UPDATE invoice_lines SET amount_minor = amount_minor - 1",
    "a line explained otherwise": "UPDATE invoice_lines SET calculation = '{}'",
    "a line deleted": "DELETE FROM invoice_lines",
    "a line added": """INSERT INTO invoice_lines (organization_id, invoice_id, position, source_key, kind, description,
      amount_minor) SELECT organization_id, id, 9, 'more', 'manual', 'More', 1 FROM invoices""",
    "an invoice born final": f"{INVOICE.format(', state')} NULL, 'manual', 'USD', 1, 'open' FROM invoices",
    # B9: a number once given stays
    "a number changed": "UPDATE invoices SET number = 'INV-000009', serial = 9",
    # B10, B11: money adds up, and only grows
    "paid more than is due": "UPDATE invoices SET paid_minor = total_minor + 1",
    "paid less than nothing": "UPDATE invoices SET paid_minor = -1",
    "paid without money": "UPDATE invoices SET state = 'paid', paid_at = now()",
    "all paid and still open": "UPDATE invoices SET paid_minor = total_minor",
    "credited more than its total": "UPDATE invoices SET credited_minor = total_minor + 1",
    "reduced without a credit": "UPDATE invoices SET reduced_minor = 1",
    "a total that does not add up": """INSERT INTO invoices (organization_id, kind, currency, rule_version, total_minor)
      SELECT organization_id, 'manual', 'USD', 1, 5 FROM invoices""",
    "a negative total": """INSERT INTO invoices (organization_id, kind, currency, rule_version, subtotal_minor,
      total_minor) SELECT organization_id, 'manual', 'USD', 1, -5, -5 FROM invoices""",
    "a grant of more than it has": """INSERT INTO credit_grants (organization_id, source_key, kind, currency,
      amount_minor, remaining_minor, effective_at)
      SELECT organization_id, 'x', 'carry', 'USD', 5, 6, now() FROM invoices""",
}


@pytest.mark.parametrize("statement", VIOLATIONS.values(), ids=VIOLATIONS)
def test_system_role_cannot_violate_a_constraint(organization: BillingOrganization, statement: str) -> None:
    with pytest.raises(DBAPIError) as refusal, system_session() as session:
        session.execute(text(statement))
    assert isinstance(refusal.value.orig, psycopg2.errors.IntegrityError)


def test_constraint_statements_match_rows(organization: BillingOrganization) -> None:
    [invoice] = organization.invoices()
    assert (invoice.state, invoice.total_minor, invoice.due_minor) == ("open", 3205, 3205)
    periods = organization.rows("SELECT state FROM billing_periods ORDER BY seq")
    assert [period.state for period in periods] == ["invoiced", "open"]
    assert len(organization.rows("SELECT 1 FROM usage_events")) == 2


def test_ledger_cannot_be_truncated(organization: BillingOrganization) -> None:
    for table in ("usage_events", "invoices", "invoice_lines", "billing_periods", "credit_entries"):
        with pytest.raises(DBAPIError) as refusal, system_session() as session:
            session.execute(text(f"TRUNCATE {table} CASCADE"))
        assert isinstance(refusal.value.orig, psycopg2.errors.InsufficientPrivilege)


def test_paid_amount_cannot_be_lowered(organization: BillingOrganization) -> None:
    [invoice] = organization.invoices()
    settle_payment(organization, invoice.id, 1000)
    for lowered in ("paid_minor = 0", "state = 'void', voided_at = now()"):
        with pytest.raises(DBAPIError) as refusal, system_session() as session:
            session.execute(text(f"UPDATE invoices SET {lowered}"))
        assert isinstance(refusal.value.orig, psycopg2.errors.IntegrityError)


def test_draft_becomes_final_only_with_the_sum_of_its_lines(organization: BillingOrganization) -> None:
    insert = """INSERT INTO invoices (organization_id, kind, currency, rule_version, subtotal_minor, total_minor)
      SELECT organization_id, 'manual', 'USD', 1, 5, 5 FROM invoices RETURNING id"""
    final = """UPDATE invoices SET state = 'open', series = 'T', serial = 1, number = 'T-1', finalized_at = now(),
      due_at = now() WHERE id = :id"""
    with pytest.raises(DBAPIError) as refusal, system_session() as session:
        session.execute(text(final), {"id": session.scalar(text(insert))})
    assert isinstance(refusal.value.orig, psycopg2.errors.CheckViolation)


def test_invoice_number_is_unique(organization: BillingOrganization) -> None:
    insert = """INSERT INTO invoices (organization_id, kind, currency, rule_version)
      SELECT organization_id, 'manual', 'USD', 1 FROM invoices RETURNING id"""
    for number in ("'INV', 1, 'INV-000001a'", "'INV', 2, 'INV-000001'"):
        final = f"""UPDATE invoices SET state = 'paid', paid_at = now(), finalized_at = now(), due_at = now(),
          (series, serial, number) = ({number}) WHERE id = :id"""
        with pytest.raises(DBAPIError) as refusal, system_session() as session:
            session.execute(text(final), {"id": session.scalar(text(insert))})
        assert isinstance(refusal.value.orig, psycopg2.errors.UniqueViolation)


FORBIDDEN = [
    "UPDATE invoices SET state = 'void'",
    "UPDATE invoices SET paid_minor = total_minor",
    """INSERT INTO invoices (organization_id, kind, currency, rule_version)
      SELECT id, 'manual', 'USD', 1 FROM organizations""",
    "DELETE FROM invoices",
    "UPDATE invoice_lines SET amount_minor = 0",
    "UPDATE credit_grants SET remaining_minor = amount_minor",
    """INSERT INTO credit_grants (organization_id, source_key, kind, currency, amount_minor, remaining_minor,
      effective_at) SELECT id, 'gift', 'promotional', 'USD', 100, 100, now() FROM organizations""",
    "DELETE FROM credit_entries",
    "UPDATE subscriptions SET standing = 'good'",
    "UPDATE billing_periods SET state = 'closed', closed_at = now()",
    "UPDATE billing_periods SET ends_at = ends_at",
    "DELETE FROM billing_periods",
    "UPDATE billing_profiles SET parked_at = NULL",
    "UPDATE billing_profiles SET net_terms_days = 90",
    "UPDATE number_series SET last_value = 1",
    "UPDATE usage_events SET quantity = 1",
    "DELETE FROM usage_events",
    "UPDATE prices SET unit_price = 0",
    "UPDATE plan_versions SET base_amount_minor = 0",
    "INSERT INTO credit_notes SELECT * FROM credit_notes",
    "UPDATE credit_notes SET total_minor = 0",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_tenant_role_cannot_write_platform_rows(organization: BillingOrganization, statement: str) -> None:
    with pytest.raises(DBAPIError) as refusal, organization.transaction() as session:
        session.execute(text(statement))
    assert isinstance(refusal.value.orig, psycopg2.errors.InsufficientPrivilege)


TABLES = ("billing_profiles", "subscriptions", "subscription_segments", "billing_periods", "usage_events", "invoices")


def test_other_organization_neither_reads_nor_writes_billing_rows(organization: BillingOrganization) -> None:
    carol = create_organization("Carol")
    with carol.transaction() as session:
        for table in (*TABLES, "invoice_lines"):
            count = text(f"SELECT count(*) FROM {table} WHERE organization_id = :id")
            assert session.scalar(count, {"id": organization.id}) == 0
    foreign: dict[str, Any] = {"id": organization.id}
    for statement in (
        "INSERT INTO billing_profiles (organization_id) VALUES (:id)",
        append_sql(EVENT_COLUMNS, "SELECT :id, 'x', 'k', 'sms', 1, now(), id, NULL, month FROM billing_periods"),
        f"""{PERIOD} SELECT :id, subscription_id, 3, ends_at, ends_at + interval '30 d', 2592000, 'UTC'
          FROM billing_periods""",
    ):
        with pytest.raises(DBAPIError) as refusal, carol.transaction() as session:
            session.execute(text(statement), foreign)
        assert isinstance(refusal.value.orig, psycopg2.errors.InsufficientPrivilege)


def test_session_without_organization_reads_no_invoices(organization: BillingOrganization) -> None:
    with tenancy.tenant_session(create_organization("Nobody").id) as session:
        session.execute(text("SELECT set_config('app.organization_id', '', true)"))
        for table in TABLES:
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0
