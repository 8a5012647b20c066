"""The wallet: each source is granted once, grants are used in order, and expired credit is lost."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import invariants, invoice_lifecycle, jobs, settlement, wallet
from saas_api.billing.settlement import GrantExists, GrantNotRevocable
from saas_api.billing.wallet import GrantSource, GrantView
from saas_api.core import clock, ids
from saas_api.core.errors import NotFound, ValidationFailed
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import (
    JUNE,
    MAY,
    OPERATOR,
    audit_actions,
    close_periods,
    newest_invoice,
    require_review,
    system_session,
)

pytestmark = pytest.mark.usefixtures("context")


def give(organization: BillingOrganization, amount: int, key: str, kind: str = "promotional", **options: Any) -> None:
    with system_session() as session:
        settlement.grant_credit(session, organization.id, GrantSource(key, kind), amount, OPERATOR, **options)


def entries(organization: BillingOrganization) -> list[tuple[str, int]]:
    return [
        tuple(row) for row in organization.rows("SELECT reason, delta_minor FROM credit_entries ORDER BY 1, 2 DESC")
    ]


def test_promotional_credit_is_used_before_purchased() -> None:
    organization = create_organization(plan="starter@1")
    give(organization, 2000, "bought", "purchased")
    give(organization, 500, "welcome")
    organization.use(5_305, at=day(10))
    assert close_periods(organization).due_minor == 705
    assert entries(organization) == [("apply", -500), ("apply", -2000)]
    assert audit_actions(organization).count("credit_grant.created") == 2


def test_source_is_granted_once() -> None:
    organization = create_organization()
    give(organization, 500, "welcome")
    with pytest.raises(GrantExists):
        give(organization, 500, "welcome")
    give(create_organization("Carol"), 500, "welcome")


def test_grant_without_amount_reason_or_future_end_is_rejected() -> None:
    organization = create_organization()
    with pytest.raises(ValidationFailed):
        give(organization, 0, "nothing")
    with pytest.raises(ValidationFailed):
        give(organization, 100, "gone", expires_at=clock.now())
    with pytest.raises(ValidationFailed):
        OperatorContext(OPERATOR.actor, "  ")


def test_expired_credit_pays_nothing_and_has_an_entry() -> None:
    organization = create_organization(plan="starter@1")
    give(organization, 500, "welcome", expires_at=day(20))
    give(organization, 700, "bought", "purchased", expires_at=day(1, month=7))
    assert close_periods(organization).credits_applied_minor == 700
    clock.freeze_time(MAY)
    jobs.close_periods()
    jobs.close_periods()
    assert entries(organization) == [("apply", -700), ("expire", -500)]
    assert [row.remaining_minor for row in organization.rows("SELECT remaining_minor FROM credit_grants")] == [0, 0]


def test_credit_of_a_void_invoice_pays_the_next_one() -> None:
    organization = create_organization(plan="starter@1")
    give(organization, 1000, "welcome")
    invoice = close_periods(organization)
    assert invoice.due_minor == 1900
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR)
    [grant] = organization.rows("SELECT * FROM credit_grants")
    assert grant.remaining_minor == 1000
    assert newest_invoice(organization).credits_applied_minor == 0
    assert close_periods(organization, JUNE).credits_applied_minor == 1000
    assert entries(organization) == [("apply", -1000), ("apply", -1000), ("unapply", 1000)]


def test_credit_returned_after_its_end_expires_again() -> None:
    organization = create_organization(plan="starter@1")
    give(organization, 1000, "welcome", expires_at=MAY + timedelta(days=1))
    invoice = close_periods(organization)
    clock.freeze_time(MAY + timedelta(days=2))
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR)
    assert wallet.expire_grants(clock.now()) == 1
    assert entries(organization) == [("apply", -1000), ("expire", -1000), ("unapply", 1000)]


def test_grant_command(app: Flask) -> None:
    organization = create_organization()
    ask = app.test_cli_runner().invoke
    arguments = [
        "billing",
        "grant",
        ids.format_id("org", organization.id),
        "25.00",
        "--key",
        "k",
        "--reason",
        "welcome",
    ]
    assert "25.00 USD in the wallet" in ask(args=arguments).output
    repeat = ask(args=arguments)
    assert (repeat.exit_code, "GRANT_EXISTS" in repeat.output) == (1, True)
    assert ask(args=[*arguments[:3], "2.005", *arguments[4:]]).exit_code == 1


@pytest.mark.parametrize("closed_at", [MAY, day(10, month=5)])
def test_credit_valid_to_the_end_of_a_period_pays_its_invoice_whenever_that_is_final(closed_at: Any) -> None:
    """B9: a credit that ends with April pays April, also when the platform was down until the tenth of May."""
    organization = create_organization(plan="starter@1")
    give(organization, 500, "welcome", expires_at=day(1, month=5))
    clock.freeze_time(day(1, month=5) + timedelta(minutes=5))
    jobs.close_periods()
    clock.freeze_time(closed_at)
    jobs.close_periods()
    assert newest_invoice(organization).due_minor == 2400
    jobs.close_periods()
    assert entries(organization) == [("apply", -500)]


def test_credit_that_ended_with_a_period_does_not_pay_the_next_one() -> None:
    """B9: what April leaves of it expires once April is invoiced."""
    organization = create_organization(plan="starter@1")
    give(organization, 5000, "welcome", expires_at=day(1, month=5))
    close_periods(organization)
    clock.freeze_time(MAY)
    jobs.close_periods()
    assert close_periods(organization, JUNE).credits_applied_minor == 0
    assert entries(organization) == [("apply", -2900), ("expire", -2100)]


def test_replacement_uses_credit_that_was_valid_for_the_original() -> None:
    """B9: three weeks later, `void --replace` leaves the same amount due; a draft under review keeps the credit."""
    organization = create_organization(plan="starter@1")
    give(organization, 500, "welcome", expires_at=day(1, month=5))
    invoice = close_periods(organization)
    clock.freeze_time(day(20, month=5))
    require_review(organization)
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR, is_replaced=True)
    jobs.close_periods()
    draft = newest_invoice(organization)
    with system_session() as session:
        invoice_lifecycle.finalize_invoice(session, organization.id, draft.id, OPERATOR)
    assert newest_invoice(organization).due_minor == 2400


def test_last_day_of_a_credit_ends_in_the_zone_of_the_organization(app: Flask) -> None:
    """B9: in New York a credit to the end of April ends when April ends there."""
    organization = create_organization(plan="starter@1", at=day(1, 4), zone="America/New_York")
    arguments = ["billing", "grant", ids.format_id("org", organization.id), "5.00", "--expires-on", "2026-04-30"]
    assert app.test_cli_runner().invoke(args=[*arguments, "--reason", "welcome"]).exit_code == 0
    assert close_periods(organization, day(1, 6, month=5)).due_minor == 2400


def revoke(organization: BillingOrganization, grant_id: UUID) -> GrantView:
    with system_session() as session:
        return settlement.revoke_grant(session, organization.id, grant_id, OPERATOR)


def grant_ids(organization: BillingOrganization) -> list[UUID]:
    return [row.id for row in organization.rows("SELECT id FROM credit_grants ORDER BY created_at, id")]


def test_rest_of_a_mistaken_grant_is_revoked() -> None:
    """B15: of 50.00 granted by mistake an invoice has used 32.05; 17.95 are revoked, once."""
    organization = create_organization(plan="starter@1")
    organization.use(5_305, at=day(10))
    give(organization, 5000, "mistake")
    assert close_periods(organization).due_minor == 0
    [grant_id] = grant_ids(organization)
    view = revoke(organization, grant_id)
    assert (view.grant.remaining_minor, view.entries[-1].reason, view.entries[-1].delta_minor) == (0, "void", -1795)
    assert close_periods(organization, JUNE).due_minor == 2900
    assert audit_actions(organization).count("credit_grant.revoked") == 1
    with pytest.raises(GrantNotRevocable):
        revoke(organization, grant_id)
    assert not any(result.violations for result in invariants.check_invariants(organization.id))


@pytest.mark.parametrize("kind", ["credit_note", "overpayment", "carry"])
def test_money_of_the_organization_is_not_revoked(kind: str) -> None:
    organization = create_organization()
    organization.grant(500, kind, 10)
    [grant_id] = grant_ids(organization)
    with pytest.raises(GrantNotRevocable):
        revoke(organization, grant_id)


def test_grant_of_another_organization_is_not_found() -> None:
    acme, other = create_organization(), create_organization("Other")
    acme.grant(500, "promotional", 5)
    [grant_id] = grant_ids(acme)
    with pytest.raises(NotFound):
        revoke(other, grant_id)
