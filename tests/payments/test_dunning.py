"""Dunning of an unpaid invoice: every step once at its time, and its end with a payment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import ProgrammingError

from saas_api.accounts import users
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes, invoice_lifecycle, invoices, period_close, periods, terms
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import dunning
from saas_api.payments.dunning import DunningResult
from saas_api.webhooks.models import Endpoint
from tests.support.billing import day
from tests.support.dunning import Debtor, debtor, mails, walk

pytestmark = pytest.mark.usefixtures("context")
ALL = ["remind", "remind", "warn", "restrict", "remind", "suspend", "write_off"]


def act() -> OperatorContext:
    return OperatorContext(SYSTEM_ACTOR, "a mistake")


def events(company: Debtor) -> list[str]:
    return [row.type for row in company.rows("SELECT type FROM events ORDER BY id")]


def listen(company: Debtor) -> None:
    with tenancy.system_session("billing.close") as session:
        session.add(
            Endpoint(
                organization_id=company.id, id=ids.new_id(), url="https://acme.example/hook", created_at=clock.now()
            )
        )


def test_steps_are_planned_when_the_invoice_opens() -> None:
    company = debtor()
    outcome = dunning.run_dunning(clock.now())
    assert (outcome.planned, outcome.done) == (1, [])
    assert [(step.day, step.action, step.state) for step in company.steps()] == [
        (number, action, "scheduled") for number, action in zip((0, 3, 5, 7, 10, 14, 30), ALL, strict=True)
    ]
    assert company.steps()[3].run_at == company.after(7)
    assert dunning.run_dunning(clock.now()).planned == 0
    assert mails(company) == []


def test_settled_invoice_gets_no_dunning_run() -> None:
    company = debtor(plan="free@1")
    assert dunning.run_dunning(company.due_at).planned == 0
    assert company.steps() == []


def test_no_step_is_taken_before_the_due_date() -> None:
    company = debtor()
    dunning.run_dunning(clock.now())
    assert dunning.run_dunning(company.after(0, hours=-1)).done == []
    assert company.standing() == "good"


def test_unpaid_invoice_goes_through_all_steps() -> None:
    company = debtor()
    listen(company)
    assert walk(company, 0, 3, 5) == ["remind", "remind", "warn"]
    assert company.standing() == "good"
    assert walk(company, 7) == ["restrict"]
    assert company.standing() == "restricted"
    assert walk(company, 10, 14) == ["remind", "suspend"]
    assert company.standing() == "suspended"
    assert walk(company, 30) == ["write_off"]
    assert company.standing() == "suspended"
    assert company.invoices()[0].state == "uncollectible"
    assert company.pursuits() == ["exhausted"]
    expected = ["overdue_remind", "overdue_remind", "overdue_warn", "restricted"]
    assert mails(company) == [*expected, "overdue_remind", "suspended", "written_off"]
    kinds = ["invoice.overdue", "organization.restricted", "organization.suspended", "invoice.marked_uncollectible"]
    assert [kind for kind in events(company) if kind in kinds] == kinds


def test_write_off_moves_to_the_free_plan_and_alerts_operators() -> None:
    company = debtor()
    with tenancy.system_session("billing.close") as session:
        olga = users.create(session, "olga@platform.example", "correct horse battery", "Olga")
        session.execute(sa.text("INSERT INTO operators (user_id, role) VALUES (:id, 'admin')"), {"id": olga.id})
    walk(company, 0, 3, 5, 7, 10, 14, 30)
    with company.transaction() as session:
        assert terms.get_terms(session, company.id).plan_version_id == "free@1"
    with tenancy.system_session("mail.deliver") as session:
        told = session.execute(sa.text("SELECT recipient FROM mails WHERE template = 'operator_alert'")).scalars()
        assert list(told) == ["olga@platform.example"]


def test_payment_ends_dunning_and_restores_the_standing() -> None:
    company = debtor()
    listen(company)
    walk(company, 0, 3, 5, 7)
    company.pay()
    assert company.standing() == "good"
    assert company.pursuits() == ["recovered"]
    assert {step.state for step in company.steps()[4:]} == {"skipped"}
    assert mails(company)[-1] == "reinstated"
    assert events(company)[-1] == "organization.resumed"
    assert walk(company, 10, 14, 30) == []


def test_payment_after_the_write_off_restores_the_standing() -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7, 10, 14, 30)
    company.pay()
    assert (company.standing(), company.pursuits()) == ("good", ["recovered"])
    assert company.invoices()[0].state == "paid"


def test_partial_payment_does_not_end_dunning() -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7)
    company.pay(5000)
    assert (company.standing(), company.pursuits()) == ("restricted", ["active"])
    assert walk(company, 10) == ["remind"]


def test_payment_before_the_due_date_skips_every_step() -> None:
    company = debtor()
    dunning.run_dunning(clock.now())
    company.pay()
    assert company.pursuits() == ["recovered"]
    assert mails(company) == []


def test_payment_without_commit_does_not_end_dunning() -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7)
    with tenancy.system_session("billing.close") as session:
        invoices.apply_payment(session, company.id, company.invoice_id, 9900, "payment:1")
        dunning.stop_if_settled(session, company.id, company.invoice_id)
        session.rollback()
    assert (company.standing(), company.pursuits()) == ("restricted", ["active"])


@pytest.mark.parametrize("is_void", [True, False])
def test_void_invoice_or_full_credit_note_ends_dunning_with_the_next_run(is_void: bool) -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7)
    with tenancy.system_session("billing.close") as session:
        if is_void:
            invoice_lifecycle.void_invoice(session, company.id, company.invoice_id, act())
        else:
            credit_notes.create_credit_note(session, company.id, company.invoice_id, CreditNoteInput("goodwill"), act())
    assert dunning.run_dunning(clock.now()).ended == 1
    assert company.standing() == "good"
    assert company.pursuits() == ["stopped" if is_void else "recovered"]
    assert dunning.run_dunning(clock.now()).ended == 0


def test_outage_delays_every_later_step() -> None:
    company = debtor()
    dunning.run_dunning(clock.now())
    assert walk(company, 20) == ["remind"]
    assert company.standing() == "good"
    assert [step.run_at for step in company.steps()[1:]] == [company.after(20 + n) for n in (3, 5, 7, 10, 14, 30)]
    assert walk(company, 22) == []
    assert walk(company, 23, 25, 27) == ["remind", "warn", "restrict"]


def test_delay_of_hours_moves_no_step() -> None:
    company = debtor()
    dunning.run_dunning(company.after(0, hours=23))
    assert company.steps()[1].run_at == company.after(3)


def test_amount_below_the_minimum_waits_until_more_is_overdue() -> None:
    company = debtor(plan="free@1", messages=1099)
    assert walk(company, 0, 3, 5, 7) == []
    assert company.standing() == "good"
    company.use(1100, at=day(20, month=5))
    clock.freeze_time(day(1, 2, month=6))
    periods.ensure_accounts(clock.now(), company.id)
    period_close.close_due(clock.now(), company.id)
    dunning.run_dunning(clock.now())
    assert company.done() == []
    newest = company.invoices()[-1]
    clock.freeze_time(newest.due_at)
    assert [done.action for done in dunning.run_dunning(clock.now()).done] == ["remind", "remind"]


def test_amount_at_the_minimum_is_dunned() -> None:
    company = debtor(plan="free@1", messages=1100)
    assert walk(company, 0) == ["remind"]


def test_standing_stays_while_another_invoice_is_overdue() -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7)
    clock.freeze_time(day(1, 2, month=6))
    periods.ensure_accounts(clock.now(), company.id)
    period_close.close_due(clock.now(), company.id)
    second = Debtor(company.id, company.invoices()[-1].id, company.invoices()[-1].due_at)
    walk(second, 0, 3, 5, 7)
    company.pay()
    assert company.standing() == "restricted"
    second.pay(key="payment:2")
    assert company.standing() == "good"


def test_payment_does_not_lift_a_suspension_by_an_operator() -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7)
    with tenancy.system_session("billing.close") as session:
        session.execute(sa.text("UPDATE organizations SET status = 'suspended' WHERE id = :id"), {"id": company.id})
    company.pay()
    assert company.rows("SELECT status FROM organizations")[0].status == "suspended"


def at_once(app: Flask, *work: Callable[[], object]) -> None:
    """Do several things in threads of their own that start together."""
    barrier = threading.Barrier(len(work))

    def do(one: Callable[[], object]) -> None:
        with app.app_context():
            barrier.wait()
            one()

    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(do, work))


def test_concurrent_runs_take_each_step_once(app: Flask) -> None:
    companies = [debtor(f"Acme{number}") for number in range(4)]
    outcomes: list[DunningResult] = []
    for number in (0, 3, 5, 7, 10, 14):
        at = companies[0].after(number)
        clock.freeze_time(at)
        at_once(app, *[lambda at=at: outcomes.append(dunning.run_dunning(at)) for _ in range(3)])
    assert [one.failed for one in outcomes if one.failed] == []
    assert sum(one.planned for one in outcomes) == len(companies)
    for company in companies:
        assert company.done() == ALL[:6]
        assert len(mails(company)) == 6
        assert sorted(done.action for one in outcomes for done in one.done if done.organization_id == company.id) == (
            sorted(ALL[:6])
        )


def test_concurrent_step_and_payment_end_in_good_standing(app: Flask) -> None:
    for number in range(5):
        company = debtor(f"Acme{number}")
        walk(company, 0, 3, 5)
        at = company.after(7)
        clock.freeze_time(at)
        at_once(app, lambda at=at: dunning.run_dunning(at), company.pay)
        assert (company.standing(), company.pursuits()) == ("good", ["recovered"])


def test_concurrent_payments_of_two_invoices_restore_the_standing(app: Flask) -> None:
    for number in range(5):
        company = debtor(f"Acme{number}")
        walk(company, 0, 3, 5, 7)
        clock.freeze_time(day(1, 2, month=6))
        periods.ensure_accounts(clock.now(), company.id)
        period_close.close_due(clock.now(), company.id)
        second = Debtor(company.id, company.invoices()[-1].id, company.invoices()[-1].due_at)
        walk(second, 0, 3, 5, 7)
        at_once(app, company.pay, lambda second=second: second.pay(key="payment:2"))
        assert company.standing() == "good"


def test_tenant_role_cannot_change_steps_or_standing() -> None:
    company = debtor()
    walk(company, 0, 3, 5, 7)
    for statement in (
        "UPDATE subscriptions SET standing = 'good'",
        "UPDATE dunning_steps SET state = 'skipped', done_at = now()",
        "DELETE FROM dunning_runs",
    ):
        with pytest.raises(ProgrammingError), company.transaction() as session:
            session.execute(sa.text(statement))


def test_dunning_runs_are_invisible_to_other_organizations() -> None:
    company, other = debtor(), debtor("Carol")
    walk(company, 0)
    assert {step.organization_id for step in other.steps()} == {other.id}
