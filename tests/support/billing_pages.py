"""Browsers at the billing pages of an organization with an open invoice of 99.00."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.core import clock, ids
from tests.support.accounts import User
from tests.support.billing import day
from tests.support.pages import Browser, set_session_cookies
from tests.support.payments import IsolatedClient, PayingOrganization

BILLING = "/dashboard/billing"
API = "/api/v1/billing"


def browse(app: Flask, user: User | None) -> Browser:
    """Return a browser whose requests have a context of their own while the test holds one."""
    browser = Browser(app)
    browser.client = IsolatedClient(app, app.response_class)
    if user is not None:
        set_session_cookies(browser.client, user.token, user.refresh_token)
    return browser


@pytest.fixture
def owner(app: Flask, acme: PayingOrganization) -> Browser:
    """The browser of the owner."""
    return browse(app, acme.owner)


@pytest.fixture
def may(app: Flask, acme: PayingOrganization) -> Iterator[Browser]:
    """The browser of the owner on the 20th of May at noon, in the period that began on the first."""
    clock.freeze_time(day(20, 12, month=5))
    yield browse(app, acme.owner)
    clock.freeze_time(None)


def get_api(acme: PayingOrganization, path: str) -> Any:
    """Return the data of a successful response of the billing API."""
    response = acme.client.get(f"{API}{path}", headers=acme.owner.headers)
    assert response.status_code == 200, response.json
    return response.json["data"]


def page_text(response: Any) -> str:
    """Return the text of a page without its markup."""
    assert response.status_code in (200, 286), (response.status_code, response.text[:500])
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", response.text)))


def invoice_page(acme: PayingOrganization) -> str:
    return f"{BILLING}/invoices/{ids.format_id('inv', acme.invoice_id)}"


def first_line(acme: PayingOrganization) -> str:
    """Return the path of the page of the invoice's first line."""
    row = acme.rows("SELECT id FROM invoice_lines ORDER BY position LIMIT 1")[0]
    return f"{invoice_page(acme)}/lines/{ids.format_id('lin', row.id)}"


def list_payments(acme: PayingOrganization) -> list[Any]:
    return acme.rows("SELECT * FROM payments ORDER BY created_at")


def read_spend_cap(acme: PayingOrganization) -> Any:
    with acme.transaction() as session:
        return session.execute(text("SELECT spend_cap_minor, spend_cap_action FROM billing_profiles")).one()
