"""Plans in naira and yen, and an organization that chooses one of them through the API."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import Actor
from saas_api.billing import periods, plans
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import User
from tests.support.billing import BillingOrganization, day

OLGA = Actor("system", "olga")
LAGOS: dict[str, Any] = {
    "plan": "lagos",
    "name": "Lagos",
    "currency": "NGN",
    "base_amount": "15000.00",
    "prices": {
        "sms": {"model": "per_unit", "unit_price": "4.5"},
        "email": {"model": "per_unit", "unit_price": "0.25"},
    },
    "entitlements": {"rate_limit_per_minute": 600},
}
KYOTO: dict[str, Any] = {
    **LAGOS,
    "plan": "kyoto",
    "name": "Kyoto",
    "currency": "JPY",
    "base_amount": "3000",
    "prices": {
        "sms": {"model": "per_unit", "unit_price": "1.5"},
        "email": {"model": "per_unit", "unit_price": "0.2"},
    },
}


def publish(document: dict[str, Any]) -> plans.PublishResult:
    return plans.publish_plan(document, OLGA)


@pytest.fixture
def plans_in_other_currencies(app: Flask) -> None:
    """The plans lagos, in NGN, and kyoto, in JPY."""
    with app.app_context():
        publish(LAGOS)
        publish(KYOTO)


def start_in_april(app: Flask, user: User) -> BillingOrganization:
    """A user's organization, on free since the start of April."""
    organization = BillingOrganization(ids.parse_id("org", user.organization_id))
    with app.app_context():
        with tenancy.system_session("billing.close") as session:
            session.execute(
                text("UPDATE organizations SET created_at = :at WHERE id = :id"), {"at": day(1), "id": organization.id}
            )
        clock.freeze_time(day(1))
        with organization.transaction() as session:
            periods.ensure_account(session, organization.id)
    return organization
