"""Somebody at the billing pages of a organization that owes an invoice of 99.00."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts import users
from saas_api.accounts.models import Membership
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import PASSWORD, Person
from tests.support.billing import day
from tests.support.pages import Browser
from tests.support.payments import Customer, Visitor

BILLING = "/dashboard/billing"
API = "/api/v1/billing"


def browse(app: Flask, person: Person | None) -> Browser:
    """Somebody at the pages, while the test holds a context of its own."""
    browser = Browser(app)
    browser.client = Visitor(app, app.response_class)
    if person is not None:
        browser.client.set_cookie("at", person.token)
        browser.client.set_cookie("rt", person.refresh_token)
    return browser


@pytest.fixture
def owner(app: Flask, customer: Customer) -> Browser:
    """The owner at the pages."""
    return browse(app, customer.person)


@pytest.fixture
def may(app: Flask, customer: Customer) -> Iterator[Browser]:
    """The owner at the pages on the 20th of May at noon, in the period that began on the first."""
    clock.freeze_time(day(20, 12, month=5))
    yield browse(app, customer.person)
    clock.freeze_time(None)


def take_on(customer: Customer, email: str, role: str) -> None:
    """Somebody new in the organization."""
    with tenancy.system_session("auth.register") as session:
        user = users.create(session, email, PASSWORD, "")
        session.add(Membership(organization_id=customer.id, user_id=user.id, role=role))


def asked(customer: Customer, path: str) -> Any:
    """What the API says."""
    answer = customer.client.get(f"{API}{path}", headers=customer.person.headers)
    assert answer.status_code == 200, answer.json
    return answer.json["data"]


def plain(answer: Any) -> str:
    """A page's text, its markup left out."""
    assert answer.status_code in (200, 286), (answer.status_code, answer.text[:500])
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", answer.text)))


def invoice_page(customer: Customer) -> str:
    return f"{BILLING}/invoices/{ids.format_id('inv', customer.invoice_id)}"


def first_line(customer: Customer) -> str:
    """The page of the first line of the invoice."""
    row = customer.rows("SELECT id FROM invoice_lines ORDER BY position LIMIT 1")[0]
    return f"{invoice_page(customer)}/lines/{ids.format_id('lin', row.id)}"


def payments(customer: Customer) -> list[Any]:
    return customer.rows("SELECT * FROM payments ORDER BY created_at")


def spend_cap(customer: Customer) -> Any:
    with customer.transaction() as session:
        return session.execute(text("SELECT spend_cap_minor, spend_cap_action FROM billing_profiles")).one()
