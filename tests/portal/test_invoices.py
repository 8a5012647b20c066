"""Invoices in the portal: shown, and paid on the page of the provider in a tab of its own."""

from flask import Flask

from saas_api.core import ids
from tests.support.accounts import Headers
from tests.support.payments import PayingOrganization
from tests.support.portal import open_portal

LIST = "/portal/dashboard/billing/invoices"


def test_customer_opens_an_invoice_and_pays_it(app: Flask, acme: PayingOrganization, maker: Headers) -> None:
    browser = open_portal(app, maker, acme.owner, "invoices:pay")
    path = f"{LIST}/{ids.format_id('inv', acme.invoice_id)}"
    listed = browser.open(LIST)
    assert path in listed.text
    assert "$99.00" in listed.text
    assert browser.open(f"{path}.pdf").mimetype == "application/pdf"
    page = browser.submit(path, f"{path}/pay")
    assert page.status_code == 200
    assert f'href="{acme.payment().checkout_url}" target="_blank"' in page.text
    assert "http-equiv" not in page.text  # a provider refuses to be embedded
    _, log = acme.owner.call("GET", "/organization/audit-log")
    assert (log["entries"][0]["action"], log["entries"][0]["actor"]["type"]) == ("payment.initiated", "portal")


def test_customer_without_the_scope_does_not_pay(app: Flask, acme: PayingOrganization, maker: Headers) -> None:
    browser = open_portal(app, maker, acme.owner, "invoices:read")
    path = f"{LIST}/{ids.format_id('inv', acme.invoice_id)}"
    page = browser.open(path)
    assert f"{path}/pay" not in page.text
    token = browser.form(path, "/portal/end")["csrf_token"]
    assert browser.send(f"{path}/pay", {"csrf_token": token, "provider": "mock"}).status_code == 403


def test_filter_of_the_list_keeps_to_the_portal(app: Flask, acme: PayingOrganization, maker: Headers) -> None:
    browser = open_portal(app, maker, acme.owner, "invoices:read")
    assert "No invoices match these filters" in browser.open(f"{LIST}?status=paid").text
    response = browser.open(f"{LIST}?status=none")
    assert (response.status_code, LIST in response.text) == (422, True)
