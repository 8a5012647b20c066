"""Changed rate in the settings: a new version, at once for new organizations, with the next period for the others."""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import Actor
from saas_api.billing import plan_migrations, plans, service_terms
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.billing import BillingOrganization, create_organization, day

pytestmark = pytest.mark.usefixtures("context")


def rate_of(organization: BillingOrganization) -> str:
    with organization.transaction() as session:
        return str(service_terms.get_terms(session, organization.id).list_prices["sms"].normalize())


def sync() -> list[str]:
    return list(plan_migrations.sync_setting_price(Actor("system", "olga")).published)


@pytest.fixture
def higher_rate(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "BILLING_RATE_PER_REQUEST", Decimal("0.02"))


def test_unchanged_rate_publishes_no_version() -> None:
    assert sync() == []


def test_changed_rate_is_published_once(higher_rate: None) -> None:
    assert sync() == ["free@2", "starter@2"]
    assert sync() == []


def test_new_rate_applies_to_new_organizations_now_and_to_others_next_period(higher_rate: None) -> None:
    old = create_organization(at=day(10, 12))
    sync()
    newcomer = create_organization("Newcomer", at=day(10, 13))
    assert (rate_of(old), rate_of(newcomer)) == ("0.01", "0.02")
    clock.freeze_time(day(2, 12, month=5))
    assert rate_of(old) == "0.02"
    [before, after] = old.rows("SELECT * FROM subscription_segments ORDER BY seq")
    assert (before.plan_version_id, after.plan_version_id) == ("free@1", "free@2")
    assert before.ends_at == after.starts_at == day(1, month=5)


@pytest.fixture
def email_follows_the_setting() -> Iterator[None]:
    """Let the catalogue name another meter for the setting."""
    mark_rate_meter("email")
    yield
    mark_rate_meter("sms")


def mark_rate_meter(code: str) -> None:
    with tenancy.system_session("billing.catalogue") as session:
        session.execute(text("UPDATE meters SET follows_rate_setting = false WHERE follows_rate_setting"))
        session.execute(text("UPDATE meters SET follows_rate_setting = true WHERE code = :code"), {"code": code})


def test_setting_prices_the_meter_that_the_catalogue_names(email_follows_the_setting: None, higher_rate: None) -> None:
    assert sync() == ["free@2", "starter@2"]
    with tenancy.system_session("billing.catalogue") as session:
        prices = plans.get_prices(session, ["free@2"])
    assert prices["free@2", "email"].unit_price == Decimal("0.02")
    assert prices["free@2", "sms"].unit_price == Decimal("0.01")


def test_published_version_cannot_be_changed(higher_rate: None) -> None:
    sync()
    with (
        pytest.raises(Exception, match="publish a new version"),
        tenancy.system_session("billing.catalogue") as session,
    ):
        session.execute(text("UPDATE prices SET unit_price = 9 WHERE plan_version_id = 'free@2'"))
