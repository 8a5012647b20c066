"""An organization in naira that pays by Paystack: plan, cap, alerts, wallet, invoice, payment, credit note, files."""

import io
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pypdf import PdfReader
from sqlalchemy import text

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import alerts, credit_notes, period_close, periods, settlement
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs, refunds
from tests.support import paystack_server
from tests.support.accounts import sign_up
from tests.support.billing import BillingOrganization, day
from tests.support.currencies import OLGA, plans_in_other_currencies  # noqa: F401 - a fixture
from tests.support.pages import set_session_cookies
from tests.support.payments import PAYSTACK, PayingOrganization
from tests.support.paystack_server import PaystackServer

API = "/api/v1/billing"
OPERATOR = OperatorContext(OLGA, "ticket 4711")


@pytest.fixture
def lagos(context: Flask, client: FlaskClient, plans_in_other_currencies: None) -> PayingOrganization:  # noqa: F811
    """Alice's organization with an open invoice for April on the plan lagos, less 500.00 NGN from the wallet."""
    user = sign_up(client, "alice@lagos.example", "Lagos Foods")
    organization = BillingOrganization(ids.parse_id("org", user.organization_id))
    with tenancy.system_session("billing.close") as session:
        session.execute(
            text("UPDATE organizations SET created_at = :at WHERE id = :id"), {"at": day(1), "id": organization.id}
        )
    clock.freeze_time(day(1))
    changed = client.post(f"{API}/upgrade", json={"plan": "lagos"}, headers=user.headers)
    assert changed.status_code == 200, changed.json
    with tenancy.system_session("admin.act") as session:
        source = GrantSource("operator:1", GrantKind.PURCHASED)
        settlement.grant_credit(session, organization.id, source, 50_000, OPERATOR)
    cap = client.put(f"{API}/spend-cap", json={"amount": "20000.00"}, headers=user.headers)
    assert (cap.status_code, cap.json["data"]["currency"]) == (200, "NGN")
    organization.use(1_000, at=day(1))
    alerts.evaluate_alerts(clock.now())
    clock.freeze_time(day(1, 2, month=5))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)
    return PayingOrganization(organization.id, user, client, organization.invoices()[0].id)


def read(organization: PayingOrganization, path: str) -> Any:
    response = organization.client.get(f"{API}/{path}", headers=organization.owner.headers)
    assert response.status_code == 200, response.json
    return response.json["data"]


def test_invoice_in_naira_is_paid_by_paystack_and_credited(
    lagos: PayingOrganization, paystack: PaystackServer, client: FlaskClient
) -> None:
    """B13: Paystack in NGN end to end."""
    invoice = read(lagos, f"invoices/{ids.format_id('inv', lagos.invoice_id)}")
    assert (invoice["total_amount"], invoice["amount_due"], invoice["currency"]) == ("19500.00", "19000.00", "NGN")
    started = lagos.initiate(None).json["data"]
    assert (started["provider"], started["amount"], started["currency"]) == ("paystack", "19000.00", "NGN")
    reference = str(lagos.payment().provider_reference)
    transaction = paystack.transactions[reference]
    assert (transaction["amount"], transaction["currency"]) == (1_900_000, "NGN")
    paystack.finish(reference)
    body = paystack_server.event("charge.success", reference)
    assert lagos.post(PAYSTACK, body, paystack_server.sign(body)) == 200
    jobs.process_inbox()
    assert (lagos.invoice().state, lagos.payment().state, lagos.wallet()) == ("paid", "succeeded", 0)

    line = next(line for line in invoice["lines"] if line["kind"] == "usage")
    part = CreditNoteInput("service_issue", {ids.parse_id("lin", line["id"]): 150_000}, is_refund=True)
    with tenancy.system_session("admin.act") as session:
        credit_notes.create_credit_note(session, lagos.id, lagos.invoice_id, part, OPERATOR)
    refunds.process_due_refunds()
    assert [(refund["amount"], refund["currency"]) for refund in paystack.refunds] == [(150_000, "NGN")]
    [note] = read(lagos, "credit-notes")["credit_notes"]
    assert (note["amount"], note["to_refund"], note["currency"]) == ("1500.00", "1500.00", "NGN")
    summary = read(lagos, "history")["summary"]
    assert (summary["total_billed"], summary["outstanding"], summary["currency"]) == ("19500.00", "0.00", "NGN")


def test_mails_files_and_pages_are_in_naira(lagos: PayingOrganization, client: FlaskClient) -> None:
    """B13: whatever names an amount names naira."""
    with tenancy.system_session("mail.deliver") as session:
        sql = "SELECT template, text_body FROM mails WHERE organization_id = :id"
        mails = {row.template: row.text_body for row in session.execute(text(sql), {"id": lagos.id})}
    assert "NGN 19,000.00" in mails["invoice_ready"]
    assert "NGN 19,500.00" in mails["usage_alert"]
    public_id = ids.format_id("inv", lagos.invoice_id)
    pdf = client.get(f"{API}/invoices/{public_id}/pdf", headers=lagos.owner.headers)
    content = " ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf.data)).pages)
    assert "NGN" in content
    assert "19,500.00" in content
    assert "USD" not in content
    set_session_cookies(client, lagos.owner.token, lagos.owner.refresh_token)
    table = client.get("/dashboard/billing?format=csv").text
    assert "19500.00,19000.00,NGN" in table
    for page in ("billing", "billing/credits", "billing/spending", "usage", f"billing/invoices/{public_id}"):
        shown = client.get(f"/dashboard/{page}")
        assert shown.status_code == 200
        assert "NGN" in shown.text
        assert "USD" not in shown.text
    usage = client.get(
        "/api/v1/usage?start_date=2026-04-01&end_date=2026-04-30&format=csv", headers=lagos.owner.headers
    )
    assert "4500.00,NGN" in usage.text.replace("4500,NGN", "4500.00,NGN")
