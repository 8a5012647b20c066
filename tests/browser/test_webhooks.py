"""An endpoint by clicking: added with its secret, tried, failing, and what failed sent again."""

import re
from collections.abc import Callable

from standardwebhooks import Webhook

from tests.browser.conftest import Visits, enter
from tests.support.accounts import Person
from tests.support.http_receiver import receiving


def test_failed_delivery_of_a_new_endpoint_is_resent(visit: Visits, alice: Person, work: Callable[[], None]) -> None:
    visitor = visit()
    enter(visitor, alice)
    with receiving(script=[410]) as receiver:
        visitor.open("/dashboard/webhooks/new")
        visitor.fill(url=receiver.url)
        visitor.press("Add endpoint")
        match = re.search(r"whsec_[A-Za-z0-9+/=]+", visitor.page.locator("main").inner_text())
        assert match
        visitor.inspect()
        visitor.follow("I have copied it")
        visitor.press("Send test event")
        visitor.page.wait_for_load_state()
        work()
        visitor.open("/dashboard/webhooks/deliveries")
        visitor.page.locator('main a[href*="/webhooks/deliveries/whd_"]').first.click()
        visitor.sees("Failed")
        delivery = visitor.page.url
        visitor.inspect()
        visitor.open("/dashboard/webhooks")
        visitor.page.locator('main a[href*="/webhooks/whe_"]').first.click()
        visitor.press("Enable", exact=False)
        visitor.page.wait_for_load_state()
        visitor.open(delivery)
        visitor.press("Resend")
        visitor.page.wait_for_load_state()
        work()
        visitor.refresh_until("Delivered")
        one = receiver.received[-1]
        Webhook(match[0]).verify(one.body, one.headers)
    assert receiver.ids[0] == receiver.ids[-1]
