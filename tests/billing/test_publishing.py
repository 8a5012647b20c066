"""Another rate in the settings: a new version for newcomers at once, for everybody else from their next period."""

from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.billing import plans, terms
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.billing import BillingOrganization, create_organization, day

pytestmark = pytest.mark.usefixtures("context")


def rate_of(company: BillingOrganization) -> str:
    with company.transaction() as session:
        return str(terms.get_terms(session, company.id).list_prices["sms"].normalize())


@pytest.fixture
def dearer(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "BILLING_RATE_PER_REQUEST", Decimal("0.02"))


def test_nothing_is_published_while_the_rate_is_the_same() -> None:
    assert plans.sync_setting_price() == []


def test_a_changed_rate_is_published_once(dearer: None) -> None:
    assert plans.sync_setting_price() == ["free@2", "starter@2"]
    assert plans.sync_setting_price() == []


def test_a_newcomer_pays_the_new_rate_and_the_others_from_their_next_period(dearer: None) -> None:
    old = create_organization(at=day(10, 12))
    plans.sync_setting_price()
    newcomer = create_organization("Newcomer", at=day(10, 13))
    assert (rate_of(old), rate_of(newcomer)) == ("0.01", "0.02")
    clock.freeze_time(day(2, 12, month=5))
    assert rate_of(old) == "0.02"
    [before, after] = old.rows("SELECT * FROM subscription_segments ORDER BY seq")
    assert (before.plan_version_id, after.plan_version_id) == ("free@1", "free@2")
    assert before.ends_at == after.starts_at == day(1, month=5)


def test_a_published_version_cannot_be_changed(dearer: None) -> None:
    plans.sync_setting_price()
    with (
        pytest.raises(Exception, match="publish a new version"),
        tenancy.system_session("billing.catalogue") as session,
    ):
        session.execute(text("UPDATE prices SET unit_price = 9 WHERE plan_version_id = 'free@2'"))
