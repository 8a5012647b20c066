"""Pages of deliveries and events: what was sent, what came of it, and sending it once more."""

import html
import re
from collections.abc import Callable

from flask import Flask

from saas_api.core import ids as core_ids
from saas_api.webhooks import event_types
from tests.support.accounts import User
from tests.support.http_receiver import run_receiver
from tests.support.pages import Browser, form_of
from tests.support.webhook_pages import HOOKS, URL, create_path_ids
from tests.support.webhooks import WebhookOrganization


def test_test_event_leads_to_its_delivery(
    browser: Browser, acme: WebhookOrganization, work: Callable[[], None]
) -> None:
    with run_receiver(status=503, body=b"<b>it is broken</b>") as receiver:
        endpoint = acme.create_endpoint(url=receiver.url, payload="thin")
        page_path = f"{HOOKS}/{endpoint['id']}"
        sent = browser.submit(page_path, f"{page_path}/test")
        assert sent.status_code == 303
        waiting = browser.open(sent.location)
        assert "Waiting for the first attempt" in waiting.text
        assert "data-poll" in waiting.text
        work()
    [request] = receiver.received
    acme.call("PATCH", f"/endpoints/{endpoint['id']}", {"payload": "full"})
    text = browser.open(sent.location).text
    assert "503 Service Unavailable" in text
    assert "&lt;b&gt;it is broken&lt;/b&gt;" in text
    assert f"webhook-signature: {request.headers['webhook-signature']}" in html.unescape(text)
    assert f'data-copy="{html.escape(request.body.decode(), quote=False)}"' in text.replace("&#34;", '"')
    assert endpoint["secret"] not in text


def test_attempts_are_listed_and_each_can_be_chosen(browser: Browser, acme: WebhookOrganization) -> None:
    path = f"{HOOKS}/deliveries/{create_path_ids(acme)['delivery']}"
    acme.execute(
        """INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, ended_at, outcome, status_code,
            duration_ms, response_snippet) SELECT organization_id, id, n, '2026-03-01T12:00:07Z', now(),
            CASE n WHEN 1 THEN 'timeout' ELSE 'http_error' END, CASE n WHEN 2 THEN 429 END, 12, 'answer ' || n
          FROM webhook_deliveries, generate_series(1, 2) n"""
    )
    text = browser.open(path).text
    assert "Timed out" in text
    assert "429 Too Many Requests" in text
    assert "12:00:07" in text
    assert ("answer 2" in text, "answer 1" in text) == (True, False)
    assert "answer 1" in browser.open(f"{path}?attempt=1").text
    assert browser.open(f"{path}?attempt=x").status_code == 200


def test_delivery_between_two_attempts_is_retrying(browser: Browser, acme: WebhookOrganization) -> None:
    path_ids = create_path_ids(acme)
    listed, delivery = f"{HOOKS}/deliveries?status=", f"{HOOKS}/deliveries/{path_ids['delivery']}"
    acme.execute("UPDATE webhook_deliveries SET attempts = 1, next_at = now() + interval '5 minutes'")
    assert "Retrying" in browser.open(delivery).text
    assert path_ids["delivery"] in browser.open(f"{listed}retrying").text
    assert "No deliveries match" in browser.open(f"{listed}queued").text


def test_polling_ends_with_the_delivery(browser: Browser, acme: WebhookOrganization) -> None:
    path_ids = create_path_ids(acme)
    path = f"{HOOKS}/deliveries/{path_ids['delivery']}"
    part = browser.open(path, **{"HX-Request": "true", "X-Poll": "1"})
    assert (part.status_code, part.text.lstrip()[:4]) == (200, "<div")
    acme.finish_deliveries("failed")
    ended = browser.open(path, **{"HX-Request": "true", "X-Poll": "1"})
    assert ended.status_code == 286
    assert "data-poll" not in ended.text
    assert browser.open(path).status_code == 200


def test_deliveries_of_all_endpoints_are_listed_and_filtered(browser: Browser, acme: WebhookOrganization) -> None:
    first, second = acme.create_endpoint(), acme.create_endpoint(url="http://127.0.0.2:9/other")
    acme.publish_event("invoice.paid")
    acme.finish_deliveries("failed")
    acme.publish_event("message.failed")
    listed = f"{HOOKS}/deliveries"
    rows = r'<th scope="row"><a class="row-link"'
    assert len(re.findall(rows, browser.open(listed).text)) == 4
    assert len(re.findall(rows, browser.open(f"{listed}?status=failed").text)) == 2
    assert len(re.findall(rows, browser.open(f"{listed}?status=failed&endpoint_id={first['id']}").text)) == 1
    assert len(re.findall(rows, browser.open(f"{listed}?event_type=message.failed").text)) == 2
    assert "No deliveries match" in browser.open(f"{listed}?event_type=invoice.voided").text
    wrong = browser.open(f"{listed}?status=lost&endpoint_id={second['id']}")
    assert wrong.status_code == 422
    assert f'value="{second["id"]}" selected' in wrong.text


def test_older_deliveries_are_on_the_next_page(browser: Browser, acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    for _ in range(27):
        acme.publish_event()
    rows, listed = r'<th scope="row"><a class="row-link" href="([^"]+)"', f"{HOOKS}/deliveries"
    first = browser.open(f"{listed}?status=queued").text
    older = html.unescape(re.search(r'href="([^"]+)" rel="next"', first)[1])
    assert "status=queued" in older
    second = browser.open(older).text
    pages = re.findall(rows, first), re.findall(rows, second)
    assert [len(page) for page in pages] == [25, 2]
    assert not set(pages[0]) & set(pages[1])
    assert browser.open(f"{listed}?cursor=nonsense").status_code == 422


def test_repeated_resend_makes_one_delivery(browser: Browser, acme: WebhookOrganization) -> None:
    path_ids = create_path_ids(acme)
    acme.finish_deliveries("failed")
    path = f"{HOOKS}/deliveries/{path_ids['delivery']}"
    fields = browser.form(path, f"{path}/resend")
    responses = [browser.send(f"{path}/resend", fields) for _ in range(2)]
    assert [response.status_code for response in responses] == [303, 303]
    assert responses[0].location == responses[1].location
    assert len(acme.rows("SELECT 1 FROM webhook_deliveries WHERE cause = 'replay'")) == 1


def test_picked_deliveries_are_resent_once(browser: Browser, acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    for _ in range(3):
        acme.publish_event()
    acme.finish_deliveries("failed")
    listed = f"{HOOKS}/deliveries?status=failed"
    page = browser.open(listed)
    picked = re.findall(r'name="ids" value="(whd_[0-9a-f]{32})"', page.text)[:2]
    action = f"{HOOKS}/deliveries/resend?status=failed"
    fields = {**form_of(page, html.escape(action)), "ids": picked}
    responses = [browser.send(action, fields) for _ in range(2)]
    assert [(response.status_code, response.location) for response in responses] == [(303, listed)] * 2
    assert "2 deliveries resent." in browser.open(listed).text
    assert len(acme.rows("SELECT FROM webhook_deliveries WHERE cause = 'replay'")) == 2


def test_deliveries_are_found_by_their_event_and_by_its_object(browser: Browser, acme: WebhookOrganization) -> None:
    path_ids = create_path_ids(acme)
    acme.publish_event("invoice.voided")
    rows = r'<th scope="row"><a class="row-link" href="[^"]+">([^<]+)</a>'
    [subject_id] = [row.subject_id for row in acme.rows("SELECT * FROM events") if row.type == "invoice.paid"]
    object_id = core_ids.format_id("inv", subject_id)
    for searched in (path_ids["delivery"], path_ids["event"], object_id):
        assert re.findall(rows, browser.open(f"{HOOKS}/deliveries?q={searched}").text) == ["invoice.paid"]
    assert re.findall(rows, browser.open(f"{HOOKS}/events?object_id={object_id}").text) == ["invoice.paid"]
    assert "Enter a whole ID" in browser.open(f"{HOOKS}/deliveries?q=inv_1").text


def test_tabs_count_the_deliveries_of_each_status(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint()
    for status in ("failed", "failed", "delivered"):
        acme.publish_event()
        acme.finish_deliveries(status)
    acme.publish_event()
    acme.execute("UPDATE webhook_deliveries SET attempts = 1 WHERE status = 'queued'")

    def counts(query: str) -> dict[str, str]:
        return dict(re.findall(r'>(\w+) <span class="count">([^<]+)<', browser.open(f"{HOOKS}/deliveries{query}").text))

    expected = {"Queued": "0", "Retrying": "1", "Sending": "0", "Delivered": "1", "Failed": "2", "Canceled": "0"}
    assert counts("") == counts(f"?endpoint_id={endpoint['id']}&status=failed") == expected
    assert counts("?event_type=invoice.paid") == {}


def test_open_list_counts_newer_deliveries_that_match_its_filters(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint, other = acme.create_endpoint(), acme.create_endpoint()
    acme.create_endpoint(mode="test")
    acme.publish_event()
    acme.finish_deliveries("delivered")

    def newer(query: str) -> str:
        """Publish an event to an open list, and return what its poll says."""
        page = browser.open(f"{HOOKS}/deliveries?{query}").text
        [poll] = re.findall(r'id="newer"[^>]*hx-get="([^"]+)"', page)
        acme.publish_event()
        acme.publish_test_event()
        text = browser.open(html.unescape(poll), **{"HX-Request": "true"}).text
        return " ".join(re.findall(r">Show ([^<]+)<", text))

    assert newer("") == "2 new deliveries"
    assert newer(f"endpoint_id={endpoint['id']}&event_type=invoice.paid") == "1 new delivery"
    assert newer(f"endpoint_id={other['id']}&status=delivered") == ""
    assert newer("event_type=invoice.voided") == ""
    assert 'id="newer"' not in browser.open(f"{HOOKS}/deliveries?status=lost").text


def test_event_shows_its_payload_and_is_replayed(browser: Browser, acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_event(number="<script>alert(1)</script>")
    (row,) = acme.rows("SELECT id FROM events")
    path = f"{HOOKS}/events/{core_ids.format_id('evt', row.id)}"
    for text in (browser.open(path).text, browser.open(f"{HOOKS}/events").text):
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text
    assert browser.submit(path, f"{path}/replay").status_code == 303
    assert len(acme.rows("SELECT 1 FROM webhook_deliveries")) == 2


def test_member_sees_deliveries_without_the_url(app: Flask, acme: WebhookOrganization, bob: User) -> None:
    endpoint = acme.create_endpoint(url=f"{URL}?token=s3same")
    acme.publish_event()
    (row,) = acme.rows("SELECT id FROM webhook_deliveries")
    browser = Browser(app, bob)
    for path in ("", "/deliveries", f"/deliveries/{core_ids.format_id('whd', row.id)}"):
        text = browser.open(HOOKS + path).text
        assert "s3same" not in text
        assert f"{HOOKS}/{endpoint['id']}" not in text


def test_every_event_type_is_listed(browser: Browser) -> None:
    text = browser.open(f"{HOOKS}/event-types").text
    assert all(f">{kind}</a>" in text for kind in event_types.names())
    filtered = browser.open(f"{HOOKS}/event-types?type=invoice.paid").text
    assert "&#34;type&#34;: &#34;invoice.paid&#34;" in filtered
    assert "JSON Schema" in filtered
    assert browser.open(f"{HOOKS}/event-types?type=nothing").status_code == 422
