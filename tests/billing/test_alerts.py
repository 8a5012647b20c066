"""Alerts: each rule fires once in a period, with a mail and an event."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import alerts, periods, plans, spend_cap
from saas_api.billing.rating import plan_file
from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.usage import meters
from tests.support.accounts import User
from tests.support.billing import BillingOrganization, create_organization, day

ALERTS = "/api/v1/billing/alerts"


@pytest.fixture
def acme(context: Flask) -> BillingOrganization:
    return create_organization("Acme", day(1))


def mails() -> list[tuple[str, str]]:
    with tenancy.system_session("mail.due") as session:
        rows = session.execute(text("SELECT recipient, subject FROM mails WHERE template = 'usage_alert' ORDER BY id"))
        return [tuple(row) for row in rows]


def fired(organization: BillingOrganization) -> list[Any]:
    return organization.rows("""SELECT r.subject, r.meter_code, r.threshold::int FROM alert_firings
      JOIN alert_rules r ON r.id = rule_id ORDER BY 1, 2, 3""")


def add_endpoint(organization: BillingOrganization) -> None:
    with organization.transaction() as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://acme.example/hook')"),
            {"id": organization.id},
        )


def test_alert_fires_once_in_each_period(acme: BillingOrganization) -> None:
    acme.use(799)
    alerts.evaluate_alerts(clock.now())
    assert fired(acme) == []
    acme.use(1)
    for _ in range(3):
        alerts.evaluate_alerts(clock.now())
    assert fired(acme) == [("percent_of_included", "sms", 80)]
    assert mails() == [("alice@acme.example", "Acme: 80% of included SMS")]
    clock.freeze_time(day(2, month=5))
    with acme.transaction() as session:
        periods.ensure_period(session, acme.id, clock.now())
    acme.use(800)
    alerts.evaluate_alerts(clock.now())
    assert len(mails()) == 2


def test_concurrent_jobs_fire_an_alert_once(acme: BillingOrganization, context: Flask) -> None:
    add_endpoint(acme)
    acme.use(1000)

    def evaluate(_: int) -> None:
        with context.app_context():
            alerts.evaluate_alerts(clock.now())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(evaluate, range(4)))
    assert fired(acme) == [("percent_of_included", "sms", 80), ("percent_of_included", "sms", 100)]
    assert len(mails()) == 1
    assert acme.rows("SELECT type FROM events") == [("usage.threshold_reached",)] * 2


def test_spend_alert_compares_base_and_usage_with_the_cap(acme: BillingOrganization) -> None:
    acme.use(1000 + 5000)
    alerts.evaluate_alerts(clock.now())
    assert ("spend_percent_of_cap", None, 50) in fired(acme)
    assert ("spend_percent_of_cap", None, 80) not in fired(acme)


def test_alert_only_cap_is_reported_once_when_it_is_reached(acme: BillingOrganization) -> None:
    add_endpoint(acme)
    with acme.transaction() as session:
        session.execute(text("UPDATE billing_profiles SET spend_cap_minor = 100, spend_cap_action = 'alert'"))
    acme.use(1100)
    for _ in range(2):
        alerts.evaluate_alerts(clock.now())
    (event,) = acme.rows("SELECT payload::json -> 'data' AS data FROM events WHERE type = 'spend_cap.reached'")
    assert event.data == {
        "object": "spend_cap", "amount": "1.00", "action": "alert", "is_default": True, "base": "0.00", "used": "1.00",
        "currency": "USD",
    }  # fmt: skip


def test_call_blocked_by_the_cap_is_reported_once(acme: BillingOrganization) -> None:
    add_endpoint(acme)
    period = acme.rows("SELECT id FROM billing_periods ORDER BY seq LIMIT 1")[0].id
    for _ in range(2):
        alerts.notify_cap_reached(acme.id, period)
    assert acme.rows("SELECT count(*) FROM events WHERE type = 'spend_cap.reached'") == [(1,)]
    assert [row for row in fired(acme) if row[0] == "spend_percent_of_cap"] == [
        ("spend_percent_of_cap", None, 50),
        ("spend_percent_of_cap", None, 80),
        ("spend_percent_of_cap", None, 100),
    ]


def test_lowered_cap_sends_one_mail(acme: BillingOrganization) -> None:
    """R8: a cap lowered to what is spent passes 50, 80 and 100 % at once."""
    acme.use(1_100)
    alerts.evaluate_alerts(clock.now())
    already_sent = mails()
    with acme.transaction() as session:
        owner = Principal("user", ids.new_id(), acme.id, role="owner", is_recently_authenticated=True)
        spend_cap.set_spend_cap(session, owner, Decimal(1), "block")
    alerts.evaluate_alerts(clock.now())
    assert [row for row in fired(acme) if row[0] == "spend_percent_of_cap"] == [
        ("spend_percent_of_cap", None, 50),
        ("spend_percent_of_cap", None, 80),
        ("spend_percent_of_cap", None, 100),
    ]
    assert mails()[len(already_sent) :] == [("alice@acme.example", "Acme: 100% of spend cap")]


def test_alerts_on_several_subjects_send_a_mail_each(acme: BillingOrganization) -> None:
    """R8: only thresholds of one subject and meter share a mail."""
    acme.use(1_000)
    acme.use(2_000, "email")
    alerts.evaluate_alerts(clock.now())
    assert sorted(subject for _, subject in mails()) == [
        "Acme: 100% of included Email",
        "Acme: 100% of included SMS",
    ]


def test_new_organization_has_the_default_alerts(client: FlaskClient, alice: User) -> None:
    rows = client.get(ALERTS, headers=alice.headers).json["data"]["alerts"]
    assert [(row["subject"], row["meter"], row["threshold"]) for row in rows] == [
        ("percent_of_included", "email", "80"),
        ("percent_of_included", "email", "100"),
        ("percent_of_included", "sms", "80"),
        ("percent_of_included", "sms", "100"),
        ("spend_percent_of_cap", None, "50"),
        ("spend_percent_of_cap", None, "80"),
        ("spend_percent_of_cap", None, "100"),
    ]


def test_first_alerts_are_on_every_meter_of_which_the_plan_includes_some(context: Flask) -> None:
    for code in ("lookups", "seats"):
        meters.publish_meter({"code": code, "name": code.title(), "unit": code[:-1]}, SYSTEM_ACTOR)
    with tenancy.system_session("billing.catalogue") as session:
        free = plan_file.to_document(plans.get_plan_content(session, "free@1"))
    lookups = {"model": "per_unit", "included": "10", "unit_price": "0.1"}
    seats = {"model": "per_unit", "unit_price": "1"}
    plans.publish_plan({**free, "prices": {**free["prices"], "lookups": lookups, "seats": seats}}, SYSTEM_ACTOR)
    rules = create_organization().rows(
        "SELECT meter_code, threshold::int FROM alert_rules WHERE meter_code IS NOT NULL"
    )
    assert sorted(map(tuple, rules)) == [(meter, part) for meter in ("email", "lookups", "sms") for part in (80, 100)]


def test_replaced_alerts_keep_the_rules_that_stay(app: Flask, client: FlaskClient, alice: User) -> None:
    unchanged_rule = {"subject": "quantity", "meter": "sms", "threshold": "10"}
    first = client.put(ALERTS, json={"alerts": [unchanged_rule]}, headers=alice.headers).json["data"]["alerts"]
    added_rule = {"subject": "spend", "threshold": "5.00", "enabled": False}
    second = client.put(ALERTS, json={"alerts": [added_rule, unchanged_rule]}, headers=alice.headers).json["data"][
        "alerts"
    ]
    assert [row["id"] for row in second if row["subject"] == "quantity"] == [first[0]["id"]]
    assert [(row["subject"], row["enabled"]) for row in second] == [("quantity", True), ("spend", False)]


@pytest.mark.parametrize(
    "alerts",
    [
        [{"subject": "quantity", "threshold": "1"}],
        [{"subject": "spend", "meter": "sms", "threshold": "1"}],
        [{"subject": "quantity", "meter": "fax", "threshold": "1"}],
        [{"subject": "spend", "threshold": "0"}],
        [{"subject": "spend", "threshold": 5}],
        [{"subject": "spend", "threshold": "1"}] * 2,
        [{"subject": "weather", "threshold": "1"}],
        [{"subject": "spend", "threshold": str(n + 1)} for n in range(51)],
    ],
)
def test_invalid_alerts_are_rejected(client: FlaskClient, alice: User, alerts: Any) -> None:
    response = client.put(ALERTS, json={"alerts": alerts}, headers=alice.headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
