"""Browsers at the billing pages of an organization with an open invoice of 99.00."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.core import clock, ids
from tests.support.accounts import Person
from tests.support.billing import day
from tests.support.pages import Browser
from tests.support.payments import Customer, IsolatedClient

BILLING = "/dashboard/billing"
API = "/api/v1/billing"


def browse(app: Flask, person: Person | None) -> Browser:
    """Return a browser whose requests have a context of their own while the test holds one."""
    browser = Browser(app)
    browser.client = IsolatedClient(app, app.response_class)
    if person is not None:
        browser.client.set_cookie("at", person.token)
        browser.client.set_cookie("rt", person.refresh_token)
    return browser


@pytest.fixture
def owner(app: Flask, customer: Customer) -> Browser:
    """The browser of the owner."""
    return browse(app, customer.person)


@pytest.fixture
def may(app: Flask, customer: Customer) -> Iterator[Browser]:
    """The browser of the owner on the 20th of May at noon, in the period that began on the first."""
    clock.freeze_time(day(20, 12, month=5))
    yield browse(app, customer.person)
    clock.freeze_time(None)


def get_api(customer: Customer, path: str) -> Any:
    """Return the data of a successful response of the billing API."""
    answer = customer.client.get(f"{API}{path}", headers=customer.person.headers)
    assert answer.status_code == 200, answer.json
    return answer.json["data"]


def page_text(answer: Any) -> str:
    """Return the text of a page without its markup."""
    assert answer.status_code in (200, 286), (answer.status_code, answer.text[:500])
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", answer.text)))


def invoice_page(customer: Customer) -> str:
    return f"{BILLING}/invoices/{ids.format_id('inv', customer.invoice_id)}"


def first_line(customer: Customer) -> str:
    """Return the path of the page of the invoice's first line."""
    row = customer.rows("SELECT id FROM invoice_lines ORDER BY position LIMIT 1")[0]
    return f"{invoice_page(customer)}/lines/{ids.format_id('lin', row.id)}"


def list_payments(customer: Customer) -> list[Any]:
    return customer.rows("SELECT * FROM payments ORDER BY created_at")


def read_spend_cap(customer: Customer) -> Any:
    with customer.transaction() as session:
        return session.execute(text("SELECT spend_cap_minor, spend_cap_action FROM billing_profiles")).one()
