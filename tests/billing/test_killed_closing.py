"""Closing processes that are killed at every step: the next run leaves one correct invoice for each organization."""

import time
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.billing import period_close, periods
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.billing import create_organization, day
from tests.support.closing import CloseRunner

AT = "2026-05-01T02:00:00Z"
ORGANIZATIONS = 200
KILLED = -9
KILLS = (
    ("billing.in_close", 1),  # the period is closed, not committed
    ("billing.after_close", 2),  # closed for good, without an invoice
    ("billing.after_draft", 3),  # the draft and its lines are written, not committed
    ("billing.after_number", 5),  # a number is taken, not committed
    ("billing.after_invoice", 8),  # everything is written, not committed
    ("billing.after_invoice_commit", 13),
    ("billing.after_number", 1),
    ("billing.after_close", 21),
)

_FOUND = text("""
INSERT INTO organizations (id, name, slug, created_at)
SELECT gen_random_uuid(), 'Organization ' || n, 'organization-' || n, :at FROM generate_series(1, :many) n""")
_ON_STARTER = """SELECT id FROM organizations WHERE name ~ '^Organization [0-9]*[02468]$'"""
_LEAVE_FREE = text(f"DELETE FROM subscription_segments WHERE organization_id IN ({_ON_STARTER})")
_TAKE_STARTER = text(f"""
INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id, starts_at)
SELECT organization_id, id, 1, 'starter@1', started_at FROM subscriptions WHERE organization_id IN ({_ON_STARTER})""")
# Organization n sends 1,000 + n segments in two events, and 1,005 e-mails, which come out at half a cent.
_USE = text("""
INSERT INTO usage_events (organization_id, source, idempotency_key, meter_code, quantity, occurred_at,
  billing_period_id)
SELECT o.id, 'test', v.meter || v.quantity, v.meter, v.quantity, :at, p.id
FROM organizations o JOIN billing_periods p ON p.organization_id = o.id AND p.seq = 1,
LATERAL (VALUES ('sms', 1000), ('sms', substring(o.name from '[0-9]+')::int), ('email', 1005)) v (meter, quantity)
WHERE o.name LIKE 'Organization %'""")
_WRITTEN = text("""
SELECT substring(o.name from '[0-9]+')::int AS n, i.serial, i.number, i.total_minor, i.state,
  (SELECT sum(amount_minor) FROM invoice_lines l WHERE l.invoice_id = i.id) AS lines_minor
FROM invoices i JOIN organizations o ON o.id = i.organization_id ORDER BY i.serial""")
_OTHERS = text("""
SELECT count(DISTINCT pid) FROM pg_locks
WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid()""")
_STATES = text("SELECT state, count(*) FROM billing_periods WHERE ends_at = :ends_at GROUP BY state")


def expected(number: int) -> int:
    """Total of a organization's April in minor units; its e-mails cost 0.005 on free, and 1.005 on starter."""
    if number % 2:
        return number + 1
    return 2900 + 1000 + number + 101


def prepare() -> None:
    clock.freeze_time(day(1))
    with tenancy.system_session("billing.close") as session:
        session.execute(_FOUND, {"at": day(1), "many": ORGANIZATIONS})
    periods.ensure_accounts(day(1))
    with tenancy.system_session("billing.close") as session:
        session.execute(_LEAVE_FREE)
        session.execute(_TAKE_STARTER)
        session.execute(_USE, {"at": day(10)})


def written() -> list[Any]:
    with tenancy.system_session("billing.close") as session:
        return list(session.execute(_WRITTEN).all())


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
    assert [invoice.serial for invoice in invoices] == list(range(1, len(invoices) + 1))
    assert [invoice.number for invoice in invoices] == [f"INV-{invoice.serial:06d}" for invoice in invoices]
    assert len({invoice.n for invoice in invoices}) == len(invoices)
    for invoice in invoices:
        assert (invoice.n, invoice.total_minor) == (invoice.n, expected(invoice.n))
        assert (invoice.lines_minor, invoice.state) == (invoice.total_minor, "open")


@pytest.fixture
def closer(config: dict[str, Any], context: Flask) -> CloseRunner:
    return CloseRunner(config)


@pytest.mark.long
def test_two_hundred_organizations_are_invoiced_once_with_every_step_killed(closer: CloseRunner) -> None:
    prepare()
    for step, hit in KILLS:
        [run] = closer.close(AT, f"{step}:kill:{hit}")
        assert run.status == KILLED, (step, run.stderr)
        wait_until_locks_are_free()
        assert_invoices_are_correct(written())
    before = len(written())
    assert states() == {"invoiced": before, "closed": 1, "open": ORGANIZATIONS - before - 1}

    [run] = closer.close(AT)

    assert (run.status, len(run.result["invoices"])) == (0, ORGANIZATIONS - before), run.stderr
    invoices = written()
    assert sorted(invoice.n for invoice in invoices) == list(range(1, ORGANIZATIONS + 1))
    assert_invoices_are_correct(invoices)
    assert states() == {"invoiced": ORGANIZATIONS}
    assert period_close.close_due(day(1, 2, month=5)) == CloseResult()


@pytest.mark.long
def test_two_closes_share_the_work_while_a_third_is_killed(closer: CloseRunner) -> None:
    organizations = [create_organization(f"Shared{number}", plan="starter@1") for number in range(12)]
    slow, dying = "billing.after_close:sleep=1", "billing.after_number:kill:3"
    first, second, third = closer.close(AT, slow, slow, dying)
    assert (first.status, second.status) == (0, 0), (first.stderr, second.stderr)
    assert third.status in (KILLED, 0)  # the others may have left it less than three
    [rest] = closer.close(AT)
    numbers = [invoice["number"] for run in (first, second, rest) for invoice in run.result["invoices"]]
    assert len(numbers) == len(set(numbers))
    serials = sorted(invoice.serial for organization in organizations for invoice in organization.invoices())
    assert serials == list(range(1, len(organizations) + 1))
