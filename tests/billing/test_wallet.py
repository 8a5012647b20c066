"""The wallet: every source pays once, grants are used in order, and what expires is gone."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import invoice_lifecycle, jobs, wallet
from saas_api.billing.wallet import GrantExists, GrantSource
from saas_api.core import clock, ids
from saas_api.core.errors import ValidationFailed
from tests.support.billing import Company, day, found
from tests.support.billing_actions import ACT, JUNE, MAY, acts, close, newest, system

pytestmark = pytest.mark.usefixtures("context")


def give(company: Company, amount: int, key: str, kind: str = "promotional", **options: Any) -> None:
    with system() as session:
        wallet.grant_credit(session, company.id, GrantSource(key, kind), amount, ACT, **options)


def entries(company: Company) -> list[tuple[str, int]]:
    return [tuple(row) for row in company.rows("SELECT reason, delta_minor FROM credit_entries ORDER BY 1, 2 DESC")]


def test_promotional_credit_is_used_before_purchased() -> None:
    company = found(plan="starter@1")
    give(company, 2000, "bought", "purchased")
    give(company, 500, "welcome")
    company.use(305, at=day(10))
    assert close(company).due_minor == 705
    assert entries(company) == [("apply", -500), ("apply", -2000)]
    assert acts(company).count("credit_grant.created") == 2


def test_source_is_granted_once() -> None:
    company = found()
    give(company, 500, "welcome")
    with pytest.raises(GrantExists):
        give(company, 500, "welcome")
    give(found("Carol"), 500, "welcome")


def test_grant_without_amount_reason_or_future_end_is_rejected() -> None:
    company = found()
    with pytest.raises(ValidationFailed):
        give(company, 0, "nothing")
    with pytest.raises(ValidationFailed):
        give(company, 100, "gone", expires_at=clock.now())
    with pytest.raises(ValidationFailed):
        OperatorContext(ACT.actor, "  ")


def test_expired_credit_pays_nothing_and_has_an_entry() -> None:
    company = found(plan="starter@1")
    give(company, 500, "welcome", expires_at=day(20))
    give(company, 700, "bought", "purchased", expires_at=day(1, month=7))
    assert close(company).credits_applied_minor == 700
    clock.freeze_time(MAY)
    jobs.close_periods()
    jobs.close_periods()
    assert entries(company) == [("apply", -700), ("expire", -500)]
    assert [row.remaining_minor for row in company.rows("SELECT remaining_minor FROM credit_grants")] == [0, 0]


def test_credit_of_a_void_invoice_pays_the_next_one() -> None:
    company = found(plan="starter@1")
    give(company, 1000, "welcome")
    invoice = close(company)
    assert invoice.due_minor == 1900
    with system() as session:
        invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT)
    [grant] = company.rows("SELECT * FROM credit_grants")
    assert grant.remaining_minor == 1000
    assert newest(company).credits_applied_minor == 0
    assert close(company, JUNE).credits_applied_minor == 1000
    assert entries(company) == [("apply", -1000), ("apply", -1000), ("unapply", 1000)]


def test_credit_returned_after_its_end_expires_again() -> None:
    company = found(plan="starter@1")
    give(company, 1000, "welcome", expires_at=MAY + timedelta(days=1))
    invoice = close(company)
    clock.freeze_time(MAY + timedelta(days=2))
    with system() as session:
        invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT)
    assert wallet.expire_grants(clock.now()) == 1
    assert entries(company) == [("apply", -1000), ("expire", -1000), ("unapply", 1000)]


def test_grant_command(app: Flask) -> None:
    company = found()
    ask = app.test_cli_runner().invoke
    words = ["billing", "grant", ids.format_id("org", company.id), "25.00", "--key", "k", "--reason", "welcome"]
    assert "25.00 USD in the wallet" in ask(args=words).output
    repeat = ask(args=words)
    assert (repeat.exit_code, "GRANT_EXISTS" in repeat.output) == (1, True)
    assert ask(args=[*words[:3], "2.005", *words[4:]]).exit_code == 1
