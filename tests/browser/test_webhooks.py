"""Endpoints in the browser: added with a secret, tested, failing, and a failed delivery resent."""

import re
from collections.abc import Callable

from standardwebhooks import Webhook

from tests.browser.conftest import OpenWindow, use_session
from tests.support.accounts import User
from tests.support.http_receiver import run_receiver


def test_failed_delivery_of_a_new_endpoint_is_resent(
    open_window: OpenWindow, alice: User, work: Callable[[], None]
) -> None:
    window = open_window()
    use_session(window, alice)
    with run_receiver(script=[410]) as receiver:
        window.open("/dashboard/webhooks/new")
        window.fill(url=receiver.url)
        window.press("Add endpoint")
        match = re.search(r"whsec_[A-Za-z0-9+/=]+", window.page.locator("main").inner_text())
        assert match
        window.inspect()
        window.follow("I have copied it")
        window.press("Send test event")
        window.page.wait_for_load_state()
        work()
        window.open("/dashboard/webhooks/deliveries")
        window.page.locator('main a[href*="/webhooks/deliveries/whd_"]').first.click()
        window.sees("Failed")
        delivery = window.page.url
        window.inspect()
        window.open("/dashboard/webhooks")
        window.page.locator('main a[href*="/webhooks/whe_"]').first.click()
        window.press("Enable", exact=False)
        window.page.wait_for_load_state()
        window.open(delivery)
        window.press("Resend")
        window.page.wait_for_load_state()
        work()
        window.refresh_until("Delivered")
        request = receiver.received[-1]
        Webhook(match[0]).verify(request.body, request.headers)
    assert receiver.ids[0] == receiver.ids[-1]
