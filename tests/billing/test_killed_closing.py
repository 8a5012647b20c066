"""Closing processes that are killed at every step: the next run leaves one correct invoice for each organization."""

import time
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.billing import period_close, periods
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy
from tests.support.billing import create_organization, day, publish_metered, publish_plan
from tests.support.closing import CloseRunner
from tests.support.ledger import USAGE_COLUMNS, append_sql

AT = "2026-05-01T02:00:00Z"
ORGANIZATIONS = 110
INVOICED_BEFORE = ORGANIZATIONS // 4
KILLED = -9
KILLS = (  # the step, its nth time in the run, and how many are invoiced then: 50 at once, in the order of their ids
    ("billing.in_close", 1, 0),  # their periods are closed, not committed
    ("billing.after_close", 1, 0),  # closed for good, without invoices
    ("billing.after_draft", 1, 0),  # the drafts and their lines are written, not committed
    ("billing.after_number", 2, 50),  # numbers are taken, not committed
    ("billing.after_invoice", 1, 50),  # everything is written, also to the wallets, not committed
    ("billing.after_close", 1, 50),
)

# Organization n is on free if n is odd, else on metered, and if n is a multiple of 4 on studio, since March already.
_FOUND = text("""
INSERT INTO organizations (id, name, slug, created_at)
SELECT lpad(n::text, 32, '0')::uuid, 'Organization ' || n, 'organization-' || n,
  CASE n % 4 WHEN 0 THEN :march ELSE :april END
FROM generate_series(1, :many) n""")
_PLAN = """
  SELECT o.id, CASE substring(o.name from '[0-9]+')::int % 4 WHEN 0 THEN 'studio@1' ELSE 'metered@1' END AS plan
  FROM organizations o WHERE o.name ~ '^Organization [0-9]*[02468]$'"""
_LEAVE_FREE = text(f"DELETE FROM subscription_segments WHERE organization_id IN (SELECT id FROM ({_PLAN}) p)")
_TAKE_PLAN = text(f"""
INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id, starts_at)
SELECT s.organization_id, s.id, 1, p.plan, s.started_at
FROM subscriptions s JOIN ({_PLAN}) p ON p.id = s.organization_id""")
# In March organizations on studio send 5,000 segments, which are billed with the minimum of 100.00.
_USE_IN_MARCH = text(
    append_sql(
        USAGE_COLUMNS,
        """
SELECT organization_id, 'test', 'march', 'sms', 5000, :at, id, month FROM billing_periods WHERE ends_at = :april""",
    )
)
# In April organization n sends 1,000 + n segments in two events, and 1,005 emails, which come out at half a cent.
_USE = text(
    append_sql(
        USAGE_COLUMNS,
        """
SELECT o.id, 'test', v.meter || v.quantity, v.meter, v.quantity, :at, p.id, p.month
FROM organizations o JOIN billing_periods p ON p.organization_id = o.id AND p.starts_at = :april,
LATERAL (VALUES ('sms', 1000), ('sms', substring(o.name from '[0-9]+')::int), ('email', 1005)) v (meter, quantity)
WHERE o.name LIKE 'Organization %'""",
    )
)
# 5,030 + n segments of March are recorded in April, and 50 others fail: with them March comes to 99.80 + n cents.
_RECORD_LATE = text(
    append_sql(
        f"{USAGE_COLUMNS}, late_for_period_id, reversal_of",
        """
SELECT o.id, v.source, v.key, 'sms', v.quantity, e.occurred_at, april.id, march.id, v.reversal_of, april.month
FROM organizations o
JOIN billing_periods march ON march.organization_id = o.id AND march.ends_at = :april
JOIN billing_periods april ON april.organization_id = o.id AND april.starts_at = :april
JOIN usage_events e ON e.organization_id = o.id AND e.billing_period_id = march.id,
LATERAL (VALUES ('test', 'late', 5030 + substring(o.name from '[0-9]+')::int, NULL),
  ('reversal', e.id::text, -50, e.id))
  v (source, key, quantity, reversal_of)""",
    )
)
# 100.00 pay March, 5.00 are left for April.
_GRANT = text("""
INSERT INTO credit_grants (organization_id, source_key, kind, currency, amount_minor, remaining_minor, effective_at)
SELECT organization_id, 'test', 'purchased', 'USD', 10500, 10500, :march FROM billing_periods
WHERE ends_at = :april""")
_WRITTEN = text("""
SELECT substring(o.name from '[0-9]+')::int AS n, i.serial, i.number, i.total_minor, i.state, i.credits_applied_minor,
  (SELECT sum(amount_minor) FROM invoice_lines l WHERE l.invoice_id = i.id) AS lines_minor,
  (SELECT sum(-delta_minor) FROM credit_entries e WHERE e.invoice_id = i.id) AS entries_minor,
  (SELECT sum(remaining_minor) FROM credit_grants g WHERE g.organization_id = o.id) AS wallet_minor
FROM invoices i JOIN organizations o ON o.id = i.organization_id
JOIN billing_periods p ON p.organization_id = o.id AND p.id = i.billing_period_id AND p.starts_at = :april
ORDER BY i.serial""")
_OTHERS = text("""
SELECT count(DISTINCT pid) FROM pg_locks
WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid()""")
_STATES = text("SELECT state, count(*) FROM billing_periods WHERE ends_at = :ends_at GROUP BY state")


def expected(number: int) -> int:
    """Total of an organization's April in minor units; its emails cost 0.005 on free, and 1.005 on metered.

    On studio April comes to the minimum, and March to more than it for the organizations above 20.
    """
    if number % 2:
        return number + 1
    if number % 4:
        return 2900 + 1000 + number + 101
    return 10_000 + max(0, number - 20)


def prepare() -> None:
    clock.freeze_time(day(1))
    publish_plan("studio", minimum="100.00")
    publish_metered()
    with tenancy.system_session("billing.close") as session:
        session.execute(_FOUND, {"march": day(1, month=3), "april": day(1), "many": ORGANIZATIONS})
    periods.ensure_accounts(day(1))
    with tenancy.system_session("billing.close") as session:
        session.execute(_LEAVE_FREE)
        session.execute(_TAKE_PLAN)
        session.execute(_USE_IN_MARCH, {"at": day(10, month=3), "april": day(1)})
        session.execute(_GRANT, {"march": day(1, month=3), "april": day(1)})
    assert len(period_close.close_due(day(1, 2)).invoices) == INVOICED_BEFORE
    with tenancy.system_session("billing.close") as session:
        session.execute(_USE, {"at": day(10), "april": day(1)})
        session.execute(_RECORD_LATE, {"april": day(1)})


def written() -> list[Any]:
    with tenancy.system_session("billing.close") as session:
        return list(session.execute(_WRITTEN, {"april": day(1)}).all())


def states() -> dict[str, int]:
    with tenancy.system_session("billing.close") as session:
        return dict(session.execute(_STATES, {"ends_at": day(1, month=5)}).all())


def wait_until_locks_are_free() -> None:
    """A server process continues for a moment after its client was killed, and others skip the rows it locks."""
    for _ in range(200):
        with tenancy.system_session("billing.close") as session:
            if not session.scalar(_OTHERS):
                return
        time.sleep(0.05)
    pytest.fail("a killed process still holds locks")


def assert_invoices_are_correct(invoices: list[Any]) -> None:
    serials = [invoice.serial for invoice in invoices]
    assert serials == list(range(INVOICED_BEFORE + 1, INVOICED_BEFORE + len(invoices) + 1))
    assert [invoice.number for invoice in invoices] == [f"INV-{invoice.serial:06d}" for invoice in invoices]
    for invoice in invoices:
        assert (invoice.n, invoice.total_minor) == (invoice.n, expected(invoice.n))
        assert (invoice.lines_minor, invoice.state) == (invoice.total_minor, "open")
        credit, left = (500, 0) if invoice.n % 4 == 0 else (0, None)
        assert (invoice.credits_applied_minor, invoice.entries_minor or 0, invoice.wallet_minor) == (
            credit,
            credit,
            left,
        )


@pytest.fixture
def closer(config: dict[str, Any], context: Flask) -> CloseRunner:
    return CloseRunner(config)


@pytest.mark.long
def test_organizations_are_invoiced_once_with_every_step_killed(closer: CloseRunner) -> None:
    """B4, B5: with wallets, minimums and late usage, the totals are right, once."""
    prepare()
    for step, hit, before in KILLS:
        [run] = closer.close(AT, f"{step}:kill:{hit}")
        assert run.status == KILLED, (step, run.stderr)
        wait_until_locks_are_free()
        invoices = written()
        assert [invoice.n for invoice in invoices] == list(range(1, before + 1)), step
        assert_invoices_are_correct(invoices)
    assert states() == {"invoiced": before, "closed": 50, "open": ORGANIZATIONS - before - 50}

    [run] = closer.close(AT)

    assert (run.status, len(run.result["invoices"])) == (0, ORGANIZATIONS - before), run.stderr
    invoices = written()
    assert [invoice.n for invoice in invoices] == list(range(1, ORGANIZATIONS + 1))
    assert_invoices_are_correct(invoices)
    assert states() == {"invoiced": ORGANIZATIONS}
    assert period_close.close_due(day(1, 2, month=5)) == CloseResult()


@pytest.mark.long
def test_two_closes_share_the_work_while_a_third_is_killed(closer: CloseRunner) -> None:
    organizations = [create_organization(f"Shared{number}", plan="starter@1") for number in range(12)]
    slow, dying = "billing.after_close:sleep=1", "billing.after_number:kill"
    first, second, third = closer.close(AT, slow, slow, dying)
    assert (first.status, second.status) == (0, 0), (first.stderr, second.stderr)
    assert third.status in (KILLED, 0)  # the others may have left it nothing
    [rest] = closer.close(AT)
    numbers = [invoice["number"] for run in (first, second, rest) for invoice in run.result["invoices"]]
    assert len(numbers) == len(set(numbers))
    serials = sorted(invoice.serial for organization in organizations for invoice in organization.invoices())
    assert serials == list(range(1, len(organizations) + 1))


CLOSING_KILLS = (
    "billing.in_close",  # the organization is closed, not committed
    "billing.after_close",  # closed for good, without its final invoice
    "billing.after_number",  # the final invoice has a number, not committed
    "billing.after_invoice_commit",
)


@pytest.mark.long
def test_organization_gets_one_final_invoice_with_every_step_of_its_closing_killed(closer: CloseRunner) -> None:
    """B15: the final invoice has the base up to the closing, the usage and the credit, once."""
    now = clock.now()
    organizations = []
    for fault in CLOSING_KILLS:
        organization = create_organization(fault.rpartition(".")[2], now - timedelta(hours=2), plan="starter@1")
        organization.use(5_305, at=now - timedelta(hours=1))
        organization.grant(300, "purchased", 10)
        organizations.append(organization)
    clock.freeze_time(None)
    for organization, fault in zip(organizations, CLOSING_KILLS, strict=True):
        [run] = closer.close_organization(ids.format_id("org", organization.id), f"{fault}:kill:1")
        assert run.status == KILLED, (fault, run.stderr)
    wait_until_locks_are_free()
    [again] = closer.close_organization(ids.format_id("org", organizations[0].id))
    assert (again.status, again.result["status"]) == (0, "closed")
    period_close.close_due(clock.now())

    for organization in organizations:
        first, *_ = periods_of = organization.rows("SELECT * FROM billing_periods ORDER BY seq")
        assert [period.state for period in periods_of] == ["invoiced", "open"]
        used, whole = ((first.ends_at - first.starts_at) // timedelta(microseconds=1), first.nominal_seconds * 10**6)
        [invoice] = organization.invoices()
        assert organization.lines() == {
            "base:starter@1": money.prorate(2900, used, whole),
            "usage:starter@1:sms": 305,
        }
        assert (invoice.credits_applied_minor, invoice.due_minor) == (300, invoice.total_minor - 300)
    assert period_close.close_due(clock.now() + timedelta(days=60)) == CloseResult()


@pytest.mark.long
def test_of_two_closings_at_once_one_is_refused(closer: CloseRunner) -> None:
    organization = create_organization(plan="starter@1", at=clock.now() - timedelta(hours=2))
    clock.freeze_time(None)
    runs = closer.close_organization(ids.format_id("org", organization.id), "billing.in_close:sleep=1", "")
    assert sorted(run.status for run in runs) == [0, 1], [run.stderr for run in runs]
    assert "ORGANIZATION_CLOSED" in next(run.stderr for run in runs if run.status)
    assert len(organization.invoices()) == 1
