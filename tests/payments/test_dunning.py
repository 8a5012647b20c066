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
from saas_api.billing import (
    credit_notes,
    invariants,
    invoice_lifecycle,
    invoices,
    period_close,
    periods,
    service_terms,
    settlement,
)
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import dunning
from saas_api.payments.dunning import DunningResult
from saas_api.webhooks.models import Endpoint
from tests.support.billing import day
from tests.support.dunning import DunnedOrganization, create_dunned_organization, mail_templates, run_dunning_on

pytestmark = pytest.mark.usefixtures("context")
ALL = ["remind", "remind", "warn", "restrict", "remind", "suspend", "write_off"]


def operator_context() -> OperatorContext:
    return OperatorContext(SYSTEM_ACTOR, "a mistake")


def event_types(organization: DunnedOrganization) -> list[str]:
    return [row.type for row in organization.rows("SELECT type FROM events ORDER BY id")]


def add_endpoint(organization: DunnedOrganization) -> None:
    with tenancy.system_session("billing.close") as session:
        session.add(
            Endpoint(
                organization_id=organization.id,
                id=ids.new_id(),
                url="https://acme.example/hook",
                created_at=clock.now(),
            )
        )


def test_steps_are_planned_when_the_invoice_opens() -> None:
    organization = create_dunned_organization()
    outcome = dunning.run_dunning(clock.now())
    assert (outcome.planned, outcome.done) == (1, [])
    assert [(step.day, step.action, step.state) for step in organization.steps()] == [
        (number, action, "scheduled") for number, action in zip((0, 3, 5, 7, 10, 14, 30), ALL, strict=True)
    ]
    assert organization.steps()[3].run_at == organization.after(7)
    assert dunning.run_dunning(clock.now()).planned == 0
    assert mail_templates(organization) == []


def test_settled_invoice_gets_no_dunning_run() -> None:
    organization = create_dunned_organization(plan="free@1")
    assert dunning.run_dunning(organization.due_at).planned == 0
    assert organization.steps() == []


def test_no_step_is_taken_before_the_due_date() -> None:
    organization = create_dunned_organization()
    dunning.run_dunning(clock.now())
    assert dunning.run_dunning(organization.after(0, hours=-1)).done == []
    assert organization.standing() == "good"


def test_unpaid_invoice_goes_through_all_steps() -> None:
    organization = create_dunned_organization()
    add_endpoint(organization)
    assert run_dunning_on(organization, 0, 3, 5) == ["remind", "remind", "warn"]
    assert organization.standing() == "good"
    assert run_dunning_on(organization, 7) == ["restrict"]
    assert organization.standing() == "restricted"
    assert run_dunning_on(organization, 10, 14) == ["remind", "suspend"]
    assert organization.standing() == "suspended"
    assert run_dunning_on(organization, 30) == ["write_off"]
    assert organization.standing() == "suspended"
    assert organization.invoices()[0].state == "uncollectible"
    assert organization.run_statuses() == ["exhausted"]
    expected = ["overdue_remind", "overdue_remind", "overdue_warn", "restricted"]
    assert mail_templates(organization) == [*expected, "overdue_remind", "suspended", "written_off"]
    kinds = ["invoice.overdue", "organization.restricted", "organization.suspended", "invoice.marked_uncollectible"]
    assert [kind for kind in event_types(organization) if kind in kinds] == kinds


def test_write_off_moves_to_the_free_plan_and_alerts_operators() -> None:
    organization = create_dunned_organization()
    with tenancy.system_session("billing.close") as session:
        olga = users.create_user(session, "olga@platform.example", "correct horse battery", "Olga")
        session.execute(sa.text("INSERT INTO operators (user_id, role) VALUES (:id, 'admin')"), {"id": olga.id})
    run_dunning_on(organization, 0, 3, 5, 7, 10, 14, 30)
    with organization.transaction() as session:
        assert service_terms.get_terms(session, organization.id).plan_version_id == "free@1"
    with tenancy.system_session("mail.deliver") as session:
        recipients = session.execute(sa.text("SELECT recipient FROM mails WHERE template = 'operator_alert'")).scalars()
        assert list(recipients) == ["olga@platform.example"]


def test_payment_ends_dunning_and_restores_the_standing() -> None:
    organization = create_dunned_organization()
    add_endpoint(organization)
    run_dunning_on(organization, 0, 3, 5, 7)
    organization.pay()
    assert organization.standing() == "good"
    assert organization.run_statuses() == ["recovered"]
    assert {step.state for step in organization.steps()[4:]} == {"skipped"}
    assert mail_templates(organization)[-1] == "reinstated"
    assert event_types(organization)[-2:] == ["organization.resumed", "invoice.paid"]
    assert run_dunning_on(organization, 10, 14, 30) == []


def test_payment_after_the_write_off_restores_the_standing() -> None:
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7, 10, 14, 30)
    organization.pay()
    assert (organization.standing(), organization.run_statuses()) == ("good", ["recovered"])
    assert organization.invoices()[0].state == "paid"


def test_partial_payment_does_not_end_dunning() -> None:
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    organization.pay(5000)
    assert (organization.standing(), organization.run_statuses()) == ("restricted", ["active"])
    assert run_dunning_on(organization, 10) == ["remind"]


def test_payment_before_the_due_date_skips_every_step() -> None:
    organization = create_dunned_organization()
    dunning.run_dunning(clock.now())
    organization.pay()
    assert organization.run_statuses() == ["recovered"]
    assert mail_templates(organization) == []


def test_payment_without_commit_does_not_end_dunning() -> None:
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    with tenancy.system_session("billing.close") as session:
        settlement.apply_payment(session, organization.id, organization.invoice_id, 9900, "payment:1")
        settlement.finish(
            session, organization.id, invoices.lock_invoice(session, organization.id, organization.invoice_id)
        )
        session.rollback()
    assert (organization.standing(), organization.run_statuses()) == ("restricted", ["active"])


@pytest.mark.parametrize("is_void", [True, False])
def test_void_invoice_or_full_credit_note_lifts_the_restriction_at_once(is_void: bool) -> None:
    """B8: whatever closes the invoice restores the standing in the same transaction."""
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    with tenancy.system_session("billing.close") as session:
        if is_void:
            invoice_lifecycle.void_invoice(session, organization.id, organization.invoice_id, operator_context())
        else:
            credit_notes.create_credit_note(
                session, organization.id, organization.invoice_id, CreditNoteInput("goodwill"), operator_context()
            )
    assert organization.standing() == "good"
    assert organization.run_statuses() == ["stopped" if is_void else "recovered"]
    assert dunning.run_dunning(clock.now()).ended == 0


def test_outage_delays_every_later_step() -> None:
    organization = create_dunned_organization()
    dunning.run_dunning(clock.now())
    assert run_dunning_on(organization, 20) == ["remind"]
    assert organization.standing() == "good"
    assert [step.run_at for step in organization.steps()[1:]] == [
        organization.after(20 + n) for n in (3, 5, 7, 10, 14, 30)
    ]
    assert run_dunning_on(organization, 22) == []
    assert run_dunning_on(organization, 23, 25, 27) == ["remind", "warn", "restrict"]


def test_delay_of_hours_moves_no_step() -> None:
    organization = create_dunned_organization()
    dunning.run_dunning(organization.after(0, hours=23))
    assert organization.steps()[1].run_at == organization.after(3)


def test_amount_below_the_minimum_waits_for_the_next_invoice() -> None:
    organization = create_dunned_organization(plan="free@1", messages=1099)
    assert run_dunning_on(organization, 0, 3, 5, 7) == []
    assert organization.standing() == "good"
    organization.use(1100, at=day(20, month=5))
    clock.freeze_time(day(1, 2, month=6))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)
    dunning.run_dunning(clock.now())
    assert organization.done_actions() == []
    newest = organization.invoices()[-1]
    clock.freeze_time(newest.due_at)
    assert [done.action for done in dunning.run_dunning(clock.now()).done] == ["remind"]
    assert newest.due_minor == 199


def test_amount_at_the_minimum_is_dunned() -> None:
    organization = create_dunned_organization(plan="free@1", messages=1100)
    assert run_dunning_on(organization, 0) == ["remind"]


def test_standing_stays_while_another_invoice_is_overdue() -> None:
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    clock.freeze_time(day(1, 2, month=6))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)
    second = DunnedOrganization(organization.id, organization.invoices()[-1].id, organization.invoices()[-1].due_at)
    run_dunning_on(second, 0, 3, 5, 7)
    organization.pay()
    assert organization.standing() == "restricted"
    second.pay(key="payment:2")
    assert organization.standing() == "good"


def test_payment_does_not_lift_a_suspension_by_an_operator() -> None:
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    with tenancy.system_session("billing.close") as session:
        session.execute(
            sa.text("UPDATE organizations SET status = 'suspended' WHERE id = :id"), {"id": organization.id}
        )
    organization.pay()
    assert organization.rows("SELECT status FROM organizations")[0].status == "suspended"


def run_concurrently(app: Flask, *functions: Callable[[], object]) -> None:
    """Run functions in threads that start together."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        with app.app_context():
            barrier.wait()
            function()

    with ThreadPoolExecutor(len(functions)) as pool:
        list(pool.map(run, functions))


def test_concurrent_runs_take_each_step_once(app: Flask) -> None:
    organizations = [create_dunned_organization(f"Acme{number}") for number in range(4)]
    results: list[DunningResult] = []
    for number in (0, 3, 5, 7, 10, 14):
        at = organizations[0].after(number)
        clock.freeze_time(at)
        run_concurrently(app, *[lambda at=at: results.append(dunning.run_dunning(at)) for _ in range(3)])
    assert [result.failed for result in results if result.failed] == []
    assert sum(result.planned for result in results) == len(organizations)
    for organization in organizations:
        assert organization.done_actions() == ALL[:6]
        assert len(mail_templates(organization)) == 6
        assert sorted(
            step.action for result in results for step in result.done if step.organization_id == organization.id
        ) == (sorted(ALL[:6]))


def test_concurrent_step_and_payment_end_in_good_standing(app: Flask) -> None:
    for number in range(3):
        organization = create_dunned_organization(f"Acme{number}")
        run_dunning_on(organization, 0, 3, 5)
        at = organization.after(7)
        clock.freeze_time(at)
        run_concurrently(app, lambda at=at: dunning.run_dunning(at), organization.pay)
        assert (organization.standing(), organization.run_statuses()) == ("good", ["recovered"])


def test_concurrent_payments_of_two_invoices_restore_the_standing(app: Flask) -> None:
    for number in range(3):
        organization = create_dunned_organization(f"Acme{number}")
        run_dunning_on(organization, 0, 3, 5, 7)
        clock.freeze_time(day(1, 2, month=6))
        periods.ensure_accounts(clock.now(), organization.id)
        period_close.close_due(clock.now(), organization.id)
        second = DunnedOrganization(organization.id, organization.invoices()[-1].id, organization.invoices()[-1].due_at)
        run_dunning_on(second, 0, 3, 5, 7)
        run_concurrently(app, organization.pay, lambda second=second: second.pay(key="payment:2"))
        assert organization.standing() == "good"


def test_tenant_role_cannot_change_steps_or_standing() -> None:
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    for statement in (
        "UPDATE subscriptions SET standing = 'good'",
        "UPDATE dunning_steps SET state = 'skipped', done_at = now()",
        "DELETE FROM dunning_runs",
    ):
        with pytest.raises(ProgrammingError), organization.transaction() as session:
            session.execute(sa.text(statement))


def test_dunning_runs_are_invisible_to_other_organizations() -> None:
    organization, other = create_dunned_organization(), create_dunned_organization("Carol")
    run_dunning_on(organization, 0)
    assert {step.organization_id for step in other.steps()} == {other.id}


def test_rest_below_the_minimum_does_not_restrict() -> None:
    """B6: 0.30 are missing after a bank fee; the restriction ends, and no further step is taken."""
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    organization.pay(9870)
    assert (organization.standing(), organization.run_statuses()) == ("good", ["active"])
    assert run_dunning_on(organization, 10, 14, 30) == []
    assert organization.standing() == "good"


def test_rest_of_a_written_off_invoice_below_the_minimum_does_not_suspend() -> None:
    """B6: the same of a written-off invoice."""
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7, 10, 14, 30)
    organization.pay(9870)
    assert organization.standing() == "good"


def test_rest_below_the_minimum_moves_to_the_next_invoice() -> None:
    """B6: the next invoice has it as a line, and the old one is settled."""
    organization = create_dunned_organization()
    run_dunning_on(organization, 0, 3, 5, 7)
    organization.pay(9870)
    organization.use(100, at=day(20, month=5))
    clock.freeze_time(day(1, 2, month=6))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)
    old, new = organization.invoices()
    assert (old.state, old.due_minor, organization.run_statuses()) == ("paid", 0, ["recovered"])
    assert (new.state, new.total_minor, new.due_minor) == ("open", 9980, 9980)
    assert organization.lines()[f"previous:{old.id}"] == 30
    violated = {result.check.name for result in invariants.check_invariants(organization.id) if result.violations}
    assert violated <= {"sums.payments"}  # the payment of this test has no row


def test_rest_is_kept_when_its_new_invoice_is_replaced() -> None:
    """B6: a replacement has the rest too, and void without one the rest is given up."""
    organization = create_dunned_organization()
    organization.pay(9870)
    clock.freeze_time(day(1, 2, month=6))
    period_close.close_due(clock.now(), organization.id)
    new = organization.invoices()[-1]
    with tenancy.system_session("billing.close") as session:
        invoice_lifecycle.void_invoice(session, organization.id, new.id, operator_context(), is_replaced=True)
    assert [invoice.due_minor for invoice in organization.invoices()] == [0, 9930, 9930]
    assert [invoice.state for invoice in organization.invoices()] == ["paid", "void", "open"]


def test_small_invoices_wait_until_they_are_large_enough_together() -> None:
    """B6: three invoices of 0.40 are asked for with the third."""
    organization = create_dunned_organization(plan="free@1", messages=1040)
    for month in (5, 6):
        organization.use(1040, at=day(20, month=month))
        clock.freeze_time(day(1, 2, month=month + 1))
        periods.ensure_accounts(clock.now(), organization.id)
        period_close.close_due(clock.now(), organization.id)
    assert [(invoice.state, invoice.due_minor) for invoice in organization.invoices()] == [
        ("paid", 0),
        ("paid", 0),
        ("open", 120),
    ]
