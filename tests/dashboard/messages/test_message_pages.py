"""Pages about messages.

| page | permission |
|---|---|
| list, one message, table | messages:read, in every role |
| a test message | messages:test: owner, admin, member |
| cancel | messages:cancel: owner, admin, member |
"""

import html
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import formatting
from tests.support.accounts import Headers, User, join, sign_in
from tests.support.message_pages import MESSAGES, NEW, list_messages, pages_module, parse_csv
from tests.support.messages import MAIL, SMS, Work, send_message
from tests.support.pages import Browser, check_access, form_of
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements

PAGES = {
    "GET /dashboard/messages": "messages:read",
    "GET /dashboard/messages?format=csv": "messages:read",
    "GET /dashboard/messages/{message}": "messages:read",
    "GET /dashboard/messages/new": "messages:test",
}


def test_pages_require_their_permission(app: Flask, client: FlaskClient, alice: User, live: Headers) -> None:
    message_id = send_message(client, live)
    pages = {name.format(message=message_id): permission for name, permission in PAGES.items()}
    check_access(app, client, alice, pages)


@pytest.mark.parametrize(("role", "status"), [("admin", 303), ("member", 303), ("billing", 403), ("viewer", 403)])
def test_sending_and_canceling_require_their_permission(
    app: Flask, client: FlaskClient, alice: User, live: Headers, role: str, status: int
) -> None:
    message_id = send_message(client, live)
    join(app, alice.organization_id, f"{role}@acme.example", role)
    browser = Browser(app, sign_in(client, f"{role}@acme.example"))
    token = browser.form(MESSAGES, "/logout")["csrf_token"]
    fields = {"csrf_token": token, "form_key": _form_key(app, client, alice), **SMS}
    assert browser.send(NEW, fields).status_code == status
    assert browser.send(f"{MESSAGES}/{message_id}/cancel", {"csrf_token": token}).status_code == status
    assert ("Send a test message" in browser.open(MESSAGES).text) == (status == 303)


def _form_key(app: Flask, client: FlaskClient, user: User) -> str:
    return Browser(app, user).form(NEW)["form_key"][0]


def test_messages_are_not_found_by_another_organization(
    app: Flask, client: FlaskClient, live: Headers, carol: User
) -> None:
    message_id, carol_browser = send_message(client, live), Browser(app, carol)
    page_path = f"{MESSAGES}/{message_id}"
    response = carol_browser.open(page_path)
    assert (response.status_code, SMS["to"] in response.text) == (404, False)
    token = carol_browser.form(NEW)["csrf_token"]
    assert carol_browser.send(f"{page_path}/cancel", {"csrf_token": token}).status_code == 404
    assert message_id not in carol_browser.open(MESSAGES).text
    assert parse_csv(carol_browser.open(f"{MESSAGES}?format=csv").text) == []


@pytest.mark.parametrize("path", [NEW, f"{NEW}/count", f"{MESSAGES}/{{message}}/cancel"])
def test_form_from_another_origin_is_rejected(
    browser: Browser, client: FlaskClient, alice: User, live: Headers, path: str
) -> None:
    message_id = send_message(client, live)
    assert browser.send(path.format(message=message_id), SMS).status_code == 400
    assert [(item["message_id"], item["status"]) for item in list_messages(client, alice)] == [(message_id, "queued")]


def test_empty_list_explains_messages(browser: Browser) -> None:
    response = browser.open(MESSAGES)
    assert "No live messages yet" in response.text
    assert "curl http" in response.text
    assert NEW in response.text
    assert "<table" not in response.text


def test_canceled_message_has_its_usage_reversed(
    browser: Browser, client: FlaskClient, alice: User, live: Headers, work: Work
) -> None:
    page_path = f"{MESSAGES}/{send_message(client, live)}"
    page = browser.open(page_path).text
    assert "Recorded" in page
    assert browser.submit(page_path, f"{page_path}/cancel").status_code == 303
    page = browser.open(page_path).text
    assert "Refunded" in page
    assert "-1 " in page
    assert '<dd>$0.00 <span class="muted">refunded</span></dd>' in page
    assert "Cancel message" not in page
    work()
    assert list_messages(client, alice)[0]["status"] == "canceled"


def test_failed_message_costs_nothing_and_lowers_the_delivery_rate(
    browser: Browser, client: FlaskClient, alice: User, live: Headers, work: Work
) -> None:
    """G8: a failed message kept its cost, and the pages showed a success rate of 100 %."""
    send_message(client, live)
    failed_id = send_message(client, live, to="+15005550001")
    work()
    [failed, delivered] = list_messages(client, alice)
    assert (failed["message_id"], failed["status"], failed["cost"]) == (failed_id, "failed", "0")
    assert delivered["cost"] != "0"
    assert '$0.00 <span class="muted">refunded</span>' in browser.open(f"{MESSAGES}/{failed_id}").text
    assert browser.open(MESSAGES).text.count("refunded") == 1
    home = browser.open("/dashboard").text
    assert 'Delivery rate</a></p><p class="stat-value">50%</p><p class="stat-note">1 failure in the last 2' in home


def test_sent_message_cannot_be_canceled(browser: Browser, client: FlaskClient, live: Headers, work: Work) -> None:
    page_path = f"{MESSAGES}/{send_message(client, live)}"
    fields = browser.form(page_path, f"{page_path}/cancel")
    work()
    response = browser.send(f"{page_path}/cancel", fields)
    assert response.status_code == 409
    assert "can no longer be canceled" in response.text


def test_picked_messages_are_canceled_once(
    browser: Browser, client: FlaskClient, alice: User, live: Headers, work: Work
) -> None:
    delivered = send_message(client, live)
    work()
    queued = [send_message(client, live) for _ in range(3)]
    page = browser.open(f"{MESSAGES}?type=sms")
    assert re.findall(r'name="ids" value="(msg_[0-9a-f]{32})"', page.text) == queued[::-1]
    action = f"{MESSAGES}/cancel?type=sms"
    fields = {**form_of(page, action), "ids": [queued[0], delivered, queued[1]]}
    responses = [browser.send(action, fields) for _ in range(2)]
    assert [(response.status_code, response.location) for response in responses] == [(303, f"{MESSAGES}?type=sms")] * 2
    assert "2 messages canceled. 1 message skipped" in browser.open(MESSAGES).text
    assert [message["status"] for message in list_messages(client, alice)] == [
        "queued",
        "canceled",
        "canceled",
        "delivered",
    ]
    work()
    assert 'name="ids"' not in browser.open(MESSAGES).text


def test_message_shows_its_event_deliveries(
    app: Flask, browser: Browser, client: FlaskClient, alice: User, bob: User, live: Headers, work: Work
) -> None:
    response = client.post(
        "/api/v1/webhooks/endpoints", json={"url": "https://hooks.example/in"}, headers=alice.headers
    )
    assert response.status_code == 201, response.json
    page_path = f"{MESSAGES}/{send_message(client, live)}"
    assert "No webhooks were sent for this message." in browser.open(page_path).text
    work()
    page = browser.open(page_path).text
    assert "message.delivered" in page
    assert "https://hooks.example/in" in page
    assert "/dashboard/webhooks/deliveries/whd_" in page
    assert "hooks.example" not in Browser(app, bob).open(page_path).text


def test_figures_equal_the_api(browser: Browser, client: FlaskClient, alice: User, live: Headers, work: Work) -> None:
    send_message(client, live, message="x" * 161)
    send_message(client, live, **MAIL)
    work()
    page = browser.open(MESSAGES).text
    rows = page.split("<tr>")[2:]
    for message, row in zip(list_messages(client, alice), rows, strict=True):
        assert f"{MESSAGES}/{message['message_id']}" in row
        assert f'<td class="anywhere">{message["to"]}<' in row
        assert f'<td class="num p3">{message["segments"]}<' in row
        assert f'class="num">{formatting.format_unit_price(message["cost"], "USD")}<' in row
        assert message["status"].capitalize() in row
        assert "Live key" in row


def test_filters_apply_and_modes_never_mix(
    browser: Browser, client: FlaskClient, alice: User, live: Headers, trial_key: Headers, work: Work
) -> None:
    first = send_message(client, live)
    other = send_message(client, live, **MAIL)
    trial = send_message(client, trial_key, to="+15005550001")
    work()

    def listed_ids(query: str) -> set[str]:
        text = browser.open(f"{MESSAGES}?{query}").text
        return {item for item in (first, other, trial) if item in text}

    key_ids = {key["name"]: key["id"] for key in client.get("/api/v1/keys", headers=alice.headers).json["data"]["keys"]}
    assert listed_ids("") == {first, other}
    assert listed_ids("mode=test") == {trial}
    assert listed_ids("status=failed") == {trial}
    assert listed_ids("mode=live") == {first, other}
    assert listed_ids("type=email") == {other}
    assert listed_ids(f"to={MAIL['to']}") == {other}
    assert listed_ids(f"key={key_ids['Live key']}") == {first, other}
    assert listed_ids(f"key={key_ids['Test key']}") == set()
    for range_name in ("24h", "7d", "30d", "period"):
        assert listed_ids(f"range={range_name}") == {first, other}, range_name
    assert listed_ids("range=last_period") == set()
    assert listed_ids("end_date=2020-01-02") == set()
    assert listed_ids("range=30d&end_date=2020-01-02") == set()
    browser.client.set_cookie("mode", "test")
    assert listed_ids("") == {trial}


def test_tabs_count_the_messages_of_each_status(
    browser: Browser, client: FlaskClient, live: Headers, trial_key: Headers, work: Work
) -> None:
    for recipient in (SMS["to"], SMS["to"], "+15005550001"):
        send_message(client, live, to=recipient)
    work()
    send_message(client, live, **MAIL)
    send_message(client, trial_key)

    def counts(query: str = "") -> dict[str, str]:
        page = browser.open(f"{MESSAGES}{query}").text
        return {name: count for name, count in re.findall(r'>(\w+) <span class="count">([^<]+)<', page) if count != "0"}

    assert counts() == counts("?status=canceled&range=24h") == {"Queued": "1", "Delivered": "2", "Failed": "1"}
    assert counts("?to=%2B15005550001") == {"Failed": "1"}
    assert counts("?type=sms") == counts("?end_date=2020-01-02") == {}
    assert counts("?mode=test") == {"Queued": "1"}


def test_key_filter_offers_the_keys_of_the_mode(
    browser: Browser, client: FlaskClient, live: Headers, trial_key: Headers
) -> None:
    """It offered the test keys among live messages, too."""
    send_message(client, live)
    send_message(client, trial_key)
    offered = r'<option value="key_[0-9a-f]+">([^<]+)<'
    assert re.findall(offered, browser.open(MESSAGES).text) == ["Live key"]
    assert re.findall(offered, browser.open(f"{MESSAGES}?mode=test").text) == ["Test key"]


def test_search_finds_a_message_by_its_id(browser: Browser, client: FlaskClient, live: Headers) -> None:
    message_id = send_message(client, live)
    response = browser.open(f"{MESSAGES}?to=+{message_id}")
    assert (response.status_code, response.location) == (303, f"{MESSAGES}/{message_id}")
    other = f"{MESSAGES}/msg_{'0' * 32}"
    assert browser.open(other).status_code == 404


def test_page_shows_the_time_of_each_step_and_leads_to_the_key(
    browser: Browser, client: FlaskClient, live: Headers, work: Work
) -> None:
    message_id = send_message(client, live)
    work()
    page = browser.open(f"{MESSAGES}/{message_id}").text
    assert len(re.findall(r"</time> · \+\d+(\.\d)? s<", page)) == 2
    assert re.search(r'<a href="/dashboard/api-keys/key_\w+"><bdi>Live key</bdi></a>', page)


def test_open_list_counts_newer_messages_that_match_its_filters(
    browser: Browser, client: FlaskClient, live: Headers
) -> None:
    """5.13: a list that was open did not show what had been sent since."""
    send_message(client, live)
    poll = re.search(r'id="newer".*?hx-get="([^"]+)"', browser.open(f"{MESSAGES}?type=email").text)
    assert poll
    path = html.unescape(poll[1])
    assert "<a" not in browser.open(path, **{"HX-Request": "true"}).text
    send_message(client, live)
    send_message(client, live, **MAIL)
    newer = browser.open(path, **{"HX-Request": "true"}).text
    assert '<a class="button plain small" href="/dashboard/messages?type=email">Show 1 new message</a>' in newer


def test_dates_take_precedence_over_the_range(browser: Browser) -> None:
    """G5: as on the usage page."""
    page = browser.open(f"{MESSAGES}?range=30d&end_date=2020-01-02").text
    assert 'value="2020-01-02"' in page
    assert 'aria-current="true">30 days' not in page


@pytest.mark.parametrize(
    "bad", ["status=lost", "type=fax", "key=org_1", "range=1y", "start_date=tomorrow", "mode=both"]
)
def test_invalid_filter_is_reported(browser: Browser, client: FlaskClient, live: Headers, bad: str) -> None:
    response = browser.open(f"{MESSAGES}?{bad}")
    assert response.status_code == 422
    assert 'role="alert"' in response.text
    assert 'role="search"' in response.text


@pytest.mark.parametrize("bad", ["start_date=2026-02-02&end_date=2026-01-01", "cursor=nonsense"])
def test_invalid_range_and_foreign_cursor_are_rejected(browser: Browser, bad: str) -> None:
    assert browser.open(f"{MESSAGES}?{bad}").status_code == 422


def test_next_page_keeps_the_filters(browser: Browser, client: FlaskClient, live: Headers) -> None:
    oldest = send_message(client, live)
    for _ in range(25):
        send_message(client, live)
    first = browser.open(f"{MESSAGES}?type=sms").text
    assert oldest not in first
    older = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "type=sms" in older
    assert oldest in browser.open(older).text


def test_csv_applies_filters_and_escapes_formulas(
    browser: Browser, client: FlaskClient, alice: User, live: Headers, work: Work
) -> None:
    send_message(client, live, **{**MAIL, "subject": "=HYPERLINK(1)"})
    send_message(client, live)
    work()
    response = browser.open(f"{MESSAGES}?format=csv")
    assert response.mimetype == "text/csv"
    assert response.text.startswith("\ufeffmessage_id,to,type,subject,status,segments,cost,currency,mode,api_key_id")
    rows = parse_csv(response.text)
    assert len(rows) == 2
    for message, row in zip(list_messages(client, alice), rows, strict=True):
        for name in ("message_id", "type", "status", "mode", "cost", "created_at", "sent_at", "delivered_at"):
            assert row[name] == (message[name] or ""), name
    assert rows[0]["to"] == "'+2348012345678"
    assert rows[1]["subject"] == "'=HYPERLINK(1)"
    assert [row["type"] for row in parse_csv(browser.open(f"{MESSAGES}?format=csv&type=email").text)] == ["email"]


def test_csv_beyond_the_row_limit_is_rejected(
    browser: Browser, client: FlaskClient, live: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module(), "MAX_EXPORT_ROWS", 1)
    send_message(client, live)
    assert browser.open(f"{MESSAGES}?format=csv").status_code == 200
    send_message(client, live)
    assert browser.open(f"{MESSAGES}?format=csv").status_code == 422


def test_page_takes_few_statements(app: Flask, browser: Browser, client: FlaskClient, live: Headers) -> None:
    message_id = send_message(client, live)
    for path in (MESSAGES, f"{MESSAGES}/{message_id}", NEW, f"{MESSAGES}?range=period"):
        browser.open(path)
        with count_statements(app) as statements:
            browser.open(path)
        assert 0 < len(statements) <= MAX_PAGE_STATEMENTS, (path, "\n".join(statements))
