"""Verification of the billing address of an organization."""

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from saas_api.accounts import billing_email, members
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.roles import BILLING_ROLES
from tests.support.account_mails import mail_texts
from tests.support.accounts import User
from tests.support.pages import Browser
from tests.support.team import audit_events

BILLS = "bills@acme.example"
SETTINGS = "/dashboard/settings"


def set_address(user: User, address: str | None = BILLS) -> int:
    status, _ = user.call("PATCH", "/organization", billing_email=address)
    return status


def recipients(app: Flask, user: User) -> list[str]:
    organization_id = ids.parse_id("org", user.organization_id)
    with app.app_context(), tenancy.system_session("auth.profile") as session:
        listed = members.list_recipients(session, organization_id, BILLING_ROLES, includes_billing_email=True)
        return [recipient.email for recipient in listed]


def tokens(superuser: Any, address: str = BILLS) -> list[str]:
    texts = mail_texts(superuser, "verify_billing_email", address)
    return [match[1] for text in texts if (match := re.search(r"verify-billing-email\?token=(\S+)", text))]


def open_link(app: Flask, token: str) -> int:
    return Browser(app).submit(f"/verify-billing-email?token={token}").status_code


def test_mails_go_to_the_billing_address_once_its_link_was_opened(app: Flask, alice: User, superuser: Any) -> None:
    """Small: billing_email was not verified, so any address could be made to receive invoices and reminders."""
    assert set_address(alice) == 200
    assert recipients(app, alice) == [alice.email]
    assert alice.call("GET", "/organization")[1]["organization"]["billing_email_verified"] is False
    (token,) = tokens(superuser)
    assert open_link(app, token) == 303
    assert recipients(app, alice) == [alice.email, BILLS]
    assert alice.call("GET", "/organization")[1]["organization"]["billing_email_verified"] is True
    assert open_link(app, token) == 303  # a second click does no harm
    (event,) = audit_events(alice, action="organization.billing_email_verified")
    assert event["data"] == {"billing_email": BILLS}


def test_link_of_an_earlier_address_is_refused(app: Flask, alice: User, superuser: Any) -> None:
    set_address(alice)
    (token,) = tokens(superuser)
    set_address(alice, "mallory@globex.example")
    assert open_link(app, token) == 400
    assert recipients(app, alice) == [alice.email]
    set_address(alice)
    assert open_link(app, token) == 303
    set_address(alice, None)
    assert open_link(app, token) == 400


def test_changed_and_expired_links_are_refused(
    app: Flask, alice: User, carol: User, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_address(alice)
    set_address(carol)
    token = next(token for token in tokens(superuser) if ids.parse_id("org", alice.organization_id).hex in token)
    organization, expiry, signature = token.split("-")
    other = ids.parse_id("org", carol.organization_id).hex
    for forged in (f"{other}-{expiry}-{signature}", f"{organization}-{expiry}0-{signature}", "x-y-z", "x", f"{token}0"):
        assert open_link(app, forged) == 400
    later = clock.now() + billing_email.LINK_LIFETIME + timedelta(seconds=1)
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: later)
        assert open_link(app, token) == 400
    assert recipients(app, alice) == [alice.email]


def test_address_that_stays_the_same_gets_no_other_link(app: Flask, alice: User, superuser: Any) -> None:
    set_address(alice)
    set_address(alice)
    assert len(tokens(superuser)) == 1
    browser = Browser(app, alice)
    assert "receives no invoices" in browser.open(SETTINGS).text
    assert browser.submit(SETTINGS, f"{SETTINGS}/billing-email").status_code == 303
    first, second = tokens(superuser)
    assert open_link(app, first) == open_link(app, second) == 303
    assert "receives no invoices" not in browser.open(SETTINGS).text


def test_organization_can_have_a_few_links_a_day(alice: User, superuser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = [set_address(alice, f"a{number}@other.example") for number in range(billing_email.LINKS_PER_DAY + 1)]
    assert statuses == [200] * billing_email.LINKS_PER_DAY + [429]
    assert alice.call("GET", "/organization")[1]["organization"]["billing_email"] == "a9@other.example"
    assert set_address(alice, None) == 200


def test_link_needs_a_verified_sender_where_that_is_required(
    app: Flask, alice: User, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "REQUIRE_VERIFIED_EMAIL", True)
    assert alice.call("PATCH", "/organization", billing_email=BILLS) == (403, "EMAIL_NOT_VERIFIED")
    assert tokens(superuser) == []
