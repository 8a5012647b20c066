"""Webhook pages: endpoints, their secrets shown once, deliveries with attempts, events."""

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from saas_api.core import ids as core_ids
from saas_api.webhooks import payload
from tests.support.accounts import PASSWORD, User, join, sign_in
from tests.support.pages import Browser, check_access, form_of
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements
from tests.support.webhook_pages import HOOKS, URL, create_path_ids
from tests.support.webhooks import WebhookOrganization

PAGES = {
    "GET /dashboard/webhooks": "webhooks:read",
    "GET /dashboard/webhooks/new": "webhooks:write",
    "GET /dashboard/webhooks/{endpoint}": "webhooks:write",
    "GET /dashboard/webhooks/{endpoint}/edit": "webhooks:write",
    "GET /dashboard/webhooks/{endpoint}/roll": "webhooks:write",
    "GET /dashboard/webhooks/{endpoint}/recover": "webhooks:write",
    "GET /dashboard/webhooks/{endpoint}/delete": "webhooks:write",
    "GET /dashboard/webhooks/deliveries": "webhooks:read",
    "GET /dashboard/webhooks/deliveries/{delivery}": "webhooks:read",
    "GET /dashboard/webhooks/events": "webhooks:read",
    "GET /dashboard/webhooks/events/{event}": "webhooks:read",
    "GET /dashboard/webhooks/event-types": "webhooks:read",
}


def make(browser: Browser, **changes: Any) -> Any:
    return browser.submit(f"{HOOKS}/new", **{"url": URL, **changes})


def secret_on(text: str) -> str:
    match = re.search(r'<pre class="secret"[^>]*>(whsec_[^<]+)</pre>', text)
    assert match
    return html.unescape(match[1])


def test_pages_require_their_permission(app: Flask, client: FlaskClient, acme: WebhookOrganization) -> None:
    path_ids = create_path_ids(acme)
    check_access(app, client, acme.owner, {name.format(**path_ids): permission for name, permission in PAGES.items()})


def test_endpoints_are_not_found_by_another_organization(app: Flask, acme: WebhookOrganization, carol: User) -> None:
    path_ids, browser = create_path_ids(acme), Browser(app, carol)
    paths = [name.removeprefix("GET ").format(**path_ids) for name in PAGES if "{" in name]
    assert {browser.open(path).status_code for path in paths} == {404}
    token = browser.form(f"{HOOKS}/new")["csrf_token"]
    verbs = ("edit", "enable", "disable", "test", "delete", "roll")
    posts = [f"{HOOKS}/{path_ids['endpoint']}/{verb}" for verb in verbs]
    posts += [f"{HOOKS}/deliveries/{path_ids['delivery']}/resend", f"{HOOKS}/events/{path_ids['event']}/replay"]
    key = browser.form(f"{HOOKS}/new")["form_key"]
    fields = {"csrf_token": token, "form_key": key, "url": URL, "typed": "127.0.0.1:9"}
    assert {browser.send(path, fields).status_code for path in posts} == {404}
    assert acme.rows("SELECT count(*) FROM webhook_deliveries")[0][0] == 1


def test_member_cannot_submit_forms(app: Flask, acme: WebhookOrganization, bob: User) -> None:
    path_ids, browser = create_path_ids(acme), Browser(app, bob)
    token = form_of(browser.open(HOOKS), "/logout")["csrf_token"]
    for path in ("new", f"{path_ids['endpoint']}/disable", f"deliveries/{path_ids['delivery']}/resend"):
        assert browser.send(f"{HOOKS}/{path}", {"csrf_token": token, "url": URL}).status_code == 403
    assert acme.rows("SELECT status FROM webhook_endpoints")[0].status == "enabled"


def test_empty_list_explains_endpoints(browser: Browser) -> None:
    text = browser.open(HOOKS).text
    assert "No endpoints yet" in text
    assert f'href="{HOOKS}/new"' in text


def test_pages_show_the_endpoints_events_and_deliveries_of_the_mode(
    browser: Browser, acme: WebhookOrganization
) -> None:
    acme.create_endpoint(description="Live books")
    acme.publish_event("invoice.paid")
    browser.client.set_cookie("mode", "test")
    empty = browser.open(HOOKS).text
    assert ("No test endpoints yet" in empty, "sent to test endpoints only" in empty) == (True, True)
    assert make(browser, description="Trial books").status_code == 200
    assert [row.mode for row in acme.rows("SELECT mode FROM webhook_endpoints ORDER BY created_at")] == ["live", "test"]
    acme.publish_test_event("invoice.voided")
    for mode, own, other in (("test", "voided", "paid"), ("live", "paid", "voided")):
        browser.client.set_cookie("mode", mode)
        listed = browser.open(HOOKS).text
        assert ("Trial books" in listed, "Live books" in listed) == (mode == "test", mode == "live")
        for path in ("events", "deliveries"):
            links = re.findall(r">(invoice\.\w+)</a>", browser.open(f"{HOOKS}/{path}").text)
            assert links == [f"invoice.{own}"], (mode, path, other)


def test_example_events_are_offered_to_test_endpoints_only(browser: Browser, acme: WebhookOrganization) -> None:
    live, test = acme.create_endpoint(), acme.create_endpoint(mode="test")
    path = f"{HOOKS}/{live['id']}"
    assert 'name="event_type"' not in browser.open(path).text
    assert browser.submit(path, f"{path}/test").status_code == 303
    refused = browser.submit(path, f"{path}/test", event_type="invoice.paid")
    assert (refused.status_code, "webhook.test only" in refused.text) == (422, True)
    path = f"{HOOKS}/{test['id']}"
    assert browser.submit(path, f"{path}/test", event_type="invoice.paid").status_code == 303


def test_group_selects_all_its_event_types(browser: Browser, acme: WebhookOrganization) -> None:
    fields = {**browser.form(f"{HOOKS}/new"), "url": URL, "event_types": ["payment.*", "invoice.paid"]}
    assert browser.send(f"{HOOKS}/new", fields).status_code == 200
    [row] = acme.rows("SELECT event_types FROM webhook_endpoints")
    assert row.event_types == ["invoice.paid", "payment.failed", "payment.refunded", "payment.succeeded"]
    wrong = browser.send(f"{HOOKS}/new", {**browser.form(f"{HOOKS}/new"), "url": URL, "event_types": ["pay.*", "*"]})
    assert wrong.status_code == 422


def test_new_endpoint_shows_its_secret_once(browser: Browser, acme: WebhookOrganization) -> None:
    fields = {**browser.form(f"{HOOKS}/new"), "url": URL, "event_types": ["invoice.paid", "message.failed"]}
    response = browser.send(f"{HOOKS}/new", fields)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    secret = secret_on(response.text)
    (row,) = acme.rows("SELECT id, url, event_types FROM webhook_endpoints")
    assert (row.url, row.event_types) == (URL, ["invoice.paid", "message.failed"])
    page = browser.open(f"{HOOKS}/{core_ids.format_id('whe', row.id)}").text
    assert secret not in page
    again = browser.send(f"{HOOKS}/new", fields)
    assert secret_on(again.text) == secret
    assert acme.rows("SELECT count(*) FROM webhook_endpoints")[0][0] == 1


def test_snippet_verifies_a_signature(
    browser: Browser, acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make(browser).text
    secret = secret_on(text)
    code = html.unescape(re.search(r"<pre[^>]*><code>(import base64.*?)</code></pre>", text, re.DOTALL)[1])
    assert html.unescape(re.search(r'data-copy="(import [^"]+)"', text)[1]) == code
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    page: dict[str, Any] = {}
    exec(code, page)  # noqa: S102 - the page tells users to run it
    body, at = b'{"id":"evt_1"}', int(clock.now().timestamp())
    assert page["verify"](payload.signature_headers([secret], "evt_1", at, body), body) == {"id": "evt_1"}
    with pytest.raises(ValueError, match="invalid signature"):
        page["verify"](payload.signature_headers([secret], "evt_1", at, body), body + b" ")
    with pytest.raises(ValueError, match="out of range"):
        page["verify"](payload.signature_headers([secret], "evt_1", at - 301, body), body)


def test_rejected_url_keeps_the_form_values(
    app: Flask, browser: Browser, acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", [])
    response = make(browser, description="Ours <b>", event_types=["invoice.paid"])
    assert response.status_code == 422
    form = form_of(response, f"{HOOKS}/new")
    assert (form["url"], form["description"], form["event_types"]) == ([URL], ["Ours <b>"], ["invoice.paid"])
    assert 'id="e-url"' in response.text
    assert "Ours <b>" not in response.text
    assert not acme.rows("SELECT id FROM webhook_endpoints")


def test_creation_requires_a_recent_password(app: Flask, alice: User, acme: WebhookOrganization) -> None:
    browser = Browser(app, alice)
    clear_freshness(browser)
    refused = make(browser)
    assert refused.status_code == 422
    assert "confirm_password" in form_of(refused, f"{HOOKS}/new")
    assert make(browser, confirm_password="wrong password").status_code == 422
    assert not acme.rows("SELECT id FROM webhook_endpoints")
    assert secret_on(make(browser, confirm_password=PASSWORD).text)


def clear_freshness(browser: Browser) -> None:
    """As after ten minutes: the session is renewed by its refresh token and not recently authenticated."""
    browser.client.delete_cookie("at")


def test_endpoint_is_listed_with_its_success_rate(browser: Browser, acme: WebhookOrganization) -> None:
    acme.create_endpoint(description="<script>alert(1)</script>")
    acme.publish_event()
    acme.finish_deliveries("delivered")
    text = browser.open(HOOKS).text
    assert "100%" in text
    assert 'aria-label="Success rate by hour, at least 100%"' in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_endpoint_is_updated(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint(event_types=["invoice.paid"])
    path = f"{HOOKS}/{endpoint['id']}/edit"
    assert browser.submit(path, description="Books", event_types=None).status_code == 303
    (row,) = acme.rows("SELECT url, description, event_types FROM webhook_endpoints")
    assert (row.url, row.description, row.event_types) == (URL, "Books", None)
    assert browser.submit(path, url="ftp://example.com").status_code == 422


def test_secret_is_rotated_with_a_grace_period(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint()
    page_path = f"{HOOKS}/{endpoint['id']}"
    response = browser.submit(f"{page_path}/roll", grace_seconds="3600")
    assert secret_on(response.text) != endpoint["secret"]
    assert "signed with both the old and the new secret" in response.text
    ends = [row.expires_at for row in acme.rows("SELECT expires_at FROM webhook_secrets ORDER BY id")]
    assert timedelta(minutes=59) < ends[0] - clock.now() < timedelta(minutes=61)
    assert ends[1] is None
    assert "2 active secrets" in browser.open(page_path).text


def test_endpoint_is_deleted_after_confirmation(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint()
    path = f"{HOOKS}/{endpoint['id']}/delete"
    wrong = browser.submit(path, typed="example.com")
    assert wrong.status_code == 422
    assert form_of(wrong, path)["typed"] == ["example.com"]
    assert acme.rows("SELECT deleted_at FROM webhook_endpoints")[0].deleted_at is None
    assert browser.submit(path, typed="127.0.0.1:9").status_code == 303
    assert acme.rows("SELECT deleted_at FROM webhook_endpoints")[0].deleted_at is not None
    assert browser.open(f"{HOOKS}/{endpoint['id']}").status_code == 404


def test_disabled_endpoint_shows_reason_and_missed_events(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint()
    page_path = f"{HOOKS}/{endpoint['id']}"
    assert browser.submit(page_path, f"{page_path}/disable").status_code == 303
    acme.execute("UPDATE webhook_endpoints SET status = 'disabled_failing', first_failure_at = now() - interval '5 d'")
    acme.publish_event()
    acme.publish_event()
    text = browser.open(page_path).text
    assert "five days of failed deliveries" in text
    assert "it missed 2 events" in text
    assert browser.submit(page_path, f"{page_path}/enable").status_code == 303
    assert acme.rows("SELECT status FROM webhook_endpoints")[0].status == "enabled"
    assert len(acme.rows("SELECT 1 FROM webhook_deliveries WHERE cause = 'replay'")) == 2


def test_enabling_without_recovery_sends_no_missed_events(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint()
    page_path = f"{HOOKS}/{endpoint['id']}"
    browser.submit(page_path, f"{page_path}/disable")
    acme.publish_event()
    assert browser.submit(page_path, f"{page_path}/enable", recover=None).status_code == 303
    assert not acme.rows("SELECT 1 FROM webhook_deliveries")


def test_recovery_starts_at_a_local_time(browser: Browser, acme: WebhookOrganization) -> None:
    endpoint = acme.create_endpoint()
    acme.publish_event()
    acme.finish_deliveries("failed")
    path = f"{HOOKS}/{endpoint['id']}/recover"
    late = f"{clock.now() + timedelta(hours=1):%Y-%m-%dT%H:%M}"
    refused = browser.submit(path, since=late)
    assert refused.status_code == 422
    assert form_of(refused, path)["since"] == [late]
    assert browser.submit(path, since="yesterday").status_code == 422
    since = f"{clock.now() - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    assert browser.submit(path, since=since).status_code == 303
    assert len(acme.rows("SELECT 1 FROM webhook_deliveries WHERE cause = 'replay'")) == 1


def test_pages_take_few_statements(app: Flask, browser: Browser, acme: WebhookOrganization) -> None:
    path_ids = create_path_ids(acme)
    for name in PAGES:
        path = name.removeprefix("GET ").format(**path_ids)
        with count_statements(app) as statements:
            assert browser.open(path).status_code == 200
        assert len(statements) <= MAX_PAGE_STATEMENTS, (path, statements)


def test_admin_can_manage_endpoints(app: Flask, client: FlaskClient, acme: WebhookOrganization) -> None:
    join(app, acme.owner.organization_id, "ada@acme.example", "admin")
    browser = Browser(app, sign_in(client, "ada@acme.example"))
    assert secret_on(make(browser).text)
    assert len(acme.rows("SELECT 1 FROM webhook_endpoints")) == 1
