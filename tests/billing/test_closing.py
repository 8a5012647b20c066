"""Closing a period: once, in order, without losing usage, whoever closes and however often."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg2.errors
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from saas_api.billing import jobs, period_close, periods, previews, terms
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy
from tests.support.billing import Company, day, found

pytestmark = pytest.mark.usefixtures("context")
MAY = day(1, 2, month=5)


def due() -> CloseResult:
    clock.freeze_time(MAY)
    return period_close.close_due(MAY)


def test_account_is_created_once(context: Flask) -> None:
    company = found(at=day(20, 12, month=3))
    with company.transaction() as session:
        periods.ensure_account(session, company.id)
    [period] = company.rows("SELECT * FROM billing_periods")
    assert (period.starts_at, period.ends_at, period.state) == (day(20, 12, month=3), day(1), "open")


def test_terms_of_a_new_organization(context: Flask) -> None:
    company = found()
    with company.transaction() as session:
        service_terms = terms.get_terms(session, company.id)
    assert (service_terms.plan_version_id, service_terms.currency, service_terms.rate_limit_per_minute) == (
        "free@1",
        "USD",
        60,
    )
    assert (service_terms.organization_status, service_terms.standing) == ("active", "good")
    assert {meter: str(price.normalize()) for meter, price in service_terms.list_prices.items()} == {
        "email": "0.001",
        "sms": "0.01",
    }
    assert service_terms.quotas == {}


def test_missing_period_is_opened_when_terms_are_read(context: Flask) -> None:
    company = found()
    clock.freeze_time(day(15, month=7))
    with company.transaction() as session:
        assert terms.get_terms(session, company.id).period_starts_at == day(1, month=7)


def test_period_is_invoiced_once_and_after_its_grace(context: Flask) -> None:
    company = found(plan="starter@1")
    early = day(1, month=5) + timedelta(minutes=59)
    assert period_close.close_due(early).invoices == []
    assert [invoice.number for invoice in due().invoices] == ["INV-000001"]
    assert due().invoices == []
    [invoice] = company.invoices()
    assert invoice.due_at == clock.now() + timedelta(days=7)
    assert invoice.bill_to["name"] == "Acme"


def test_two_months_without_usage_become_two_invoices(context: Flask) -> None:
    company = found()
    clock.freeze_time(day(1, 2, month=6))
    jobs.close_periods()
    assert [invoice.serial for invoice in company.invoices()] == [1, 2]
    seqs = company.rows(
        "SELECT p.seq FROM invoices i JOIN billing_periods p ON p.id = i.billing_period_id ORDER BY serial"
    )
    assert [seq for (seq,) in seqs] == [1, 2]


def test_hourly_job_opens_the_next_period_three_days_ahead(context: Flask) -> None:
    company = found()
    clock.freeze_time(day(28, 1))
    jobs.close_periods()
    assert len(company.rows("SELECT 1 FROM billing_periods")) == 2


def test_concurrent_closes_create_one_invoice_for_each_organization(app: Flask, context: Flask) -> None:
    companies = [found(name, plan="starter@1") for name in ("Acme", "Carol", "Dora")]
    clock.freeze_time(MAY)
    start = threading.Barrier(6)

    def closer() -> int:
        with app.app_context():
            start.wait()
            return len(period_close.close_due(MAY).invoices)

    with ThreadPoolExecutor(6) as pool:
        written = [run.result() for run in [pool.submit(closer) for _ in range(6)]]
    assert sum(written) == 3
    assert sorted(invoice.serial for company in companies for invoice in company.invoices()) == [1, 2, 3]


def test_close_during_accepted_calls_loses_no_usage(app: Flask, context: Flask) -> None:
    company = found()
    clock.freeze_time(None)
    stop = threading.Event()

    def accept() -> tuple[int, int]:
        accepted = refused = 0
        with app.app_context(), company.transaction() as session:
            periods.ensure_period(session, company.id, clock.now())
        with app.app_context():
            while not stop.is_set():
                try:
                    company.use(1)
                    accepted += 1
                except IntegrityError as error:
                    refused += engine.violated_constraint(error) == "usage_events.billing_period_id"
        return accepted, refused

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(accept) for _ in range(3)]
        try:
            for _ in range(10):
                period_close.close_now(company.id)
        finally:
            stop.set()
        accepted = sum(run.result()[0] for run in runs)
    period_close.close_now(company.id)
    [(billed,)] = company.rows("SELECT coalesce(sum(quantity), 0) FROM invoice_lines WHERE kind = 'usage'")
    [(late,)] = company.rows("""SELECT count(*) FROM usage_events e JOIN billing_periods p ON p.id = e.billing_period_id
      WHERE e.recorded_at > p.closed_at""")
    assert (int(billed), late) == (accepted, 0)


def test_close_now_ends_the_period_and_bills_nothing_twice(context: Flask) -> None:
    company = found(plan="starter@1")
    company.use(100, at=day(5))
    clock.freeze_time(day(16))
    with company.transaction() as session:
        preview = previews.preview_current_period(session, company.id)
    [drafted] = period_close.preview_now(company.id)
    [invoice] = period_close.close_now(company.id).invoices
    assert company.lines() == {"base:starter@1": 1450, "usage:starter@1:sms": 100}
    assert invoice.total_minor == preview.bill.total_minor == drafted.total_minor == 1550
    assert preview.forecast.total_minor == 3000
    assert period_close.close_now(company.id).invoices == []
    periods = company.rows("SELECT starts_at, ends_at, state, is_cut FROM billing_periods ORDER BY seq")
    assert [tuple(period) for period in periods] == [
        (day(1), day(16), "invoiced", True),
        (day(16), day(1, month=5), "open", False),
    ]
    due()
    assert company.lines() == {"base:starter@1": 1450}


def test_close_now_moves_the_start_of_the_next_period(context: Flask) -> None:
    company = found(plan="starter@1")
    with company.transaction() as session:
        periods.ensure_period(session, company.id, day(2, month=5))
    clock.freeze_time(day(29))
    period_close.close_now(company.id)
    bounds = company.rows("SELECT starts_at, ends_at FROM billing_periods ORDER BY seq")
    assert [tuple(bound) for bound in bounds] == [(day(1), day(29)), (day(29), day(1, month=6))]


def test_run_killed_before_invoicing_is_finished_by_the_next_run(context: Flask) -> None:
    company = found()
    with tenancy.system_session("billing.close") as session:
        session.execute(
            text("""UPDATE billing_periods SET state = 'closed', closed_at = clock_timestamp()
              WHERE organization_id = :id"""),
            {"id": company.id},
        )
    assert len(due().invoices) == 1
    assert len(company.invoices()) == 1


def test_draft_under_review_has_no_number(context: Flask) -> None:
    company = found()
    with tenancy.system_session("billing.close") as session:
        session.execute(text("UPDATE billing_profiles SET review_drafts = true"))
    [summary] = due().invoices
    assert (summary.number, summary.status) == (None, "draft")
    assert due().invoices == []
    assert company.rows("SELECT state FROM billing_periods WHERE seq = 1") == [("invoiced",)]


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
    company = found(plan="starter@1")
    company.use(5, at=day(3))
    due()
    with pytest.raises(DBAPIError) as refusal, tenancy.system_session("billing.close") as session:
        session.execute(text(statement))
    assert isinstance(refusal.value.orig, psycopg2.errors.IntegrityError)


def test_tenant_role_cannot_write_invoices(context: Flask) -> None:
    company = found()
    due()
    with pytest.raises(DBAPIError) as refusal, company.transaction() as session:
        session.execute(text("UPDATE invoices SET state = 'void'"))
    assert isinstance(refusal.value.orig, psycopg2.errors.InsufficientPrivilege)


def run(app: Flask, *arguments: str) -> tuple[int, str]:
    result = app.test_cli_runner().invoke(args=["billing", "close", *arguments])
    return result.exit_code, result.output


def test_close_command(app: Flask, context: Flask) -> None:
    company: Company = found(plan="starter@1")
    clock.freeze_time(day(16))
    organization = ids.format_id("org", company.id)
    code, output = run(app, "--now", "--organization", organization, "--dry-run", "--json")
    assert (code, json.loads(output)["invoices"][0]["status"]) == (0, "draft")
    assert company.invoices() == []
    code, output = run(app, "--now", "--organization", organization, "--json")
    [invoice] = json.loads(output)["invoices"]
    assert (invoice["number"], invoice["total_amount"]) == ("INV-000001", "14.50")
    assert json.loads(run(app, "--organization", organization, "--json")[1])["invoices"] == []
    assert len(json.loads(run(app, "--at", "2026-05-01T02:00:00Z", "--json")[1])["invoices"]) == 1
    assert run(app, "--now")[0] == 2
    assert run(app, "--now", "--organization", ids.format_id("org", company.id)[:-1])[0] == 2
    code, output = run(app, "--organization", f"org_{'0' * 32}", "--now")
    assert (code, output.startswith(f"There is no organization org_{'0' * 32};")) == (1, True)
    assert run(app, "--at", "tomorrow")[0] == 2


def test_published_plans_are_public_and_complete(client: FlaskClient) -> None:
    answer = client.get("/api/v1/billing/plans")
    plans = {plan["code"]: plan for plan in answer.json["data"]["plans"]}
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
    }
    assert [tier["up_to"] for tier in plans["scale"]["prices"][1]["tiers"]] == ["100000", "1000000", None]
