"""Endpoints in the browser: added with a secret, tested, failing, and a failed delivery resent."""

import re
from collections.abc import Callable

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from standardwebhooks import Webhook

from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.browser.conftest import OpenWindow, use_session
from tests.browser.window import NARROW, NARROWEST, WIDE, Window
from tests.support.accounts import User
from tests.support.http_receiver import run_receiver


def resend_picked(window: Window) -> None:
    """Resend the only failed delivery from the list."""
    window.open("/dashboard/webhooks/deliveries?status=failed")
    window.page.locator("td.pick input").check()
    window.check_width()
    window.press("Resend")
    window.sees("1 delivery resent.")


def test_failed_delivery_of_a_new_endpoint_is_resent(
    open_window: OpenWindow, alice: User, work: Callable[[], None]
) -> None:
    window = open_window(has_pointer=False)
    use_session(window, alice)
    with run_receiver(script=[410]) as receiver:
        window.open("/dashboard/webhooks/new")
        window.fill(url=receiver.url)
        window.press("Add endpoint")
        match = re.search(r"whsec_[A-Za-z0-9+/=]+", window.page.locator("main").inner_text())
        assert match
        window.inspect()
        window.follow("Done")
        window.press("Send test event")
        window.page.wait_for_load_state()
        work()
        window.open("/dashboard/webhooks/deliveries")
        window.activate(window.page.locator('main a[href*="/webhooks/deliveries/whd_"]').first)
        window.sees("Failed")
        delivery = window.page.url
        window.inspect()
        window.open("/dashboard/webhooks")
        window.activate(window.page.locator('main a[href*="/webhooks/whe_"]').first)
        window.press("Enable", exact=False)
        window.page.wait_for_load_state()
        window.open(delivery)
        window.press("Resend")
        window.page.wait_for_load_state()
        work()
        window.refresh_until("Delivered")
        resend_picked(window)
        plain = open_window(java_script_enabled=False)
        use_session(plain, alice)
        resend_picked(plain)
        request = receiver.received[-1]
        Webhook(match[0]).verify(request.body, request.headers)
    assert receiver.ids[0] == receiver.ids[-1]


def test_endpoint_page_with_an_old_success_fits_its_width(
    app: Flask, client: FlaskClient, open_window: OpenWindow, alice: User
) -> None:
    """R1: the date of the last success made the page scroll sideways at 1280 px."""
    response = client.post(
        "/api/v1/webhooks/endpoints", json={"url": "https://hooks.example/in"}, headers=alice.headers
    )
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", alice.organization_id)) as session:
        session.execute(text("UPDATE webhook_endpoints SET last_success_at = '2026-09-29T22:48:00Z'"))
    window = open_window()
    use_session(window, alice)
    window.open(f"/dashboard/webhooks/{response.json['data']['id']}")
    window.sees("Sep 29, 2026")
    for width in (WIDE, 1024, 768, NARROW, NARROWEST):
        window.size(width)
        window.check_width()
