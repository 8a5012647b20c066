"""The search across the platform, and organizations that are chosen by name."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import User, create_key
from tests.support.console import check_operator_access, execute_sql, open_console, organization_page, sign_in_operator
from tests.support.payments import IsolatedClient, PayingOrganization

SEARCH = "/admin/search"
PAST_MESSAGE = """INSERT INTO past_messages
  (organization_id, channel, recipient, body, accepted_at, status, finished_at)
  VALUES (:org, 'sms', 'r', 'b', now(), 'sent', now()) RETURNING id"""


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


def found(page: str) -> list[str]:
    """Addresses of the results."""
    return [part.partition('"')[0] for part in page.split('class="row-link" href="')[1:]]


def test_search_requires_an_operator_role(app: Flask, client: FlaskClient, carol: User) -> None:
    check_operator_access(app, client, carol, {SEARCH: "support", f"{SEARCH}?q=acme": "support"})


def test_id_opens_its_page(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    acme.begin()
    key_id, _ = create_key(client, acme.owner)
    line = execute_sql(app, "SELECT id FROM invoice_lines LIMIT 1")[0].id
    invoice, organization = ids.format_id("inv", acme.invoice_id), organization_page(acme.owner)
    payment = ids.format_id("pay", acme.payment().id)
    [(past,)] = execute_sql(app, PAST_MESSAGE, org=ids.parse_id("org", acme.owner.organization_id))
    pages = {
        acme.owner.organization_id: organization,
        acme.owner.user_id: f"/admin/users/{acme.owner.user_id}",
        key_id: f"/admin/keys/{key_id}",
        invoice: f"/admin/invoices/{invoice}",
        ids.format_id("lin", line): f"/admin/invoices/{invoice}",
        payment: f"/admin/payments/{payment}",
        ids.format_id("msg", past): organization,
        "req_0123": "/admin/requests?request_id=req_0123",
    }
    olga = sign_in_operator(app, client, "support")
    assert {text: olga.open(f"{SEARCH}?q={text}").location for text in pages} == pages
    for path in pages.values():
        olga.read(path)
    assert "Nothing found" in olga.read(f"{SEARCH}?q={ids.format_id('inv', ids.new_id())}")


def test_text_finds_names_addresses_and_numbers(app: Flask, client: FlaskClient, acme: PayingOrganization) -> None:
    olga = sign_in_operator(app, client, "support")
    invoice, payment = f"/admin/invoices/{ids.format_id('inv', acme.invoice_id)}", acme.begin()
    user = f"/admin/users/{acme.owner.user_id}"
    assert found(olga.read(f"{SEARCH}?q=ACM")) == [organization_page(acme.owner), user]
    assert found(olga.read(f"{SEARCH}?q=alice@")) == [organization_page(acme.owner), user]
    assert found(olga.read(f"{SEARCH}?q={acme.invoice().number.lower()}")) == [invoice]
    assert found(olga.read(f"{SEARCH}?q={payment}")) == [f"/admin/payments/{ids.format_id('pay', acme.payment().id)}"]
    assert found(olga.read(f"{SEARCH}?q=Scale")) == ["/admin/plans/scale@1"]
    assert found(olga.read(f"{SEARCH}?q=sms")) == ["/admin/meters/sms"]
    assert found(olga.read(f"{SEARCH}?q=%25")) == []  # no pattern of SQL
    assert olga.open(f"{SEARCH}?q={'a' * 201}").status_code == 422


def test_lists_and_the_estimate_take_the_name_of_an_organization(
    app: Flask, client: FlaskClient, acme: PayingOrganization, carol: User
) -> None:
    olga, number = sign_in_operator(app, client), acme.invoice().number
    for text, is_listed in (("acme", True), (acme.owner.organization_id, True), ("Carol", False)):
        assert (number in olga.read(f"/admin/invoices?organization={text}")) is is_listed
    page = olga.read("/admin/invoices")
    assert '<option value="Acme">' in page

    def estimate(text: str) -> Any:
        return olga.open(f"/admin/plans/pro@1?organization={text}&periods=1")

    assert "Total on Pro" in estimate("acme").text
    several = estimate("c")  # Acme, Carol & Co
    assert (several.status_code, "Several organizations match" in several.text) == (422, True)
    assert "No organization has this name" in estimate("nobody").text


def test_key_page_shows_no_secret(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    key_id, headers = create_key(client, alice)
    page = open_console(app, olga, "support").read(f"/admin/keys/{key_id}")
    assert ("alice@acme.example" in page, "Acme" in page, headers["X-API-Key"] in page) == (True, True, False)
    assert open_console(app, olga).open(f"/admin/keys/{ids.format_id('key', ids.new_id())}").status_code == 404
