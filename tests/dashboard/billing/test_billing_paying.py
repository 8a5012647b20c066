"""Paying an invoice from its page: one payment at the provider, then a page that polls until it is settled."""

import re
import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs
from tests.support.billing_pages import browse, invoice_page, list_payments, page_text
from tests.support.pages import Browser
from tests.support.payments import PayingOrganization
from tests.support.stripe_server import StripeServer


def pay(browser: Browser, acme: PayingOrganization, **changes: Any) -> Any:
    page_path = invoice_page(acme)
    return browser.submit(page_path, f"{page_path}/pay", **changes)


def polled(response: Any) -> str:
    """Path that the page polls."""
    match = re.search(r'data-poll hx-get="([^"]*)"', response.text)
    assert match, "the page does not poll"
    return match[1].replace("&amp;", "&")


def mails_of(acme: PayingOrganization) -> dict[str, tuple[str, str]]:
    """Text and HTML of what was written to the organization, by template."""
    with tenancy.system_session("mail.deliver") as session:
        query = sa.text("SELECT template, text_body, html_body FROM mails WHERE organization_id = :id")
        return {name: (plain, html) for name, plain, html in session.execute(query, {"id": acme.id})}


def test_pay_leads_to_the_checkout_and_back_to_a_polling_page(owner: Browser, acme: PayingOrganization) -> None:
    page_path = invoice_page(acme)
    assert "$99.00 to pay" in page_text(owner.open(page_path))
    begun = pay(owner, acme)
    assert begun.status_code == 303
    assert re.fullmatch(r"/payments/mock/[0-9a-f]{48}", begun.location)
    waiting = owner.open(page_path)
    assert "Payment in progress" in waiting.text
    assert f"{page_path}/pay" not in waiting.text
    poll_path = polled(waiting)
    assert owner.open(poll_path, **{"HX-Request": "true"}).status_code == 204
    back = owner.client.post(begun.location, data={"action": "pay"})
    assert f'href="{page_path}"' in owner.open(back.location).text
    jobs.process_inbox()
    settled = owner.open(poll_path, **{"HX-Request": "true"})
    assert settled.status_code == 286
    assert "<html" not in settled.text
    assert "data-poll" not in settled.text
    page = page_text(owner.open(page_path))
    assert "Paid $0.00" not in page
    assert "Amount due $0.00" in page
    assert "Payment started" in page


def test_page_stops_polling_after_two_minutes(app: Flask, acme: PayingOrganization) -> None:
    clock.freeze_time(clock.now())
    owner = browse(app, acme.owner)
    pay(owner, acme)
    poll_path = polled(owner.open(invoice_page(acme)))
    clock.freeze_time(clock.now() + timedelta(seconds=119))
    assert owner.open(poll_path, **{"HX-Request": "true"}).status_code == 204
    clock.freeze_time(clock.now() + timedelta(seconds=2))
    ended = owner.open(poll_path, **{"HX-Request": "true"})
    assert ended.status_code == 286
    assert "Reload this page to check again." in ended.text
    forever = poll_path.partition("until=")[0] + "until=99999999999"
    assert owner.open(forever, **{"HX-Request": "true"}).status_code == 204
    for nonsense in ("until=99999999999999999999", "until=-1", "until=x"):
        response = owner.open(f"{invoice_page(acme)}?{nonsense}", **{"HX-Request": "true"})
        assert response.status_code in (204, 286), nonsense


def test_form_submitted_twice_starts_one_payment(owner: Browser, acme: PayingOrganization) -> None:
    page_path = invoice_page(acme)
    fields = owner.form(page_path, f"{page_path}/pay")
    first, second = (owner.send(f"{page_path}/pay", fields) for _ in range(2))
    assert first.status_code == second.status_code == 303
    assert first.location == second.location
    assert len(list_payments(acme)) == 1


def test_two_forms_start_one_payment(owner: Browser, acme: PayingOrganization) -> None:
    page_path = invoice_page(acme)
    forms = [owner.form(page_path, f"{page_path}/pay") for _ in range(2)]
    responses = [owner.send(f"{page_path}/pay", fields) for fields in forms]
    assert [response.status_code for response in responses] == [303, 303]
    assert responses[0].location == responses[1].location
    assert len(list_payments(acme)) == 1


@pytest.mark.parametrize("is_same", [True, False])
def test_concurrent_submits_start_one_payment(
    app: Flask, owner: Browser, acme: PayingOrganization, is_same: bool
) -> None:
    page_path = invoice_page(acme)
    form = owner.form(page_path, f"{page_path}/pay")
    forms = [form if is_same else owner.form(page_path, f"{page_path}/pay") for _ in range(5)]
    barrier, results = threading.Barrier(len(forms)), []

    def click(fields: Any) -> None:
        browser = browse(app, acme.owner)
        barrier.wait()
        response = browser.send(f"{page_path}/pay", fields)
        results.append((response.status_code, response.headers.get("Location")))

    threads = [threading.Thread(target=click, args=(fields,)) for fields in forms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_payments(acme)) == 1
    assert {status for status, _ in results} <= {303, 409}
    assert len({address for status, address in results if status == 303}) == 1


def test_checkout_of_another_origin_is_linked_not_redirected(
    owner: Browser, acme: PayingOrganization, stripe: StripeServer
) -> None:
    page_path = invoice_page(acme)
    assert re.findall(r'type="radio" value="(\w+)"', owner.open(page_path).text) == ["stripe", "mock"]
    fields = {**owner.form(page_path, f"{page_path}/pay"), "provider": "stripe"}
    left = owner.send(f"{page_path}/pay", fields)
    address = list_payments(acme)[0].checkout_url
    assert left.status_code == 200
    assert "Location" not in left.headers
    assert f'<meta http-equiv="refresh" content="0; url={address}">' in left.text
    assert f'href="{address}"' in left.text
    assert "form-action 'self'" in left.headers["Content-Security-Policy"]
    again = owner.send(f"{page_path}/pay", fields)
    assert (again.status_code, f'url={address}"' in again.text) == (200, True)
    assert len(stripe.sessions) == len(list_payments(acme)) == 1


def test_declined_payment_is_shown_and_can_be_retried(owner: Browser, acme: PayingOrganization) -> None:
    owner.client.post(pay(owner, acme).location, data={"action": "decline"})
    jobs.process_inbox()
    page = page_text(owner.open(invoice_page(acme)))
    assert "Payment declined" in page
    assert "card declined" in page
    assert pay(owner, acme).status_code == 303
    assert [payment.state for payment in list_payments(acme)] == ["failed", "pending"]


def test_unpayable_invoice_shows_the_reason(owner: Browser, acme: PayingOrganization) -> None:
    page_path = invoice_page(acme)
    fields = owner.form(page_path, f"{page_path}/pay")
    wrong = owner.send(f"{page_path}/pay", {**fields, "provider": "paystack"})
    assert wrong.status_code == 422
    assert "This provider takes no payment of this invoice here." in wrong.text
    unknown = owner.send(f"{page_path}/pay", {**fields, "provider": "cowries"})
    assert unknown.status_code == 422
    owner.client.post(pay(owner, acme).location, data={"action": "pay"})
    jobs.process_inbox()
    paid = owner.send(f"{page_path}/pay", {**fields, "provider": "mock"})
    assert paid.status_code == 409
    assert "This invoice is paid already." in paid.text
    assert len(list_payments(acme)) == 1


def test_unverified_user_is_asked_to_verify(
    app: Flask, owner: Browser, acme: PayingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "REQUIRE_VERIFIED_EMAIL", True)
    response = pay(owner, acme)
    assert response.status_code == 403
    assert "Verify your email address first." in response.text
    assert list_payments(acme) == []


def test_mails_link_to_the_invoice(owner: Browser, acme: PayingOrganization) -> None:
    for action in ("decline", "pay"):
        owner.client.post(pay(owner, acme).location, data={"action": action})
        jobs.process_inbox()
    page_path = f"/dashboard/billing/invoices/{ids.format_id('inv', acme.invoice_id)}"
    mails = mails_of(acme)
    for template in ("invoice_ready", "payment_failed", "payment_received"):
        assert all(page_path in body for body in mails[template]), template
    assert "Apr 30, 2026" in mails["payment_received"][0]
