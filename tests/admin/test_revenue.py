"""Revenue of the platform, by worked examples: the page, its CSV files, and currencies that are never added up."""

import csv
import io
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.admin import context as console_context
from saas_api.admin import revenue
from saas_api.billing import plans
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.accounts import User
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.console import check_operator_access, open_console, sign_in_operator
from tests.support.payments import IsolatedClient

NOW = day(10, 12, month=7)
FILES = tuple(f"/admin/revenue/{name}.csv?reason=ticket+4711" for name in revenue.FIGURES)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


def execute(sql: str, **values: Any) -> Any:
    with tenancy.system_session("queue.runs") as session:
        result = session.execute(sa.text(sql), values)
        return result.scalar() if result.returns_rows else None  # type: ignore[attr-defined]  # a cursor's


def add_invoice(
    organization: BillingOrganization, at: datetime, lines: Mapping[str, tuple[str, int]], currency: str = "USD"
) -> Any:
    """Finalize an invoice with lines of (plan version, amount) by kind, or by meter for usage; due seven days later."""
    invoice_id = execute(
        """INSERT INTO invoices (organization_id, kind, currency, rule_version, subtotal_minor, total_minor)
          VALUES (:org, 'manual', :currency, 1, :total, :total) RETURNING id""",
        org=organization.id,
        currency=currency,
        total=sum(amount for _, amount in lines.values()),
    )
    for position, (name, (version, amount)) in enumerate(lines.items()):
        kind = "usage" if name in ("sms", "email") else name
        execute(
            """INSERT INTO invoice_lines (organization_id, invoice_id, position, source_key, kind, description,
                plan_version_id, meter_code, amount_minor)
              VALUES (:org, :invoice, :position, :key, :kind, 'Line', :version, :meter, :amount)""",
            org=organization.id,
            invoice=invoice_id,
            position=position,
            key=f"{kind}:{name}",
            kind=kind,
            version=version or None,
            meter=name if kind == "usage" else None,
            amount=amount,
        )
    execute(
        """UPDATE invoices SET state = CASE total_minor WHEN 0 THEN 'paid' ELSE 'open' END, series = 'T', serial = n,
            number = 'T-' || n, finalized_at = :at, due_at = :due, paid_at = CASE total_minor WHEN 0 THEN :at END
          FROM (SELECT count(*) + 1 AS n FROM invoices WHERE number IS NOT NULL) numbers
          WHERE id = :invoice""",
        at=at,
        due=at + timedelta(days=7),
        invoice=invoice_id,
    )
    return invoice_id


def add_credit_note(organization: BillingOrganization, invoice_id: Any, kind: str, amount: int, at: datetime) -> None:
    note_id = execute(
        """INSERT INTO credit_notes (organization_id, invoice_id, series, serial, number, currency, reason, total_minor,
            to_due_minor, issued_at)
          SELECT :org, :invoice, 'C', n, 'C-' || n, 'USD', 'goodwill', :amount, :amount, :at
          FROM (SELECT count(*) + 1 AS n FROM credit_notes) numbers RETURNING id""",
        org=organization.id,
        invoice=invoice_id,
        amount=amount,
        at=at,
    )
    execute(
        """INSERT INTO credit_note_lines (organization_id, credit_note_id, invoice_line_id, amount_minor)
          SELECT organization_id, :note, id, :amount FROM invoice_lines WHERE invoice_id = :invoice AND kind = :kind""",
        note=note_id,
        amount=amount,
        invoice=invoice_id,
        kind=kind,
    )


def use_promotion(organization: BillingOrganization, invoice_id: Any, amount: int, at: datetime) -> None:
    organization.grant(amount, "promotional", 10)
    execute(
        """INSERT INTO credit_entries (organization_id, grant_id, invoice_id, delta_minor, reason, at)
          SELECT organization_id, id, :invoice, -amount_minor, 'apply', :at FROM credit_grants
          WHERE organization_id = :org AND kind = 'promotional'""",
        org=organization.id,
        invoice=invoice_id,
        at=at,
    )


def read(name: str, currency: str = "USD") -> list[Any]:
    with console_context.read_session() as session:
        return [row for row in revenue.read_figure(session, name, NOW) if row.currency == currency]


def months(rows: list[Any], *fields: str) -> dict[int, tuple[int, ...]]:
    """The fields that are not all 0, by month of 2026."""
    found = {row.month.month: tuple(getattr(row, f"{name}_minor") for name in fields) for row in rows}
    return {month: values for month, values in found.items() if any(values)}


def test_mrr_moves_by_new_expanded_contracted_and_lost_fees(context: Flask) -> None:
    acme, carol, bob = create_organization(), create_organization("Carol", day(10)), create_organization("Bob")
    acme.switch("starter@1", day(1, 1))
    acme.switch("pro@1", day(15, month=5))
    acme.switch("starter@1", day(1, month=6))  # midnight of the first is June
    carol.switch("pro@1", day(10, 1))
    execute("INSERT INTO billing_pauses VALUES (:org, :at)", org=carol.id, at=day(20, month=6))
    free = {"model": "per_unit", "unit_price": "0"}
    names = {"plan": "euro", "name": "Euro", "currency": "EUR", "base_amount": "50.00", "min_spend": "0.00"}
    content = {"prices": {"sms": free, "email": free}, "entitlements": {"rate_limit_per_minute": 60}}
    bob.switch(plans.publish_plan({**names, **content}, SYSTEM_ACTOR).version_id, day(5, month=6))
    execute("UPDATE organizations SET status = 'closed', closed_at = :at WHERE id = :id", at=day(2, month=7), id=bob.id)
    fields = ("start", "new", "expansion", "contraction", "churn", "end")
    rows = read("mrr")
    assert months(rows, *fields) == {
        4: (0, 12800, 0, 0, 0, 12800),
        5: (12800, 0, 7000, 0, 0, 19800),
        6: (19800, 0, 0, 7000, 9900, 2900),
        7: (2900, 0, 0, 0, 0, 2900),
    }
    assert [(row.month.year, row.month.month) for row in (rows[0], rows[-1])] == [(2025, 8), (2026, 7)]
    assert [row.customers for row in rows[-4:]] == [2, 2, 1, 1]
    assert months(read("mrr", "EUR"), *fields) == {6: (0, 5000, 0, 0, 0, 5000), 7: (5000, 0, 0, 0, 5000, 0)}


def test_a_fee_of_less_than_a_month_leaves_no_trace_in_the_months_around_it(context: Flask) -> None:
    acme = create_organization()
    acme.switch("pro@1", day(5, month=5))
    acme.switch("free@1", day(25, month=5))
    assert months(read("mrr"), "start", "new", "churn", "end") == {}


@pytest.fixture
def invoiced(context: Flask) -> tuple[BillingOrganization, BillingOrganization]:
    """Acme and Carol with invoices of May to July, a credit note, promotional credit, and what does not count."""
    acme, carol = create_organization(), create_organization("Carol")
    may = add_invoice(acme, day(1, 3, month=5), {"base": ("pro@1", 9900), "sms": ("pro@1", 10000)})
    add_invoice(acme, day(1, 3, month=6), {"base": ("pro@1", 9900), "sms": ("pro@1", -12000), "carry": ("", 2100)})
    add_invoice(acme, day(1, 3, month=7), {"base": ("starter@1", 2900), "email": ("starter@1", 100)})
    add_credit_note(acme, may, "usage", 4000, day(2, month=7))
    carols = add_invoice(carol, day(30, 23, month=6), {"minimum": ("pro@1", 5000), "manual": ("", 1000)})
    use_promotion(carol, carols, 1500, day(30, 23, month=6))
    add_invoice(carol, day(2, month=7), {"base": ("pro@1", 700)}, "EUR")
    void = add_invoice(carol, day(3, month=7), {"base": ("pro@1", 9900)})
    execute("UPDATE invoices SET state = 'void', voided_at = :at WHERE id = :id", at=day(4, month=7), id=void)
    execute(
        "INSERT INTO invoices (organization_id, kind, currency, rule_version) VALUES (:org, 'manual', 'USD', 1)",
        org=carol.id,
    )
    return acme, carol


def test_net_revenue_is_invoices_less_credit_notes_and_promotions_of_the_month(invoiced: Any) -> None:
    assert months(read("net-revenue"), "invoiced", "credited", "promotion", "net") == {
        5: (19900, 0, 0, 19900),
        6: (9900 - 12000 + 6000, 0, 1500, 2400),
        7: (3000, 4000, 0, -1000),
    }
    assert months(read("net-revenue", "EUR"), "net") == {7: (700,)}


def test_splits_by_plan_and_by_meter_add_up_to_net_revenue(invoiced: Any) -> None:
    by_plan = {(row.month.month, row.name): row.net_minor for row in read("plans")}
    assert by_plan == {
        (5, "Pro"): 19900,
        (6, "Pro"): 9900 - 12000 + 5000,
        (6, "Manual lines"): 1000,
        (6, "Promotional credit"): -1500,
        (7, "Pro"): -4000,
        (7, "Starter"): 3000,
    }
    by_meter = {(row.month.month, row.name): row.net_minor for row in read("meters")}
    assert by_meter == {
        (5, "Plan fees"): 9900,
        (5, "SMS"): 10000,
        (6, "Plan fees"): 9900,
        (6, "SMS"): -12000,
        (6, "Minimum spend"): 5000,
        (6, "Manual lines"): 1000,
        (6, "Promotional credit"): -1500,
        (7, "Plan fees"): 2900,
        (7, "SMS"): -4000,
        (7, "Email"): 100,
    }
    net = sum(row.net_minor for row in read("net-revenue"))
    assert sum(by_plan.values()) == sum(by_meter.values()) == net


def test_top_customers_are_ordered_by_net_revenue(invoiced: Any) -> None:
    assert [(row.name, row.net_minor) for row in read("top-customers")] == [("Acme", 16800), ("Carol", 4500)]
    assert [(row.name, row.net_minor) for row in read("top-customers", "EUR")] == [("Carol", 700)]


def test_fading_customers_pay_a_fifth_less_than_in_the_quarter_before(context: Flask) -> None:
    for name, before, after in (("Acme", 10000, 8000), ("Bob", 10000, 8001), ("Carol", 5000, 0), ("Dora", 0, 500)):
        organization = create_organization(name)
        for at, amount in ((day(31, month=3), before), (day(1, month=4), after), (day(1, month=7), 0)):
            if amount:
                add_invoice(organization, at, {"base": ("pro@1", amount)})
    fading = [(row.name, row.earlier_minor, row.recent_minor) for row in read("fading-customers")]
    assert fading == [("Carol", 5000, 0), ("Acme", 10000, 8000)]
    organization = create_organization("Large")
    for at, amount in ((day(31, month=3), 90000), (day(1, month=4), 80000)):  # a larger loss, of less than a fifth
        add_invoice(organization, at, {"base": ("pro@1", amount)})
    with console_context.read_session() as session:
        assert [row.name for row in revenue.read_figure(session, "fading-customers", NOW, most=1)] == ["Carol"]


def test_cohorts_are_of_the_first_paid_month_and_count_who_pays_later(invoiced: Any) -> None:
    bob = create_organization("Bob")
    add_invoice(bob, day(1, 3, month=5), {"base": ("pro@1", 500)})
    add_invoice(bob, day(1, 3, month=6), {"base": ("free@1", 0)})
    long_ago = create_organization("Dora")
    add_invoice(long_ago, day(1, 3, month=5) - timedelta(days=365), {"base": ("pro@1", 500)})
    add_invoice(long_ago, day(1, 3, month=6), {"base": ("pro@1", 500)})
    rows = read("cohorts")
    found = {(row.cohort.month, row.month.month): (row.organizations, row.paying, row.net_minor) for row in rows}
    assert found == {
        (5, 5): (2, 2, 20_400),
        (5, 6): (2, 0, -2_100),  # Acme's credit
        (5, 7): (2, 0, -1_000),
        (6, 6): (1, 1, 4_500),
        (6, 7): (1, 0, 0),
    }
    assert [(row.month.month, row.net_minor) for row in read("cohorts", "EUR")] == [(7, 700)]
    june, may = revenue.list_cohorts(rows)
    assert [(may.month, len(may.months)), (june.month, len(june.months))] == [
        (day(1, month=5).date(), 3),
        (day(1, month=6).date(), 2),
    ]


def test_payment_success_counts_finished_attempts_by_provider(invoiced: Any) -> None:
    acme, _ = invoiced
    invoice_id = acme.invoices()[0].id
    attempts = (
        ("mock", "failed", day(1, month=3)),
        ("mock", "canceled", day(2, month=3)),
        ("mock", "failed", day(9, month=7)),
        ("offline", "failed", day(9, month=7)),
        ("stripe", "failed", day(1, month=7) - timedelta(days=365)),
        ("mock", "created", day(10, month=7)),
    )
    for provider, state, at in attempts:
        values = {"org": acme.id, "invoice": invoice_id, "provider": provider, "at": at}
        payment_id = execute(
            """INSERT INTO payments (organization_id, invoice_id, provider, initiated_by, currency, amount_minor,
              created_at) VALUES (:org, :invoice, :provider, 'customer', 'USD', 100, :at) RETURNING id""",
            **values,
        )
        if state != "created":
            execute(
                "UPDATE payments SET state = :state, settled_at = :at WHERE id = :id", state=state, at=at, id=payment_id
            )
    [row] = read("payments")
    assert (row.provider, row.paid, row.failed, row.recent_failed, row.in_progress) == ("mock", 0, 2, 1, 1)


def test_overdue_invoices_are_divided_by_full_days(context: Flask) -> None:
    acme = create_organization()
    for days, amount in ((0, 1), (7, 10), (8, 100), (90, 1000), (91, 10000), (-1, 5)):
        add_invoice(acme, NOW - timedelta(days=days + 7, hours=1), {"base": ("pro@1", amount)})
    found = {row.least: (row.invoices, row.organizations, row.due_minor) for row in read("overdue")}
    assert found == {0: (2, 1, 11), 8: (1, 1, 100), 31: (0, 0, 0), 61: (1, 1, 1000), 91: (1, 1, 10000)}


def test_page_shows_one_currency_and_files_have_all(app: Flask, client: FlaskClient, invoiced: Any) -> None:
    clock.freeze_time(None)
    olga = sign_in_operator(app, client)
    clock.freeze_time(NOW)
    page = olga.read("/admin/revenue")  # EUR comes first
    assert ("€7.00" in page, "$199.00" in page) == (True, False)
    page = olga.read("/admin/revenue?currency=USD")
    assert "-$10.00" in page
    assert "€7.00" not in page
    customers = page.partition('id="top-customers"')[2].partition("</section>")[0]
    assert re.findall(r'data-th="Share" class="num">([^<]+)<', customers) == ["78.9%", "21.1%"]
    assert re.search(r'data-th="Month 1" class="num tight">100% <span class="timeline-note">\$199<', page)
    response = olga.open("/admin/revenue/net-revenue.csv?reason=ticket+4711")
    rows = list(csv.DictReader(io.StringIO(response.text.removeprefix("\ufeff"))))
    assert {(row["currency"], row["net_revenue"]) for row in rows if row["month"] == "2026-07-01"} == {
        ("EUR", "7.00"),
        ("USD", "-10.00"),
    }


def test_an_empty_platform_has_a_revenue_page_and_empty_files(app: Flask, olga: User) -> None:
    browser = open_console(app, olga)
    assert "No organization has been on a plan with a monthly fee" in browser.read("/admin/revenue")
    assert [browser.open(path).status_code for path in FILES] == [200] * len(FILES)


def test_files_require_a_known_figure_a_reason_and_the_role_admin(app: Flask, client: FlaskClient, carol: User) -> None:
    check_operator_access(app, client, carol, {"/admin/revenue": "support", FILES[0]: "admin"})
    olga = open_console(app, carol)
    paths = ("revenue/mrr.csv", "revenue/margin.csv?reason=ticket+4711", "revenue?currency=XXX")
    assert [olga.open(f"/admin/{path}").status_code for path in paths] == [422, 404, 422]
