"""The wallet and the credit notes as their organization reads them."""

from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support import billing_actions as books
from tests.support.billing import day
from tests.support.billing_reads import BillingReader, sign_up_for_billing


@pytest.fixture
def acme(client: FlaskClient) -> BillingReader:
    """April on starter: 305 segments and ten emails more than it includes come to 32.06."""
    reader = sign_up_for_billing(client)
    with reader.app_context() as account:
        account.use(5_305, at=day(10))
        account.use(50_010, "email", at=day(12))
    reader.close()
    return reader


def test_wallet_and_credit_notes_are_listed(acme: BillingReader) -> None:
    invoice = acme.newest_invoice()
    invoice_id = ids.parse_id("inv", invoice["id"])
    with acme.app_context() as account:
        books.settle_payment(account, invoice_id, 3206)
        books.create_credit_note(account, invoice_id, amount_minor=1235)
    [credit_note] = acme.get("/billing/credit-notes")["credit_notes"]
    assert (credit_note["number"][:3], credit_note["amount"], credit_note["to_wallet"], credit_note["to_due"]) == (
        "CN-",
        "12.35",
        "12.35",
        "0.00",
    )
    assert credit_note["invoice_number"] == invoice["number"]
    assert sum(Decimal(line["amount"]) for line in credit_note["lines"]) == Decimal("12.35")
    assert acme.newest_invoice()["credit_notes"][0]["number"] == credit_note["number"]
    acme.close(day(1, 2, month=6))
    wallet = acme.get("/billing/wallet")
    [grant] = wallet["grants"]
    assert (grant["kind"], grant["amount"], grant["remaining"]) == ("credit_note", "12.35", "0.00")
    assert [(entry["amount"], entry["reason"]) for entry in grant["entries"]] == [("-12.35", "apply")]
    assert grant["entries"][0]["invoice_id"] == acme.newest_invoice()["id"]
    assert wallet["balances"] == [{"amount": "0.00", "currency": "USD"}]


def test_wallet_is_paginated(acme: BillingReader) -> None:
    with acme.app_context() as account:
        for kind in ("promotional", "purchased", "overpayment"):
            account.grant(100, kind, 10)
    first = acme.get("/billing/wallet", limit=2)
    second = acme.get("/billing/wallet", limit=2, cursor=first["pagination"]["next_cursor"])
    kinds = [grant["kind"] for page in (first, second) for grant in page["grants"]]
    assert sorted(kinds) == ["overpayment", "promotional", "purchased"]
    assert (first["pagination"]["has_more"], second["pagination"]["has_more"]) == (True, False)
    assert acme.request("/billing/wallet", cursor="nonsense").status_code == 422
    assert acme.request("/billing/credit-notes", limit=0).status_code == 422


def test_other_organization_sees_an_empty_wallet(carol: Any, acme: BillingReader) -> None:
    with acme.app_context() as account:
        account.grant(100, "promotional", 10)
    assert acme.request("/billing/wallet", carol.headers).json["data"]["grants"] == []
    assert acme.request("/billing/credit-notes", carol.headers).json["data"]["credit_notes"] == []
