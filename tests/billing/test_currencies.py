"""The currency of an organization: how it is chosen, what it changes, and when it is fixed."""

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.billing import invoice_documents, period_close, periods, plans, settlement, subscriptions
from saas_api.billing.currencies import CurrencyFixed
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.document_reader import InvalidDocument
from tests.support.accounts import User, make_key
from tests.support.billing import BillingOrganization, day
from tests.support.currencies import KYOTO, LAGOS, OLGA, plans_in_other_currencies, publish, start_in_april  # noqa: F401 - a fixture
from tests.support.pages import Browser

pytestmark = pytest.mark.usefixtures("plans_in_other_currencies")
BILLING, SEND = "/api/v1/billing", "/api/v1/messages/send"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
MID_APRIL, MAY, JUNE = day(16), day(1, 2, month=5), day(1, 2, month=6)


@pytest.fixture
def acme(app: Flask, alice: User) -> BillingOrganization:
    return start_in_april(app, alice)


def post(client: FlaskClient, user: User, path: str, **body: Any) -> Any:
    return client.post(f"{BILLING}/{path}", json=body, headers=user.headers)


def upgrade(client: FlaskClient, user: User, plan: str, **body: Any) -> Any:
    response = post(client, user, "upgrade", plan=plan, **body)
    assert response.status_code == 200, response.json
    return response.json["data"]["change"]


def read(client: FlaskClient, user: User, path: str) -> Any:
    response = client.get(f"{BILLING}/{path}", headers=user.headers)
    assert response.status_code == 200, response.json
    return response.json["data"]


def error(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def close(app: Flask, at: Any) -> None:
    clock.freeze_time(at)
    with app.app_context():
        periods.ensure_accounts(at)
        assert not period_close.close_due(at).failed


def segments(app: Flask, organization: BillingOrganization) -> list[tuple[str, Any, Any]]:
    with app.app_context():
        rows = organization.rows("SELECT plan_version_id, starts_at, ends_at FROM subscription_segments ORDER BY seq")
        return [tuple(row) for row in rows]


def free_in(currency: str) -> str:
    with tenancy.system_session("billing.catalogue") as session:
        return plans.get_newest_version_id(session, "free", currency)


def test_first_plan_in_a_currency_brings_free_in_it(app: Flask, context: Flask) -> None:
    """B13: free exists in every currency that a plan has."""
    with tenancy.system_session("billing.catalogue") as session:
        free = plans.get_plan_content(session, free_in("NGN"))
        assert (free.currency, free.base_amount_minor, free.name, free.position) == ("NGN", 0, "Free", 1)
        assert {meter: (price.included_quantity, price.unit_price) for meter, price in free.prices.items()} == {
            "sms": (Decimal(1000), Decimal("4.5")),
            "email": (Decimal(1000), Decimal("0.25")),
        }
        assert plans.get_newest_version_id(session, "free") == "free@1"
    assert (free_in("NGN"), free_in("JPY")) == ("free@2", "free@3")
    again = publish({**LAGOS, "base_amount": "16000.00"})
    assert (again.version_id, again.default_version_id) == ("lagos@2", None)


def test_free_is_published_in_a_currency_like_every_version(app: Flask, context: Flask) -> None:
    """B13: the operator sets the prices of free in each currency."""
    free = {**LAGOS, "plan": "free", "name": "Free", "base_amount": "0.00"}
    result = publish(free)
    assert (result.version_id, result.previous) == ("free@4", "free@2")
    assert (free_in("NGN"), free_in("USD")) == ("free@4", "free@1")
    other = json.loads(app.test_cli_runner().invoke(args=["plans", "list", "--json"]).stdout)["plans"]
    newest = {row["version"] for row in other if row["is_newest"]}
    assert {"free@4", "free@3", "free@1"} <= newest
    assert "free@2" not in newest


def test_sync_publishes_free_for_a_currency_of_an_older_catalogue(app: Flask, superuser: Any) -> None:
    """B13: plans that were published in a currency before free followed them can be chosen."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table in ("prices", "entitlements"):
            cursor.execute(f"DELETE FROM {table} WHERE plan_version_id IN ('free@2', 'free@3')")
        cursor.execute("DELETE FROM plan_versions WHERE id IN ('free@2', 'free@3')")
    result = app.test_cli_runner().invoke(args=["billing", "sync"])
    assert result.stdout.splitlines()[-2:] == ["free@2 published", "free@3 published"]
    assert app.test_cli_runner().invoke(args=["billing", "sync"]).output == "The catalogue is current.\n"


def test_public_plans_are_listed_by_currency(client: FlaskClient) -> None:
    """B13: a visitor sees the plans of a currency, free among them."""
    offers = client.get(f"{BILLING}/plans?currency=NGN").json["data"]["plans"]
    assert [(plan["code"], plan["currency"]) for plan in offers] == [("free", "NGN"), ("lagos", "NGN")]
    offers = client.get(f"{BILLING}/plans").json["data"]["plans"]
    assert [(plan["code"], plan["currency"]) for plan in offers][:1] == [("free", "USD")]
    assert {plan["code"] for plan in offers} == {"free", "starter", "pro", "scale", "lagos", "kyoto"}
    assert error(client.get(f"{BILLING}/plans?currency=XXX")) == (422, "VALIDATION_ERROR")  # ISO 4217: no currency


def test_first_paid_plan_chooses_the_currency_of_the_whole_period(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: usage on free before the change is priced in the currency of the plan."""
    with app.app_context():
        acme.use(1_010, at=day(2))
    clock.freeze_time(MID_APRIL)
    change = upgrade(client, alice, "lagos")
    assert (change["currency"], change["previous_currency"], change["total"]) == ("NGN", "USD", "7500.00")
    assert [line["amount"] for line in change["lines"]] == ["7500.00"]
    assert segments(app, acme) == [("free@2", day(1), MID_APRIL), ("lagos@1", MID_APRIL, None)]
    with app.app_context():
        acme.use(10)
        assert acme.rows("SELECT currency, spend_cap_minor FROM billing_profiles") == [("NGN", None)]
        [event] = acme.rows("SELECT data FROM audit_events WHERE action = 'subscription.changed'")
    assert (event.data["currency_before"], event.data["currency_after"]) == ("USD", "NGN")
    assert read(client, alice, "calculate")["currency"] == "NGN"
    close(app, MAY)
    [invoice] = read(client, alice, "history")["invoices"]
    assert (invoice["total_amount"], invoice["currency"]) == ("7590.00", "NGN")  # 7500 + 10 x 4.5 + 10 x 4.5


def test_plan_at_the_end_of_the_period_changes_the_currency_at_once(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: no invoice in the old currency comes between."""
    clock.freeze_time(MID_APRIL)
    assert upgrade(client, alice, "lagos", when="period_end")["is_scheduled"]
    assert segments(app, acme) == [("free@2", day(1), day(1, month=5)), ("lagos@1", day(1, month=5), None)]
    assert upgrade(client, alice, "free")["previous_currency"] == "NGN"
    assert segments(app, acme) == [("free@2", day(1), None)]


def test_currency_can_change_after_free_months_and_is_fixed_by_an_invoice(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: an invoice of 0.00 fixes nothing, the first one above zero does."""
    close(app, MAY)
    upgrade(client, alice, "lagos", when="now")
    assert segments(app, acme)[0] == ("free@1", day(1), day(1, month=5))
    close(app, JUNE)
    for path in ("upgrade", "preview-change"):
        assert error(post(client, alice, path, plan="pro")) == (409, "CURRENCY_FIXED")
    summary = read(client, alice, "history")["summary"]
    assert (summary["total_billed"], summary["currency"]) == ("14959.68", "NGN")
    with app.app_context(), pytest.raises(DatabaseError, match="fix the currency"), acme.transaction() as session:
        session.execute(text("UPDATE billing_profiles SET currency = 'USD'"))
    upgrade(client, alice, "free")
    assert [row[0] for row in segments(app, acme)][-1] == "free@2"


def test_currency_waits_for_the_invoice_of_the_last_period(
    client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: usage that the last period still takes is in its currency."""
    clock.freeze_time(day(1, month=5))
    response = post(client, alice, "upgrade", plan="lagos")
    assert error(response) == (409, "CURRENCY_FIXED")
    assert "not invoiced yet" in response.json["error"]["message"]


def test_late_usage_of_a_period_in_another_currency_costs_nothing(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: a bill has one currency."""
    with app.app_context():
        acme.use(1_000, at=day(2))
    close(app, MAY)
    upgrade(client, alice, "lagos", when="now")
    with app.app_context():
        acme.use(5, at=day(20), is_late=True)
    assert [line["kind"] for line in read(client, alice, "calculate")["lines"]] == ["base"]
    usage = client.get("/api/v1/usage?start_date=2026-04-01&end_date=2026-05-01", headers=alice.headers).json["data"]
    assert (usage["summary"]["total_cost"], usage["summary"]["currency"]) == ("0.00", "NGN")
    close(app, JUNE)
    with app.app_context():
        assert list(acme.lines()) == ["base:lagos@1"]


def test_member_on_a_paid_plan_needs_the_operator_to_change_its_currency(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: before the first invoice the operator changes a currency that was chosen by mistake."""
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    assert error(post(client, alice, "upgrade", plan="lagos")) == (409, "CURRENCY_FIXED")
    arguments = ["billing", "currency", alice.organization_id, "NGN", "--reason", "ticket 4711: pays in naira"]
    result = app.test_cli_runner().invoke(args=arguments)
    assert (result.exit_code, result.output) == (0, "The currency is NGN, and the plan free@2.\n"), result.output
    assert segments(app, acme) == [("free@2", day(1), None)]
    again = app.test_cli_runner().invoke(args=arguments)
    assert again.exit_code == 1
    assert "The currency is NGN already." in again.output
    without_plans = app.test_cli_runner().invoke(args=[*arguments[:3], "ZAR", *arguments[4:]])
    assert "No plan is published in ZAR." in without_plans.output


def test_wallet_money_fixes_the_currency(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: money of the organization would be out of reach of its invoices."""
    operator = OperatorContext(OLGA, "ticket 4711")
    for number, kind in enumerate((GrantKind.PROMOTIONAL, GrantKind.PURCHASED)):
        with app.app_context(), tenancy.system_session("admin.act") as session:
            settlement.grant_credit(session, acme.id, GrantSource(f"operator:{number}", kind), 500, operator)
        expected = 200 if kind == GrantKind.PROMOTIONAL else 409
        assert post(client, alice, "preview-change", plan="lagos").status_code == expected


def test_own_cap_and_spend_alerts_do_not_become_another_currency(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B13: 120.00 of one currency is not 120.00 of another."""
    monkeypatch.setitem(app.config, "DEFAULT_SPEND_CAP", {"USD": 10_000, "NGN": 15_000_000})
    client.put(f"{BILLING}/spend-cap", json={"amount": "120.00"}, headers=alice.headers)
    rules = [{"subject": "spend", "threshold": "50"}, {"subject": "spend_percent_of_cap", "threshold": "80"}]
    assert client.put(f"{BILLING}/alerts", json={"alerts": rules}, headers=alice.headers).status_code == 200
    assert upgrade(client, alice, "lagos")["spend_cap_conflict"] is None
    data = read(client, alice, "alerts")
    cap = data["spend_cap"]
    assert (cap["amount"], cap["currency"], cap["is_default"]) == ("165000.00", "NGN", True)
    assert [rule["subject"] for rule in data["alerts"]] == ["spend_percent_of_cap"]


def test_cap_in_yen_has_no_decimals_and_blocks_exactly(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: zero-decimal currencies, with spend that is counted in fractions."""
    upgrade(client, alice, "kyoto")
    refused = client.put(f"{BILLING}/spend-cap", json={"amount": "4000.5"}, headers=alice.headers)
    assert error(refused) == (422, "VALIDATION_ERROR")
    stored = client.put(f"{BILLING}/spend-cap", json={"amount": "3004"}, headers=alice.headers).json["data"]
    assert (stored["amount"], stored["base"], stored["used"]) == ("3004", "3000", "3000")
    key = make_key(client, alice)
    sent = [client.post(SEND, json=SMS, headers=key) for _ in range(3)]
    assert [response.status_code for response in sent] == [202, 202, 402]
    assert (sent[0].json["data"]["cost"], sent[0].json["data"]["currency"]) == ("1.5", "JPY")
    assert sent[2].json["error"]["details"] == {"cap": "3004", "spent": "3003", "currency": "JPY"}


def test_invoice_in_yen_has_no_decimals(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: lines are rounded to whole yen, a half up."""
    upgrade(client, alice, "kyoto")
    with app.app_context():
        acme.use(1_001)
    close(app, MAY)
    [invoice] = read(client, alice, "history")["invoices"]
    assert (invoice["total_amount"], invoice["currency"]) == ("4502", "JPY")  # 3000 + 1501.5
    detail = read(client, alice, f"invoices/{invoice['id']}")
    usage = next(line for line in detail["lines"] if line["kind"] == "usage")
    explained = read(client, alice, f"invoices/{invoice['id']}/lines/{usage['id']}/explain")
    assert (explained["rated"]["exact_amount"], explained["rated"]["amount"]) == ("1501.5", "1502")
    with app.app_context(), acme.transaction() as session:
        document = invoice_documents.get_document(session, acme.id, ids.parse_id("inv", invoice["id"]))
    assert [line.amount for line in document.lines] == ["\N{YEN SIGN}3,000", "\N{YEN SIGN}1,502"]
    page = Browser(app, alice).open("/dashboard/billing").text
    assert "\N{YEN SIGN}4,502" in page
    assert "USD" not in page


def test_pages_preview_and_apply_a_change_of_currency(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: the dashboard says that the currency changes, and offers afterwards what can be chosen."""
    browser = Browser(app, alice)
    preview = browser.open("/dashboard/billing/plans/lagos").text
    assert "Your currency changes from USD to NGN" in preview
    assert "You then have no spend cap until you set one." in preview
    assert browser.submit("/dashboard/billing/plans/lagos").status_code == 303
    page = browser.open("/dashboard/billing/plans").text
    assert "Kyoto" not in page
    assert "NGN\N{NO-BREAK SPACE}15,000.00" in page


def test_simulation_uses_free_in_the_currency_of_the_organization(
    client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B13: every plan is simulated in its currency."""
    upgrade(client, alice, "lagos")
    simulated = post(client, alice, "simulate", plans=["free", "lagos"], quantities={"sms": "1010"}).json["data"]
    assert [(plan["version"], plan["total_amount"], plan["currency"]) for plan in simulated["plans"]] == [
        ("free@2", "45.00", "NGN"),
        ("lagos@1", "19545.00", "NGN"),
    ]


def test_change_of_currency_waits_for_money_that_is_being_granted(
    app: Flask, acme: BillingOrganization, alice: User
) -> None:
    """B13: no grant stays behind in the old currency."""

    def change() -> None:
        with app.app_context(), acme.transaction() as session:
            subscriptions.change_plan(session, acme.id, "lagos", "now", Actor("user", alice.user_id))

    operator, source = OperatorContext(OLGA, "ticket 4711"), GrantSource("operator:1", GrantKind.PURCHASED)
    with ThreadPoolExecutor(1) as pool, app.app_context():
        with tenancy.system_session("admin.act") as session:
            settlement.grant_credit(session, acme.id, source, 500, operator)
            changing = pool.submit(change)
            with pytest.raises(TimeoutError):
                changing.result(timeout=0.5)
        with pytest.raises(CurrencyFixed, match="holds money in USD"):
            changing.result(timeout=10)


def test_plan_in_another_currency_needs_a_plan_of_its_own(context: Flask) -> None:
    """B13: only free has several currencies."""
    with pytest.raises(InvalidDocument) as caught:
        publish({**KYOTO, "currency": "NGN"})
    assert caught.value.problems[0][0] == "currency"
