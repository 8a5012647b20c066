"""Figures of the billing pages equal those of the API and the invoice, to the cent."""

import csv
import io
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes, current_period, invoice_documents, period_close, periods, spend_cap
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.formatting import EMPTY_VALUE
from tests.support.accounts import join, sign_in, sign_up
from tests.support.billing import day
from tests.support.billing_pages import API, BILLING, browse, get_api, invoice_page, page_text
from tests.support.pages import Browser
from tests.support.payments import PayingOrganization


def money(amount: str) -> str:
    """An amount of the API in the format of the pages."""
    value = Decimal(amount)
    return f"{'-' if value < 0 else ''}${abs(value):,.2f}"


def open_period(acme: PayingOrganization) -> None:
    with acme.transaction() as session:
        periods.ensure_period(session, acme.id, clock.now())


def use(acme: PayingOrganization) -> None:
    """Some usage now, some of it late, and another plan in the middle of the period."""
    open_period(acme)
    now = clock.now()
    acme.use(1_234, at=now - timedelta(minutes=3))
    acme.use(77, "email", at=now - timedelta(minutes=2))
    acme.switch("starter@1", now - timedelta(minutes=1))
    acme.use(5_055, at=now - timedelta(seconds=30))


def test_current_period_equals_the_api(acme: PayingOrganization, may: Browser) -> None:
    use(acme)
    data, cap = get_api(acme, "/calculate"), get_api(acme, "/alerts")["spend_cap"]
    page = page_text(may.open(BILLING))
    assert len([line for line in data["lines"] if line["meter"]]) >= 3
    assert not [line for line in data["lines"] if line["kind"] == "usage" and money(line["amount"]) not in page]
    assert sum(Decimal(line["amount"]) for line in data["lines"]) == Decimal(data["total_amount"])
    so_far = money(data["total_amount"])
    assert f"Cost so far {so_far} plan fee and usage, {data['total_requests']} accepted calls" in page
    assert f"Total so far {so_far}" in page
    assert f"{so_far} of your spend cap of {money(cap['amount'])}" in page
    assert re.search(r"May 1 \N{EN DASH} May 31, 2026 ?\( ?UTC", page)


def test_current_bill_as_csv_adds_up_to_the_cost_so_far(acme: PayingOrganization, may: Browser) -> None:
    use(acme)
    data = get_api(acme, "/calculate")
    rows = list(csv.DictReader(io.StringIO(may.open(f"{BILLING}/current-bill.csv").text.removeprefix("\ufeff"))))
    assert [row["amount"] for row in rows] == [line["amount"] for line in data["lines"]]
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal(data["total_amount"])
    [email] = [row for row in rows if row["meter"] == "email"]
    assert (email["unit"], email["quantity"], email["included"], email["overage"]) == ("message", "77", "0", "77")


def test_open_invoice_can_be_paid_from_the_current_bill(app: Flask, acme: PayingOrganization, owner: Browser) -> None:
    number, link = acme.invoice().number, f'href="{invoice_page(acme)}#pay">Pay'
    page = owner.open(BILLING)
    assert f"{link} {number}" in page.text
    assert f"{number} has been overdue since" in page_text(page)
    join(app, acme.owner.organization_id, "vera@acme.example", "viewer")
    viewer = browse(app, sign_in(acme.client, "vera@acme.example")).open(BILLING)
    assert link not in viewer.text
    assert f">View {number}" in viewer.text


def test_cost_so_far_is_the_same_figure_on_every_page(acme: PayingOrganization, may: Browser) -> None:
    """G7: six pages had six figures, one of them with three decimals."""
    open_period(acme)
    acme.use(1_235)  # at 0.005: 6.175, with the plan fee 105.175
    paths = ("/dashboard", BILLING, f"{BILLING}/spending")
    pages = {path: page_text(may.open(path)) for path in paths}
    assert {path: "$105.18" in page for path, page in pages.items()} == dict.fromkeys(paths, True)
    assert not {path: page for path, page in pages.items() if re.search(r"\$[\d,]+\.\d{3,}", page)}


def test_forecast_continues_usage_at_its_pace(acme: PayingOrganization, may: Browser) -> None:
    """G7: the forecast assumed that usage stops."""
    open_period(acme)
    acme.use(3_900)  # in 19.5 of 31 days, so 6,200 at the end: 31.00 and the plan fee
    for path in ("/dashboard", BILLING):
        assert "Forecast $130.00" in page_text(may.open(path))
    assert get_api(acme, "/calculate")["projected_amount"] == "130.00"
    clock.freeze_time(day(1, 23, month=5))
    assert get_api(acme, "/calculate")["projected_amount"] is None
    assert f"Forecast {EMPTY_VALUE} available from the second day on this plan" in page_text(may.open(BILLING))


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.usefixtures("may")
def test_reads_of_the_page_equal_those_of_billing(acme: PayingOrganization, is_mixed: bool) -> None:
    open_period(acme)
    acme.use(4_321)
    if is_mixed:
        use(acme)
        acme.use(9, at=day(20), is_late=True)
    now = clock.now()
    with acme.transaction() as session:
        expected, cap = (
            current_period.read_current_period(session, acme.id),
            spend_cap.get_cap_state(session, acme.id),
        )
        account = current_period.find_account(session, acme.id, now)
        assert account is not None
        running = current_period.get_current_period(session, account, now)
    assert running.bill == expected.bill
    assert (running.requests, running.spent_minor) == (expected.requests, cap.spent.total)
    assert (running.account.period.id, running.account.profile.spend_cap_minor) == (cap.period_id, cap.amount_minor)


def test_invoices_and_totals_equal_the_api(acme: PayingOrganization, owner: Browser) -> None:
    """G6: on a phone the total of an invoice had no label."""
    response = owner.open(BILLING)
    data, page = get_api(acme, "/history"), page_text(response)
    assert '<td data-th="Total" class="num">' in response.text
    [invoice], summary = data["invoices"], data["summary"]
    assert f"{invoice['number']} Apr 1 \N{EN DASH} Apr 30, 2026" in page
    assert f"Total billed {money(summary['total_billed'])}" in page
    assert f"Paid {money(summary['total_paid'])}" in page
    assert f"Outstanding {money(summary['outstanding'])}" in page
    assert f"{money(invoice['total_amount'])} {money(invoice['amount_due'])}" in page


def test_years_of_the_filter_are_those_with_invoices(acme: PayingOrganization, owner: Browser) -> None:
    """S2: the filter listed every year since 2020."""
    acme.invoice()
    assert re.findall(r'<option value="(2\d{3})"', owner.open(BILLING).text) == ["2026"]


def test_filters_apply_and_an_invalid_one_is_reported(acme: PayingOrganization, owner: Browser) -> None:
    number = acme.invoice().number
    row = f'">{number}</a>'
    assert row in owner.open(f"{BILLING}?status=open&year=2026").text
    for query in ("status=paid", "year=2025"):
        page = owner.open(f"{BILLING}?{query}")
        assert row not in page.text
        assert "No invoices match these filters" in page.text
    for query in ("status=lost", "year=soon", "year=1999", "status=lost&format=csv"):
        page = owner.open(f"{BILLING}?{query}")
        assert page.status_code == 422, query
        assert "error-summary" in page.text


def test_csv_equals_the_list_of_the_api(acme: PayingOrganization, owner: Browser) -> None:
    [data] = get_api(acme, "/history")["invoices"]
    response = owner.open(f"{BILLING}?format=csv&status=open")
    assert response.mimetype == "text/csv"
    [row] = csv.DictReader(io.StringIO(response.text.removeprefix("\ufeff")))
    period = data.pop("period")
    expected = {**data, **{f"period_{name}": period[name] for name in ("starts_at", "ends_at")}, "timezone": "UTC"}
    assert row == {name: "" if value is None else str(value) for name, value in expected.items()}
    assert len(owner.open(f"{BILLING}?format=csv&status=void").text.splitlines()) == 1


def test_new_organization_sees_the_date_of_its_first_invoice(app: Flask, acme: PayingOrganization) -> None:
    carol = browse(app, sign_up(acme.client, "carol@carol.example", "Carol & Co"))
    page = page_text(carol.open(BILLING))
    assert "No invoices yet" in page
    assert "The period ends on" in page
    assert "0 of 1,000 included segments used" in page


def test_each_plan_shows_the_cost_of_the_last_thirty_days(acme: PayingOrganization, may: Browser) -> None:
    open_period(acme)
    acme.use(2_500, at=day(2, month=5))
    acme.use(900, "email", at=day(17, month=5))
    acme.use(400, at=day(20), is_late=True)
    body = {"quantities": {"sms": "2500", "email": "900"}}
    response = acme.client.post(f"{API}/simulate", json=body, headers=acme.owner.headers)
    page = page_text(may.open(f"{BILLING}/plans"))
    assert "SMS 2,500" in page
    [costs] = re.findall(r"Your last 30 days as a month(.*?)Monthly fee", page)
    assert re.findall(r"\$[\d.,]+", costs) == [money(plan["total_amount"]) for plan in response.json["data"]["plans"]]


@pytest.mark.parametrize("when", ["now", "period_end"])
def test_previewed_plan_change_equals_the_invoice(may: Browser, acme: PayingOrganization, when: str) -> None:
    open_period(acme)
    acme.use(1_500)
    page = page_text(may.open(f"{BILLING}/plans/scale?when={when}"))
    body = {"plan": "scale", "when": when}
    data = acme.client.post(f"{API}/preview-change", json=body, headers=acme.owner.headers).json["data"]
    assert f"With the change {money(data['changed']['total_amount'])}" in page
    assert "which is issued on Jun 1, 2026" in page
    assert not data["change"]["lines"] or f"Difference {money(data['difference'])}" in page
    for line in data["change"]["lines"]:
        assert f"{line['description']} {money(line['amount'])}" in page
    sent = may.submit(f"{BILLING}/plans/scale?when={when}", f"{BILLING}/plans/scale")
    assert (sent.status_code, sent.location) == (303, f"{BILLING}/plans")
    assert get_api(acme, "/calculate")["total_amount"] == data["changed"]["total_amount"]
    clock.freeze_time(day(1, 2, month=6))
    [closed] = period_close.close_due(clock.now(), acme.id).invoices
    assert money(str(Decimal(closed.invoice.total_minor) / 100)) == money(data["changed"]["total_amount"])


def test_scheduled_plan_change_is_shown_and_canceled(acme: PayingOrganization, may: Browser) -> None:
    plans = f"{BILLING}/plans"
    assert may.submit(f"{plans}/free", f"{plans}/free").location == plans
    response = may.open(plans)
    assert "Your plan changes to Free on" in page_text(may.open(BILLING))
    assert "Your plan changes to Free on" in page_text(response)
    assert f'href="{plans}/pro">Cancel change' in response.text
    page = page_text(may.open(f"{plans}/pro"))
    assert "The scheduled change to Free is canceled. Your plan stays Pro." in page
    assert may.submit(f"{plans}/pro", f"{plans}/pro").location == plans
    assert get_api(acme, "/subscription")["scheduled_change"] is None
    again = may.open(f"{plans}/pro")
    assert (again.status_code, again.location) == (303, plans)


def test_plan_change_is_made_once_and_only_as_previewed(acme: PayingOrganization, may: Browser) -> None:
    page_path = f"{BILLING}/plans/scale"
    fields = may.form(page_path)
    moved = may.send(page_path, {**fields, "version": "scale@0"})
    assert moved.status_code == 409
    assert "Review the amounts and try again" in moved.text
    assert get_api(acme, "/subscription")["plan"]["code"] == "pro"
    responses = [may.send(page_path, fields) for _ in range(2)]
    assert [response.status_code for response in responses] == [303, 303]
    assert len(acme.rows("SELECT id FROM subscription_segments WHERE plan_version_id = 'scale@1'")) == 1


def test_printed_document_equals_the_pdf(acme: PayingOrganization, owner: Browser) -> None:
    page_path = invoice_page(acme)
    with acme.transaction() as session:
        document = invoice_documents.get_document(session, acme.id, acme.invoice_id)
    texts = [document.number, document.status, document.buyer.name, *(text for pair in document.facts for text in pair)]
    texts += [text for line in document.lines for text in (line.description, *line.details, line.quantity, line.amount)]
    texts += [text for total in document.sums for text in (total.label, total.amount)]
    for path in (page_path, f"{page_path}/print"):
        page = page_text(owner.open(path))
        assert not [text for text in texts if text not in page], path
    download = owner.open(f"{page_path}.pdf")
    response = acme.client.get(f"{API}/invoices/{page_path.rpartition('/')[2]}/pdf", headers=acme.owner.headers)
    assert download.data == response.data
    assert download.headers["Content-Disposition"] == f'attachment; filename="{document.number}.pdf"'


def test_line_explains_its_amount_and_exports_its_events(app: Flask, may: Browser, acme: PayingOrganization) -> None:
    open_period(acme)
    acme.use(30)
    acme.use(12_345)
    [closed] = period_close.close_due(day(1, 2, month=6), acme.id).invoices
    number = ids.format_id("inv", closed.invoice.id)
    data = get_api(acme, f"/invoices/{number}")
    line = next(line for line in data["lines"] if line["meter"] == "sms")
    page_path = f"{BILLING}/invoices/{number}/lines/{line['id']}"
    assert f'href="{page_path}"' in may.open(f"{BILLING}/invoices/{number}").text
    explained = get_api(acme, f"/invoices/{number}/lines/{line['id']}/explain")
    page = page_text(may.open(page_path))
    assert not [step for step in explained["steps"] if step not in page]
    assert money(line["amount"]) in page
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(may.open(f"{page_path}/events.csv").text[1:])))
    assert sum(Decimal(row["quantity"]) for row in rows) == Decimal(line["quantity"]) == 12_375
    clock.freeze_time(None)
    carol = browse(app, sign_up(acme.client, "carol@carol.example", "Carol & Co"))
    assert carol.open(page_path).status_code == 404


def test_wallet_and_credit_notes_equal_the_api(acme: PayingOrganization, owner: Browser) -> None:
    empty = owner.open(f"{BILLING}/credits").text
    assert "No credit yet" in empty
    assert "No credit notes" in empty
    acme.grant(1_250, "promotional", 1)
    credit = CreditNoteInput("order_change", amount_minor=900, memo="It was <b>late</b>")
    with tenancy.system_session("admin.act") as session:
        credit_notes.create_credit_note(
            session, acme.id, acme.invoice_id, credit, OperatorContext(SYSTEM_ACTOR, "asked for")
        )
    wallet, listed = get_api(acme, "/wallet"), get_api(acme, "/credit-notes")["credit_notes"]
    response = owner.open(f"{BILLING}/credits")
    page = page_text(response)
    assert f"Wallet balance {money(wallet['balances'][0]['amount'])}" in page
    assert f"Promotion {money(wallet['grants'][0]['amount'])} {money(wallet['grants'][0]['remaining'])}" in page
    assert f"{listed[0]['number']}" in page
    assert (
        f"{money(listed[0]['amount'])} {money(listed[0]['to_due'])} to the amount due Order change It was <b>late</b>"
        in page
    )
    assert "<b>late" not in response.text
