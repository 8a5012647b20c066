"""Closing of periods: each is invoiced once, in order and without losing usage, also when closes run concurrently."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg2.errors
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from saas_api.billing import current_period, invoice_lifecycle, jobs, period_close, periods, previews, service_terms
from saas_api.billing.invoice_lifecycle import InvoiceNotCalculated
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock, faults, ids
from saas_api.core.db import engine, tenancy
from saas_api.usage.ledger import UsageRecord
from tests.support.billing import BillingOrganization, create_organization, day, publish_plan
from tests.support.billing_actions import OPERATOR, system_session

pytestmark = pytest.mark.usefixtures("context")
MAY = day(1, 2, month=5)


def due() -> CloseResult:
    clock.freeze_time(MAY)
    return period_close.close_due(MAY)


def test_account_is_created_once(context: Flask) -> None:
    organization = create_organization(at=day(20, 12, month=3))
    with organization.transaction() as session:
        periods.ensure_account(session, organization.id)
    [period] = organization.rows("SELECT * FROM billing_periods")
    assert (period.starts_at, period.ends_at, period.state) == (day(20, 12, month=3), day(1), "open")


def test_terms_of_a_new_organization(context: Flask) -> None:
    organization = create_organization()
    with organization.transaction() as session:
        terms = service_terms.get_terms(session, organization.id)
    assert (terms.plan_version_id, terms.currency, terms.rate_limit_per_minute) == (
        "free@1",
        "USD",
        60,
    )
    assert (terms.organization_status, terms.standing) == ("active", "good")
    assert {meter: str(price.normalize()) for meter, price in terms.list_prices.items()} == {
        "email": "0.001",
        "sms": "0.01",
    }
    assert terms.quotas == {}


def test_missing_period_is_opened_when_terms_are_read(context: Flask) -> None:
    organization = create_organization()
    clock.freeze_time(day(15, month=7))
    with organization.transaction() as session:
        assert service_terms.get_terms(session, organization.id).period_ends_at == day(1, month=8)


def test_period_is_invoiced_once_and_after_its_grace(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    early = day(1, month=5) + timedelta(minutes=59)
    assert period_close.close_due(early).invoices == []
    assert [item.invoice.number for item in due().invoices] == ["INV-000001"]
    assert due().invoices == []
    [invoice] = organization.invoices()
    assert invoice.due_at == clock.now() + timedelta(days=7)
    assert invoice.bill_to["name"] == "Acme"


def test_organizations_whose_periods_end_together_are_always_closed_in_the_same_order(superuser: Any) -> None:
    """A run continues where a killed one stopped, and a preview lists invoices in the order of their numbers."""
    organizations = [create_organization(f"Tied{number}").id for number in range(8)]
    with superuser, superuser.cursor() as cursor:
        cursor.execute("ANALYZE billing_periods")  # as autovacuum may at any time; PostgreSQL then groups by hash
    previewed = [item.invoice.organization_id for item in period_close.preview_due(MAY)]
    assert previewed == sorted(organizations)
    assert [item.invoice.organization_id for item in due().invoices] == previewed


def test_two_months_without_usage_become_two_invoices(context: Flask) -> None:
    organization = create_organization()
    clock.freeze_time(day(1, 2, month=6))
    jobs.close_periods()
    assert [invoice.serial for invoice in organization.invoices()] == [1, 2]
    seqs = organization.rows(
        "SELECT p.seq FROM invoices i JOIN billing_periods p ON p.id = i.billing_period_id ORDER BY serial"
    )
    assert [seq for (seq,) in seqs] == [1, 2]


def test_hourly_job_opens_the_next_period_three_days_ahead(context: Flask) -> None:
    organization = create_organization()
    clock.freeze_time(day(28, 1))
    jobs.close_periods()
    assert len(organization.rows("SELECT 1 FROM billing_periods")) == 2


def test_concurrent_closes_create_one_invoice_for_each_organization(app: Flask, context: Flask) -> None:
    organizations = [create_organization(name, plan="starter@1") for name in ("Acme", "Carol", "Dora")]
    clock.freeze_time(MAY)
    start = threading.Barrier(6)

    def closer() -> int:
        with app.app_context():
            start.wait()
            return len(period_close.close_due(MAY).invoices)

    with ThreadPoolExecutor(6) as pool:
        written = [run.result() for run in [pool.submit(closer) for _ in range(6)]]
    assert sum(written) == 3
    assert sorted(invoice.serial for organization in organizations for invoice in organization.invoices()) == [1, 2, 3]


def test_concurrent_closes_count_every_period_and_invoice_once(app: Flask, context: Flask) -> None:
    """Small: closes that ran at once reported other numbers of periods and invoices than there were."""
    for name in ("Acme", "Carol"):
        create_organization(name, plan="starter@1")
    july = day(1, 2, month=7)
    clock.freeze_time(july)
    start = threading.Barrier(4)

    def closer() -> CloseResult:
        with app.app_context():
            start.wait()
            return period_close.close_due(july)

    with ThreadPoolExecutor(4) as pool:
        results = [run.result() for run in [pool.submit(closer) for _ in range(4)]]
    assert [result.failed for result in results] == [[]] * 4
    assert sum(result.closed for result in results) == 6
    numbers = [item.invoice.number for result in results for item in result.invoices]
    assert sorted(map(str, numbers)) == [f"INV-{serial:06d}" for serial in range(1, 7)]


def test_close_that_fails_counts_what_it_did(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small: an invoice that was committed before a later period failed was missing from the result."""
    organization = create_organization(plan="starter@1")
    june = day(1, 2, month=6)
    clock.freeze_time(june)
    monkeypatch.setattr(faults, "active_fault", ["billing.after_draft:raise:2"])
    monkeypatch.setattr(faults, "_hits", {})
    result = period_close.close_due(june)
    assert (result.closed, result.failed) == (2, [organization.id])
    assert [item.invoice.number for item in result.invoices] == ["INV-000001"]
    assert [item.invoice.number for item in period_close.close_due(june).invoices] == ["INV-000002"]


def test_call_that_records_late_usage_does_not_delay_the_invoice(context: Flask) -> None:
    """Small: a period to which an open transaction referred was skipped, and closed without an invoice."""
    organization = create_organization(at=day(1, month=3))
    with organization.transaction() as session:
        periods.ensure_period(session, organization.id, day(2))
    with tenancy.system_session("billing.close") as session:
        session.execute(text("UPDATE billing_periods SET state = 'closed', closed_at = now() WHERE seq = 1"))
    clock.freeze_time(day(1, 2))
    event = UsageRecord(ids.new_id(), "test", "late", "sms", 1, day(20, month=3))
    with organization.transaction() as session:
        for statement in periods.record_usage_statements(organization.id, event, is_late=True):
            session.connection().exec_driver_sql(*statement)
        with tenancy.system_session("billing.close") as closing:
            assert invoice_lifecycle.invoice_next_period(closing, organization.id) is not None


def test_close_during_accepted_calls_loses_no_usage(app: Flask, context: Flask) -> None:
    organization = create_organization()
    clock.freeze_time(None)
    stop = threading.Event()

    def accept() -> tuple[int, int]:
        accepted = refused = 0
        with app.app_context(), organization.transaction() as session:
            periods.ensure_period(session, organization.id, clock.now())
        with app.app_context():
            while not stop.is_set():
                try:
                    organization.use(1)
                    accepted += 1
                except IntegrityError as error:
                    refused += engine.violated_constraint(error) == "usage_events.billing_period_id"
        return accepted, refused

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(accept) for _ in range(3)]
        try:
            for _ in range(10):
                period_close.close_now(organization.id)
        finally:
            stop.set()
        accepted = sum(run.result()[0] for run in runs)
    period_close.close_now(organization.id)
    [(billed,)] = organization.rows("SELECT coalesce(sum(quantity), 0) FROM invoice_lines WHERE kind = 'usage'")
    [(late,)] = (
        organization.rows("""SELECT count(*) FROM usage_events e JOIN billing_periods p ON p.id = e.billing_period_id
      WHERE e.recorded_at > p.closed_at""")
    )
    assert (int(billed), late) == (accepted, 0)


def test_close_now_ends_the_period_and_bills_nothing_twice(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    organization.use(5_100, at=day(5))
    clock.freeze_time(day(16))
    with organization.transaction() as session:
        running = current_period.read_current_period(session, organization.id)
        final = previews.preview_final_bill(session, running)
    [drafted] = period_close.preview_now(organization.id)
    [item] = period_close.close_now(organization.id).invoices
    assert organization.lines() == {"base:starter@1": 1450, "usage:starter@1:sms": 100}
    assert item.invoice.total_minor == final.total_minor == drafted.invoice.total_minor == 1550
    assert running.bill.total_minor == 3000
    assert period_close.close_now(organization.id).invoices == []
    periods = organization.rows("SELECT starts_at, ends_at, state, is_cut FROM billing_periods ORDER BY seq")
    assert [tuple(period) for period in periods] == [
        (day(1), day(16), "invoiced", True),
        (day(16), day(1, month=5), "open", False),
    ]
    due()
    assert organization.lines() == {"base:starter@1": 1450}


def test_close_now_moves_the_start_of_the_next_period(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    with organization.transaction() as session:
        periods.ensure_period(session, organization.id, day(2, month=5))
    clock.freeze_time(day(29))
    period_close.close_now(organization.id)
    bounds = organization.rows("SELECT starts_at, ends_at FROM billing_periods ORDER BY seq")
    assert [tuple(bound) for bound in bounds] == [(day(1), day(29)), (day(29), day(1, month=6))]


def test_run_killed_before_invoicing_is_finished_by_the_next_run(context: Flask) -> None:
    organization = create_organization()
    with tenancy.system_session("billing.close") as session:
        session.execute(
            text("""UPDATE billing_periods SET state = 'closed', closed_at = clock_timestamp()
              WHERE organization_id = :id"""),
            {"id": organization.id},
        )
    assert len(due().invoices) == 1
    assert len(organization.invoices()) == 1


def test_period_that_cannot_be_invoiced_does_not_block_later_ones(context: Flask) -> None:
    """Small: an amount beyond bigint left its period closed for ever, and with it all later ones."""
    publish_plan("gold", sms_price="10000")
    organization = create_organization(plan="gold@1")
    organization.use(9 * 10**13, at=day(5))
    result = due()
    assert (result.failed, [item.invoice.status for item in result.invoices]) == ([], ["draft"])
    [profile] = organization.rows("SELECT parked_reason FROM billing_profiles")
    assert profile.parked_reason == "period 1 could not be calculated: DataError"
    organization.use(3, at=clock.now())
    june = day(1, 2, month=6)
    clock.freeze_time(june)
    [later] = period_close.close_due(june).invoices
    assert (later.invoice.status, later.invoice.total_minor) == ("draft", 3_000_000)
    first = organization.rows("SELECT id FROM invoices ORDER BY created_at LIMIT 1")[0].id
    with system_session() as session:
        invoice_lifecycle.release_billing(session, organization.id, OPERATOR)
    for act in (invoice_lifecycle.finalize_invoice, invoice_lifecycle.recalculate_draft):
        with pytest.raises(InvoiceNotCalculated), system_session() as session:
            act(session, organization.id, first, OPERATOR)
    with system_session() as session:
        invoice_lifecycle.delete_draft(session, organization.id, first, OPERATOR)
        invoice_lifecycle.finalize_invoice(session, organization.id, later.invoice.id, OPERATOR)
    assert [invoice.state for invoice in organization.invoices()] == ["open"]


def test_draft_under_review_has_no_number(context: Flask) -> None:
    organization = create_organization()
    with tenancy.system_session("billing.close") as session:
        session.execute(text("UPDATE billing_profiles SET review_drafts = true"))
    [item] = due().invoices
    assert (item.invoice.number, item.invoice.status) == (None, "draft")
    assert due().invoices == []
    assert organization.rows("SELECT state FROM billing_periods WHERE seq = 1") == [("invoiced",)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoices SET total_minor = 0, subtotal_minor = 0",
        "UPDATE invoices SET state = 'draft'",
        "UPDATE invoices SET paid_minor = -1",
        "DELETE FROM invoices",
        "UPDATE invoice_lines SET amount_minor = 1",
        "DELETE FROM invoice_lines",
        "UPDATE usage_events SET quantity = 5",
        "DELETE FROM usage_events",
        "DELETE FROM billing_periods",
        "UPDATE billing_periods SET state = 'open', closed_at = NULL WHERE seq = 1",
        "UPDATE billing_periods SET ends_at = ends_at + interval '1 day' WHERE seq = 1",
        "UPDATE subscription_segments SET ends_at = starts_at + interval '1 hour' WHERE ends_at IS NULL",
        "UPDATE prices SET unit_price = 0",
        "UPDATE plan_versions SET base_amount_minor = 0",
    ],
)
def test_billed_rows_cannot_be_changed_by_the_system_role(context: Flask, statement: str) -> None:
    organization = create_organization(plan="starter@1")
    organization.use(5, at=day(3))
    due()
    with pytest.raises(DBAPIError) as refusal, tenancy.system_session("billing.close") as session:
        session.execute(text(statement))
    assert isinstance(refusal.value.orig, psycopg2.errors.IntegrityError)


def test_tenant_role_cannot_write_invoices(context: Flask) -> None:
    organization = create_organization()
    due()
    with pytest.raises(DBAPIError) as refusal, organization.transaction() as session:
        session.execute(text("UPDATE invoices SET state = 'void'"))
    assert isinstance(refusal.value.orig, psycopg2.errors.InsufficientPrivilege)


def run(app: Flask, *arguments: str) -> tuple[int, str]:
    result = app.test_cli_runner().invoke(args=["billing", "close", *arguments])
    return result.exit_code, result.output


def test_close_command(app: Flask, context: Flask) -> None:
    organization: BillingOrganization = create_organization(plan="starter@1")
    clock.freeze_time(day(16))
    organization_id = ids.format_id("org", organization.id)
    code, output = run(app, "--now", "--organization", organization_id, "--dry-run", "--json")
    [draft] = json.loads(output)["invoices"]
    assert (code, draft["id"], draft["status"], draft["total_amount"]) == (0, None, "draft", "14.50")
    assert organization.invoices() == []
    code, output = run(app, "--now", "--organization", organization_id, "--json")
    [invoice] = json.loads(output)["invoices"]
    assert (invoice["number"], invoice["total_amount"]) == ("INV-000001", "14.50")
    assert (invoice["amount_due"], invoice["due_date"]) == ("14.50", "2026-04-23T00:00:00.000Z")
    assert invoice["period"]["ends_at"] == "2026-04-16T00:00:00.000Z"
    assert json.loads(run(app, "--organization", organization_id, "--json")[1])["invoices"] == []
    assert len(json.loads(run(app, "--at", "2026-05-01T02:00:00Z", "--json")[1])["invoices"]) == 1
    assert run(app, "--now")[0] == 2
    assert run(app, "--now", "--organization", ids.format_id("org", organization.id)[:-1])[0] == 2
    code, output = run(app, "--organization", f"org_{'0' * 32}", "--now")
    assert (code, output.startswith(f"There is no organization org_{'0' * 32};")) == (1, True)
    assert run(app, "--at", "tomorrow")[0] == 2


def test_close_now_command_that_is_repeated_creates_no_other_invoice(app: Flask, context: Flask) -> None:
    """Small: each repeat made another invoice, though a repeat is said to be harmless."""
    organization = create_organization(plan="starter@1")
    organization_id = ids.format_id("org", organization.id)
    clock.freeze_time(day(16))
    assert len(json.loads(run(app, "--now", "--organization", organization_id, "--json")[1])["invoices"]) == 1
    clock.freeze_time(day(16) + timedelta(minutes=59))
    for option in ("--dry-run", "--json"):
        result = json.loads(run(app, "--now", "--organization", organization_id, "--json", option)[1])
        assert (result["closed"], result["invoices"]) == (0, [])
    clock.freeze_time(day(16, 1))
    assert len(json.loads(run(app, "--now", "--organization", organization_id, "--json")[1])["invoices"]) == 1
    assert len(organization.invoices()) == 2


def test_close_now_command_invoices_the_usage_since_the_last_one(app: Flask, context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    organization_id = ids.format_id("org", organization.id)
    clock.freeze_time(day(16))
    run(app, "--now", "--organization", organization_id)
    clock.freeze_time(day(16) + timedelta(minutes=1))
    organization.use(50)
    clock.freeze_time(day(16) + timedelta(minutes=2))
    assert len(json.loads(run(app, "--now", "--organization", organization_id, "--json")[1])["invoices"]) == 1


def test_concurrent_close_now_commands_create_one_invoice(app: Flask, context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    start = threading.Barrier(4)
    clock.freeze_time(None)

    def closer() -> tuple[int, int]:
        with app.app_context():
            start.wait()
            result = period_close.close_now(organization.id, is_repeat_ignored=True)
            return result.closed, len(result.invoices)

    closed_before = len(organization.rows("SELECT 1 FROM billing_periods WHERE state <> 'open'"))
    with ThreadPoolExecutor(4) as pool:
        results = [run.result() for run in [pool.submit(closer) for _ in range(4)]]
    closed = organization.rows("SELECT 1 FROM billing_periods WHERE state = 'invoiced'")
    assert sum(count for count, _ in results) == len(closed) - closed_before
    assert sum(count for _, count in results) == len(organization.invoices()) == len(closed)
    assert organization.rows("SELECT count(*) FROM billing_periods WHERE is_cut") == [(1,)]


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59Z", "2080-01-01", "0001-01-01", "9999-12-31T23:59:59-12:00"])
def test_close_at_a_remote_time_is_refused(app: Flask, context: Flask, at: str) -> None:
    """Small: the end of the year 9999 printed a traceback, and decades ahead every month got an invoice."""
    organization = create_organization(plan="starter@1")
    code, output = run(app, "--at", at)
    assert code in {1, 2}
    assert "Must lie between" in output or "is no time" in output
    assert organization.invoices() == []


def test_published_plans_are_public_and_complete(client: FlaskClient) -> None:
    response = client.get("/api/v1/billing/plans")
    plans = {plan["code"]: plan for plan in response.json["data"]["plans"]}
    assert list(plans) == ["free", "starter", "pro", "scale"]
    assert [plan["base_amount"] for plan in plans.values()] == ["0.00", "29.00", "99.00", "499.00"]
    assert [plan["rate_limit_per_minute"] for plan in plans.values()] == [60, 600, 6000, 60000]
    assert plans["free"]["prices"][1] == {
        "meter": "sms",
        "unit": "segment",
        "model": "per_unit",
        "included": "1000",
        "unit_price": "0.01",
        "tiers": [],
        "package": None,
        "max_amount": None,
        "by": None,
    }
    assert [tier["up_to"] for tier in plans["scale"]["prices"][1]["tiers"]] == ["100000", "1000000", None]
