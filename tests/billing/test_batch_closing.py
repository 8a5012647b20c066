"""Closing of many organizations at once: what each gets is what it gets alone, in a handful of statements for all."""

import json
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import organization_closing, period_close, periods, wallet
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock, faults
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from tests.support.billing import (
    BillingOrganization,
    create_organization,
    day,
    publish_meter,
    publish_metered,
    publish_plan,
    publish_prices,
)
from tests.support.billing_actions import add_endpoint, create_credit_note, require_review, settle_payment
from tests.support.currencies import LAGOS, publish
from tests.support.ledger import USAGE_COLUMNS, append_sql
from tests.support.statements import count_statements

pytestmark = pytest.mark.usefixtures("context")
MARCH, APRIL_CLOSED, MAY_CLOSED = day(1, month=3), day(1, 2), day(1, 2, month=5)
Step = Callable[[BillingOrganization, random.Random], object]


def use_in_march(organization: BillingOrganization, choice: random.Random) -> None:
    for number in range(choice.randrange(1, 4)):
        organization.use(Decimal(choice.randrange(1, 3_000_000)) / 1000, at=day(5 + number, month=3))


def use_in_april(organization: BillingOrganization, choice: random.Random) -> None:
    for meter, number in ((meter, number) for meter in ("sms", "email") for number in (2, 11, 21)):
        organization.use(choice.randrange(1, 5_000), meter, at=day(number))


def use_every_kind_of_meter(organization: BillingOrganization, choice: random.Random) -> None:
    organization.switch("every@1", day(choice.randrange(2, 9)))
    for number, model in ((1, "large"), (12, "small"), (13, "large")):
        organization.use(choice.randrange(1, 99), "peak", at=day(number))
        organization.use(choice.randrange(1, 99), "tokens", at=day(number), properties={"model": model})


def record_late(organization: BillingOrganization, choice: random.Random) -> None:
    organization.use(choice.randrange(1, 9_000), at=day(20, month=3), is_late=True)


def reverse_march(organization: BillingOrganization, choice: random.Random) -> None:
    """More comes back than April costs, so the rest is carried."""
    for (event_id,) in organization.rows("SELECT id FROM usage_events WHERE reversal_of IS NULL"):
        with organization.transaction() as session:
            session.execute(REVERSE, {"id": event_id})


def change_plan_in_april(organization: BillingOrganization, choice: random.Random) -> None:
    organization.switch(choice.choice(["pro@1", "scale@1", "studio@1"]), day(choice.randrange(2, 29), 7))


def pause(organization: BillingOrganization, choice: random.Random) -> None:
    with tenancy.system_session("billing.close") as session:
        session.execute(PAUSE, {"id": organization.id, "at": day(choice.randrange(2, 14))})


def grant(organization: BillingOrganization, choice: random.Random) -> None:
    organization.grant(choice.randrange(1, 4_000), "promotional", 5)
    organization.grant(choice.randrange(1, 4_000), "purchased", 10)


def pay_april_but_a_rest(organization: BillingOrganization, choice: random.Random) -> None:
    [invoice] = organization.invoices()
    settle_payment(organization, invoice.id, invoice.due_minor - 30, f"payment:{organization.id}")


def credit_march(organization: BillingOrganization, choice: random.Random) -> None:
    [invoice] = organization.invoices()
    create_credit_note(organization, invoice.id, amount_minor=min(invoice.total_minor, choice.randrange(1, 500)))


def hold(organization: BillingOrganization, choice: random.Random) -> None:
    with tenancy.system_session("billing.close") as session:
        session.execute(HOLD, {"id": organization.id})


def close_for_good(organization: BillingOrganization, choice: random.Random) -> None:
    organization_closing.close_organization(organization.id, SYSTEM_ACTOR)


REVERSE = text(
    append_sql(
        f"{USAGE_COLUMNS}, late_for_period_id, reversal_of",
        """SELECT u.organization_id, 'reversal', u.id::text, u.meter_code, -u.quantity, u.occurred_at, now.id,
            nullif(u.billing_period_id, now.id), u.id, now.month
          FROM usage_events u, (SELECT id, month FROM billing_periods WHERE state = 'open' ORDER BY seq LIMIT 1) now
          WHERE u.id = :id""",
    )
)
PAUSE = text("INSERT INTO billing_pauses VALUES (:id, :at, CAST(:at AS timestamptz) + interval '9 days')")
HOLD = text("UPDATE billing_profiles SET parked_at = now(), parked_reason = 'test' WHERE organization_id = :id")

# Plan, and what happens in March, after March is invoiced.
LIVES: tuple[tuple[str, tuple[Step, ...], tuple[Step, ...]], ...] = (
    ("free@1", (), ()),
    ("free@1", (use_in_march,), (reverse_march,)),
    ("metered@1", (use_in_march,), (use_in_april, record_late)),
    ("metered@1", (use_in_march,), (use_in_april, change_plan_in_april, pause)),
    ("metered@1", (use_in_march,), (pay_april_but_a_rest, use_in_april, grant)),
    ("studio@1", (use_in_march,), (record_late, change_plan_in_april)),
    ("studio@1", (), (pause, grant)),
    ("lagos@1", (use_in_march,), (use_in_april, record_late, pause)),
    ("scale@1", (use_in_march,), (use_in_april, credit_march, reverse_march)),
    ("metered@1", (), (lambda organization, _: require_review(organization), use_in_april)),
    ("metered@1", (), (hold, use_in_april)),
    ("metered@1", (use_in_march,), (close_for_good, record_late)),
    ("free@1", (use_in_march,), (use_every_kind_of_meter, record_late, grant)),
)
READ = {
    "invoices": """SELECT p.seq, kind, i.state, series, currency, bill_to, seller, subtotal_minor, total_minor,
      credits_applied_minor, reduced_minor, paid_minor, credited_minor, due_minor, finalized_at, due_at, paid_at,
      rule_version FROM invoices i JOIN billing_periods p ON p.id = i.billing_period_id ORDER BY p.seq""",
    "lines": """SELECT l.position, l.source_key, l.kind, l.description, l.plan_version_id, l.meter_code,
      l.late_for_period_id, l.service_starts_at, l.service_ends_at, l.quantity, l.amount_minor, l.calculation
      FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id JOIN billing_periods p ON p.id = i.billing_period_id
      ORDER BY p.seq, l.position""",
    "periods": "SELECT seq, starts_at, ends_at, state FROM billing_periods ORDER BY seq",
    "grants": "SELECT kind, currency, amount_minor, remaining_minor FROM credit_grants ORDER BY amount_minor, kind",
    "entries": "SELECT delta_minor, reason FROM credit_entries ORDER BY delta_minor, reason",
    "events": "SELECT type, subject_version, payload FROM events ORDER BY sequence",
    "audit": "SELECT actor_type, action, target_type, target_id, data FROM audit_events ORDER BY id",
    "profile": "SELECT parked_reason, currency FROM billing_profiles",
}
NAMES = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}|INV-\d+|CN-\d+|(?i:alone|together)\d+")


def act(organizations: list[BillingOrganization], at: datetime, nth: int) -> None:
    """Let the same happen to each organization as to its twin."""
    clock.freeze_time(at)
    for number, organization in enumerate(organizations):
        choice = random.Random(f"{number} {nth}")
        for step in LIVES[number][nth]:
            step(organization, choice)


def close_alone(organizations: list[BillingOrganization], at: datetime) -> None:
    clock.freeze_time(at)
    for organization in organizations:
        assert not period_close.close_due(at, organization.id).failed


def close_together(at: datetime) -> CloseResult:
    clock.freeze_time(at)
    result = period_close.close_due(at)
    assert not result.failed
    return result


def written(organization: BillingOrganization) -> dict[str, list[Any]]:
    """Everything that closing writes, without ids, numbers and names."""
    content = {name: [dict(row._mapping) for row in organization.rows(sql)] for name, sql in READ.items()}
    with tenancy.system_session("billing.close") as session:
        rows = session.execute(MAILS, {"id": organization.id}).mappings()
        content["mails"] = [dict(row) for row in rows]
    result: dict[str, list[Any]] = json.loads(NAMES.sub("", json.dumps(content, default=str)))
    return result


MAILS = text("""SELECT template, recipient, subject, text_body, html_body FROM mails WHERE organization_id = :id
  ORDER BY template, subject""")


@pytest.mark.long
def test_organizations_get_together_what_they_get_alone() -> None:
    publish_metered()
    publish_plan("studio", minimum="100.00")
    publish(LAGOS)
    publish_meter("peak", "max")
    publish_meter("tokens", dimensions=["model"])
    price = {"model": "per_unit", "unit_price": "0.015"}
    expensive = {"model": "per_unit", "unit_price": "0.2"}
    by_model = {"by": {"dimension": "model", "values": {"large": expensive}, "default": price}}
    publish_prices("every", {"peak": price, "tokens": by_model})
    alone, together = (
        [create_organization(f"{name}{number}", MARCH, plan) for number, (plan, *_) in enumerate(LIVES)]
        for name in ("Alone", "Together")
    )
    for organizations in (alone, together):
        for organization in organizations[::2]:
            add_endpoint(organization)
        act(organizations, day(25, month=3), 1)
    for at in (APRIL_CLOSED, MAY_CLOSED):
        clock.freeze_time(at)
        periods.ensure_accounts(at)
        close_alone(alone, at)
        assert len(close_together(at).invoices) == len(LIVES)
        if at == APRIL_CLOSED:
            act(alone, day(28), 2)
            act(together, day(28), 2)
    kinds = set()
    for one, other in zip(alone, together, strict=True):
        expected = written(one)
        assert written(other) == expected, LIVES[alone.index(one)]
        kinds |= {line["kind"] for line in expected["lines"]}
        kinds |= {invoice["state"] for invoice in expected["invoices"]}
        kinds |= {invoice["currency"] for invoice in expected["invoices"]}
    assert kinds == {
        *("base", "usage", "late_usage", "minimum", "carry", "manual"),
        *("draft", "open", "paid"),
        *("USD", "NGN"),
    }
    assert count_transactions(together) == 2 + 2  # the closed one got its final invoice and its late usage by itself


def create_many(count: int, name: str = "Many") -> list[BillingOrganization]:
    """Organizations with a period that ends with April, and the next one; closing takes them in this order."""
    many = [create_organization(f"{name}{number}", plan="starter@1") for number in range(count)]
    clock.freeze_time(MAY_CLOSED)
    periods.ensure_accounts(MAY_CLOSED)
    return sorted(many, key=lambda one: one.id)


def serials(organizations: list[BillingOrganization]) -> list[int | None]:
    return [invoice.serial for one in organizations for invoice in one.invoices()]


def test_number_of_statements_does_not_grow_with_the_organizations(app: Flask) -> None:
    """Small: one organization took 28 statements and three commits, so a worker closed 40 a second."""
    counts = []
    for name, count in (("Few", 2), ("Many", 9)):
        create_many(count, name=name)
        with count_statements(app) as statements:
            assert len(close_together(MAY_CLOSED).invoices) == count
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 40, statements


def test_organization_that_cannot_be_invoiced_leaves_the_others_as_they_are() -> None:
    """Never: an amount that PostgreSQL refuses must not keep others from their invoices, nor leave a gap."""
    publish_plan("gold", sms_price="10000")
    organizations = create_many(4)
    broken = organizations[1]
    with broken.transaction() as session:
        session.execute(text("UPDATE subscription_segments SET ends_at = :at"), {"at": day(2)})
        session.execute(NEXT_SEGMENT, {"at": day(2)})
    broken.use(9 * 10**13, at=day(5))
    result = close_together(MAY_CLOSED)
    assert (result.closed, len(result.invoices)) == (4, 4)
    assert serials([one for one in organizations if one is not broken]) == [1, 2, 3]
    assert [invoice.state for invoice in broken.invoices()] == ["draft"]
    assert [row.parked_reason for row in broken.rows("SELECT parked_reason FROM billing_profiles")] == [
        "period 1 could not be calculated: DataError"
    ]


NEXT_SEGMENT = text("""INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id,
    starts_at)
  SELECT organization_id, id, 2, 'gold@1', :at FROM subscriptions""")
STEPS = ("in_close", "after_close", "after_draft", "after_number", "after_invoice", "after_invoice_commit")


@pytest.mark.parametrize("step", STEPS)
def test_batch_that_fails_is_done_singly(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    organizations = create_many(3)
    monkeypatch.setattr(faults, "active_fault", [f"billing.{step}:raise"])
    monkeypatch.setattr(faults, "_hits", {})
    result = close_together(MAY_CLOSED)
    assert faults._hits[f"billing.{step}"] >= 1
    assert (result.closed, len(result.invoices), serials(organizations)) == (3, 3, [1, 2, 3])


def lock_row(session: SystemSession, organization_id: UUID) -> None:
    session.execute(text("SELECT FROM organizations WHERE id = :id FOR NO KEY UPDATE"), {"id": organization_id})


@pytest.mark.parametrize("lock", [lock_row, periods.lock_periods, wallet.lock_wallet])
def test_organization_that_is_locked_delays_only_itself(
    app: Flask, lock: Callable[[SystemSession, UUID], None]
) -> None:
    """Never: while one organization has to be waited for, the calls and payments of the others go on."""
    first, *others = create_many(3)

    def close() -> CloseResult:
        with app.app_context():
            return period_close.close_due(MAY_CLOSED)

    with ThreadPoolExecutor(1) as pool:
        with tenancy.system_session("billing.close") as holder:
            lock(holder, first.id)
            closing = pool.submit(close)
            while len(serials(others)) < len(others):
                assert not closing.done()
                time.sleep(0.01)
            assert not first.invoices()
        result = closing.result()
    assert (result.failed, result.closed, len(result.invoices)) == ([], 3, 3)
    assert serials([*others, first]) == [1, 2, 3]


PLACES = (("UTC", 1), ("Pacific/Kiritimati", 31), ("America/Santiago", 29), ("Europe/Paris", 15), ("Asia/Kolkata", 30))


def test_next_periods_of_many_organizations_are_those_of_each_alone(app: Flask) -> None:
    """With every billing day, across changes to summer time, and several months at once."""
    alone, together = ([found(f"{name}{nth}", *place) for nth, place in enumerate(PLACES)] for name in ("One", "All"))
    for at in (day(29, month=4), day(30, 12, month=10), day(3, month=12)):
        clock.freeze_time(at)
        for one in alone:
            periods.ensure_accounts(at, one.id)
        with count_statements(app) as statements:
            periods.ensure_accounts(at)
        assert len(statements) <= 15
        for one, other in zip(alone, together, strict=True):
            assert other.rows(CHAIN) == one.rows(CHAIN)
    assert len(together[0].rows(CHAIN)) == 9


def found(name: str, zone: str, billing_day: int) -> BillingOrganization:
    organization = create_organization(name, zone=zone)
    with tenancy.system_session("billing.close") as session:
        session.execute(
            text("UPDATE subscriptions SET anchor_day = :day WHERE organization_id = :id"),
            {"id": organization.id, "day": billing_day},
        )
    return organization


CHAIN = "SELECT seq, starts_at, ends_at, nominal_seconds, timezone, state FROM billing_periods ORDER BY seq"


def test_months_of_many_organizations_are_numbered_as_the_preview_lists_them() -> None:
    create_many(3)
    june = day(1, 2, month=6)
    clock.freeze_time(june)
    periods.ensure_accounts(june)
    previewed = [(item.invoice.organization_id, item.period) for item in period_close.preview_due(june)]
    invoices = close_together(june).invoices
    assert [(item.invoice.organization_id, item.period and item.period.seq) for item in invoices] == [
        (organization_id, period and period.seq) for organization_id, period in previewed
    ]
    assert [item.invoice.serial for item in invoices] == list(range(1, 7))


def count_transactions(organizations: list[BillingOrganization]) -> int:
    """How many transactions wrote the audit events of invoices that became final."""
    sql = text("""SELECT count(DISTINCT xmin::text) FROM audit_events
      WHERE organization_id = ANY (:ids) AND action = 'invoice.finalized'""")
    with tenancy.system_session("billing.close") as session:
        return int(session.scalar(sql, {"ids": [one.id for one in organizations]}) or 0)
