"""The editor of plans: drafts in fields and as JSON, two operators at once, publication, and moving organizations."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.admin import plan_editor, plan_fields
from saas_api.billing import plan_drafts, plans
from saas_api.billing.rating import plan_file
from saas_api.core import formatting, ids, money
from saas_api.core.db import tenancy
from tests.support.accounts import User, make_key
from tests.support.billing import publish_prices
from tests.support.console import (
    IN_PLATFORM_LOG,
    REASON,
    Console,
    audit_log,
    check_operator_access,
    execute_sql,
    open_console,
    organization_page,
    send_message,
)
from tests.support.pages import form_of
from tests.support.payments import IsolatedClient
from tests.support.usage_events import publish_meter

DRAFT = "/admin/plans/team@1/draft"
PER_UNIT = {"model": "per_unit", "unit_price": "0.01"}


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


@pytest.fixture
def console(app: Flask, context: Flask, olga: User) -> Console:
    """An operator's browser, with a plan that only this test changes."""
    publish_prices("team", {"sms": PER_UNIT}, base="19.00")
    return open_console(app, olga)


def publish(console: Console) -> str:
    """Publish the draft as its review page shows it."""
    return console.run_action(f"{DRAFT}/publish")


def document(version_id: str) -> dict[str, Any]:
    with tenancy.system_session("billing.catalogue") as session:
        return plan_file.to_document(plans.get_plan_content(session, version_id))


def versions(app: Flask) -> list[str]:
    return [
        row.id for row in execute_sql(app, "SELECT id FROM plan_versions WHERE plan_code = 'team' ORDER BY version")
    ]


def period_bill(app: Flask, base_minor: int, usage_minor: int) -> str:
    """The bill of the only period, which began at sign-up and ends with the month."""
    [period] = execute_sql(app, "SELECT starts_at, ends_at, nominal_seconds FROM billing_periods")
    length = (period.ends_at - period.starts_at) // timedelta(microseconds=1)
    base_minor = money.prorate(base_minor, length, period.nominal_seconds * 10**6)
    return formatting.format_money(base_minor + usage_minor, "USD")


def test_pages_require_the_role_admin(app: Flask, client: FlaskClient, console: Console, carol: User) -> None:
    paths = (DRAFT, f"{DRAFT}/publish", f"{DRAFT}/discard", "/admin/plans/new", "/admin/plans/team@1/migrate")
    check_operator_access(app, client, carol, dict.fromkeys(paths, "admin"))
    assert console.open("/admin/plans/gold@1/draft").status_code == 404


def test_price_is_changed_reviewed_published_and_organizations_are_moved(
    app: Flask, client: FlaskClient, console: Console, alice: User
) -> None:
    page = f"{organization_page(alice)}/plan"
    console.submit(f"{page}?plan=team&when=now", page, reason=REASON)
    key = make_key(client, alice)
    assert [send_message(client, key)[0] for _ in range(2)] == [202, 202]
    changes = {"p1-unit_price": "0.50", "base_amount": "29.00", "then": "review"}
    response = console.submit(DRAFT, **changes)
    assert response.location.endswith(f"{DRAFT}/publish")
    page = console.read(response.location)
    before, after = period_bill(app, 1900, 2), period_bill(app, 2900, 100)
    for text in ("prices.sms.unit_price", "0.01", "0.5", "base_amount", "1 organization on team@1", before, after):
        assert text in page
    assert versions(app) == ["team@1"]  # the review publishes nothing
    published = publish(console)
    assert ("team@2 published" in published, "1 organization still on team@1" in published) == (True, True)
    assert document("team@2")["prices"]["sms"]["unit_price"] == "0.5"
    assert audit_log(app, "plan.published")[-1] == IN_PLATFORM_LOG[0]
    assert execute_sql(app, "SELECT * FROM plan_drafts") == []
    page = console.read("/admin/plans/team@1/migrate?target=team@2&when=now")
    assert after in page
    moved = console.submit_action("/admin/plans/team@1/migrate?target=team@2&when=now")
    page = console.read(moved.location)
    assert "1 organization moved." in page
    assert "Acme" in console.read("/admin/plans/team@2")
    assert audit_log(app, "plan.migrated") == IN_PLATFORM_LOG


def test_many_organizations_are_moved_in_parts(
    app: Flask, console: Console, alice: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in (alice, carol):
        page = f"{organization_page(user)}/plan"
        assert console.submit(f"{page}?plan=team&when=now", page, reason=REASON).status_code == 303
    console.submit(DRAFT, base_amount="29.00")
    publish(console)
    monkeypatch.setattr(plan_editor, "MAX_MOVED", 1)
    path = "/admin/plans/team@1/migrate"
    refused = console.submit(f"{path}?target=team@2&when=period_end", path, reason="short")
    assert (refused.status_code, "2. Review" in refused.text) == (422, True)  # the choice is not lost
    assert console.open(f"{path}?target=gold@1").status_code == 422
    review = console.form(f"{path}?target=team@2&when=period_end", path)
    refused = console.send(path, {**review, "reason": REASON, "target": "team@1"})
    assert (refused.status_code, audit_log(app, "plan.migrated")) == (422, [])
    for notice in ("1 organization moved. 1 left.", "1 organization moved.", "0 organizations moved."):
        response = console.submit(f"{path}?target=team@2&when=period_end", path, reason=REASON)
        assert notice in console.read(response.location)
    scheduled = "SELECT count(*) AS n FROM subscription_segments WHERE plan_version_id = 'team@2' AND ends_at IS NULL"
    assert execute_sql(app, scheduled)[0].n == 2


def test_draft_is_kept_although_it_is_invalid(app: Flask, console: Console) -> None:
    console.submit(DRAFT, name="Teams")
    review = console.form(f"{DRAFT}/publish")
    assert console.submit(DRAFT, **{"p1-unit_price": "a lot"}).status_code == 303
    page = console.read(DRAFT)
    assert ('value="a lot"' in page, 'value="Teams"' in page, "be published yet" in page) == (True, True, True)
    assert "Draft saved by olga@platform.example" in page
    assert "prices.sms.unit_price" in console.read(f"{DRAFT}/publish")
    refused = console.send(f"{DRAFT}/publish", {**review, "reason": REASON, "revision": "2"})
    assert (refused.status_code, versions(app)) == (422, ["team@1"])
    assert "team@1</a>" in console.read("/admin/plans")
    assert "Draft discarded." in console.run_action(f"{DRAFT}/discard")
    assert 'value="Team"' in console.read(DRAFT)
    assert audit_log(app, "plan.draft_discarded") == IN_PLATFORM_LOG


def test_second_operator_sees_that_the_draft_changed(app: Flask, console: Console, carol: User) -> None:
    second = open_console(app, carol)
    console.submit(DRAFT, base_amount="18.00")
    opened, review = second.form(DRAFT), second.form(f"{DRAFT}/publish")
    assert console.submit(DRAFT, name="Olga's").status_code == 303
    refused = second.send(DRAFT, {**opened, "name": "Carol's"})
    assert refused.status_code == 409
    assert "olga@platform.example changed this draft" in refused.text
    assert 'value="Carol&#39;s"' in refused.text  # what she typed is not lost
    assert "Olga&#39;s" in console.read(DRAFT)
    stale = second.send(f"{DRAFT}/publish", {**review, "reason": REASON})
    assert (stale.status_code, versions(app)) == (409, ["team@1"])
    assert second.send(DRAFT, form_of(refused, DRAFT)).status_code == 303
    assert "Carol&#39;s" in console.read(DRAFT)


def test_version_published_since_the_review_is_not_replaced_unseen(app: Flask, console: Console) -> None:
    console.submit(DRAFT, base_amount="18.00")
    review = console.form(f"{DRAFT}/publish")
    publish_prices("team", {"sms": PER_UNIT}, base="25.00")
    refused = console.send(f"{DRAFT}/publish", {**review, "reason": REASON})
    assert (refused.status_code, versions(app)) == (409, ["team@1", "team@2"])
    assert "against team@2" in console.read(f"{DRAFT}/publish")
    publish(console)
    assert versions(app) == ["team@1", "team@2", "team@3"]


def test_draft_that_was_published_cannot_be_published_or_saved_again(app: Flask, console: Console) -> None:
    console.submit(DRAFT, base_amount="20.00")
    opened, review = console.form(DRAFT), console.form(f"{DRAFT}/publish")
    publish(console)
    assert console.send(f"{DRAFT}/publish", {**review, "reason": REASON}).status_code == 409
    refused = console.send(DRAFT, opened)
    assert (refused.status_code, versions(app)) == (409, ["team@1", "team@2"])
    assert "published or discarded" in refused.text


def test_two_operators_publish_a_draft_once(app: Flask, console: Console, olga: User) -> None:
    console.submit(DRAFT, base_amount="20.00")
    operator = OperatorContext(Actor("operator", str(ids.parse_id("usr", olga.user_id))), REASON)
    start = threading.Barrier(2)

    def run() -> str:
        with app.app_context():
            start.wait()
            try:
                return str(plan_drafts.publish_draft("team@1", operator, revision=1, previous="team@1").version_id)
            except plan_drafts.DraftChanged as error:
                return error.code

    with ThreadPoolExecutor(2) as pool:
        results = sorted(task.result() for task in [pool.submit(run), pool.submit(run)])
    assert (results, versions(app)) == (["PLAN_DRAFT_CHANGED", "team@2"], ["team@1", "team@2"])


def test_first_draft_of_two_operators_is_kept(app: Flask, console: Console, carol: User) -> None:
    second = open_console(app, carol)
    opened = second.form(DRAFT)  # before there is a draft
    console.submit(DRAFT, name="Olga's")
    assert second.send(DRAFT, {**opened, "name": "Carol's"}).status_code == 409
    assert "Olga&#39;s" in console.read(DRAFT)


def test_tiers_packages_meters_and_values_of_a_dimension_are_edited_in_fields(app: Flask, console: Console) -> None:
    publish_meter(app)  # lookups, with the dimension model
    console.submit(DRAFT, **{"p1-model": "graduated", "p0-model": "package", "add_meter": "lookups"})
    first = {"p1-tiers-0-up_to": "1000", "p1-tiers-0-unit_price": "0.02", "p1-tiers-1-unit_price": "0.01"}
    package = {"p0-package-size": "100", "p0-package-amount": "5", "p1-included": "50", "p1-max_amount": "10"}
    split = {"p2-unit_price": "0.2", "p2-split": "model", "p2-new_value": "large"}
    console.submit(DRAFT, **first, **package, **split)
    console.submit(DRAFT, **{"p2-unit_price": "0.7", "e0-value": "600"})
    publish(console)
    assert document("team@2") == {
        **document("team@1"),
        "prices": {
            "email": {"model": "package", "package": {"size": "100", "amount": "5.00"}},
            "lookups": {
                "by": {
                    "dimension": "model",
                    "values": {"large": {"model": "per_unit", "unit_price": "0.7"}},
                    "default": {"model": "per_unit", "unit_price": "0.2"},
                }
            },
            "sms": {
                "model": "graduated",
                "included": "50",
                "tiers": [{"up_to": "1000", "unit_price": "0.02"}, {"up_to": None, "unit_price": "0.01"}],
                "max_amount": "10.00",
            },
        },
        "entitlements": {"rate_limit_per_minute": 600},
    }
    console.submit("/admin/plans/team@2/draft", **{"p1-remove": "1"})  # the only value with a price of its own
    console.run_action("/admin/plans/team@2/draft/publish")
    assert document("team@3")["prices"]["lookups"] == {"model": "per_unit", "unit_price": "0.2"}


def test_draft_is_edited_as_json(app: Flask, console: Console) -> None:
    changed = {**document("team@1"), "entitlements": {"rate_limit_per_minute": 60, "audit_export": True}}
    unstorable = ('{"plan": "team", "name": "\\ud800"}', '{"plan": "team", "x": 1e999}')
    reasons = (("{", "JSON"), ("[1]", "one JSON object"), ('{"plan": "pro"}', "must stay"))
    for text, reason in (*reasons, *((text, "cannot be stored") for text in unstorable)):
        refused = console.submit(f"{DRAFT}?as=json", DRAFT, document=text)
        assert refused.status_code == 422
        assert reason in refused.text
    saved = console.submit(f"{DRAFT}?as=json", DRAFT, document=json.dumps(changed))
    assert saved.location.endswith("?as=json")
    console.submit(DRAFT, **{"e1-value": "no"})
    publish(console)
    assert document("team@2")["entitlements"]["audit_export"] is False


def test_new_plan_begins_as_a_copy(app: Flask, console: Console) -> None:
    values = {"code": "solo", "name": "Solo", "currency": "USD", "copied_from": "team@1"}
    page = console.run_action("/admin/plans/new", **values)
    assert 'value="19.00"' in page
    for changes in ({"code": "solo"}, {"code": "team"}, {"code": "So lo"}, {"code": "x", "copied_from": "gold@9"}):
        assert console.submit_action("/admin/plans/new", **{**values, **changes}).status_code == 422
    console.run_action("/admin/plans/solo/draft/publish")
    assert document("solo@1")["base_amount"] == "19.00"


@pytest.mark.parametrize("shape", [{}, {"prices": []}, {"prices": {"sms": {"by": 1}}, "entitlements": {"a": None}}])
def test_fields_of_any_document_can_be_shown(shape: dict[str, Any]) -> None:
    plan_fields.to_document(plan_fields.to_values(shape), shape)
    plan_fields.field_errors(shape, [("prices.sms.model", "is missing"), ("", "must be an object")])


@pytest.mark.parametrize("version_id", ["free@1", "starter@1", "pro@1", "scale@1"])
def test_fields_of_published_plans_say_the_same(context: Flask, version_id: str) -> None:
    before = document(version_id)
    assert plan_fields.to_document(plan_fields.to_values(before), before) == before
