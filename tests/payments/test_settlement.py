"""Settlement: the provider's result is compared with the request and applied once, in any order of events."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes, invoice_lifecycle
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.payments import checkout, jobs
from saas_api.payments.checkout import PaymentRequest
from saas_api.payments.models import Payment
from saas_api.providers import mock_payments
from tests.support import paystack_server
from tests.support.payments import (
    MOCK,
    PAYSTACK,
    PayingOrganization,
    create_paying_organization,
    inbox_events,
    mail_templates,
    make_events_due,
    payment_amounts,
    stripe_event,
)
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer


def test_success_at_stripe_pays_the_invoice(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    stripe_event(acme, reference)
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    assert (acme.invoice().state, acme.invoice().due_minor) == ("paid", 0)
    assert acme.mails() == ["payment_received"]
    assert acme.rows("SELECT action FROM audit_events WHERE action = 'payment.succeeded'")


def test_status_at_paystack_decides_instead_of_the_event(acme: PayingOrganization, paystack: PaystackServer) -> None:
    reference = acme.begin("paystack")
    body = paystack_server.event("charge.success", reference)
    assert acme.post(PAYSTACK, body, paystack_server.sign(body)) == 200
    jobs.process_inbox()
    assert payment_amounts(acme)[0] == "pending"  # the payer left the page without paying, so the event is wrong
    paystack.finish(reference)
    make_events_due()
    jobs.process_inbox()
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)


def test_event_without_a_paid_checkout_settles_nothing(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe_event(acme, reference)
    assert payment_amounts(acme)[0] == "pending"
    assert (inbox_events()[0].status, inbox_events()[0].error_code) == ("queued", "not_decided")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"amount": 9901}, "more_than_asked"),
        ({"currency": "eur"}, "other_currency"),
        ({"amount": 0}, "no_amount"),
    ],
)
def test_success_with_another_amount_or_currency_is_quarantined(
    acme: PayingOrganization, olga: None, stripe: StripeServer, changes: dict[str, Any], problem: str
) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference, **changes)
    stripe_event(acme, reference)
    assert payment_amounts(acme) == ("quarantined", 0, 0, 0)
    assert acme.payment().failure_code == problem
    assert (acme.invoice().state, acme.invoice().paid_minor, acme.wallet()) == ("open", 0, 0)
    assert [event.status for event in inbox_events()] == ["quarantined"]
    assert mail_templates("operator_alert") == ["operator_alert"]
    stripe_event(acme, reference, event_id="evt_2")
    assert mail_templates("operator_alert") == ["operator_alert"]


def test_lower_captured_amount_pays_a_part(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference, amount=4000)
    stripe_event(acme, reference)
    assert payment_amounts(acme) == ("succeeded", 4000, 4000, 0)
    assert (acme.invoice().state, acme.invoice().due_minor) == ("open", 5900)
    assert acme.initiate("stripe").json["data"]["amount"] == "59.00"


def test_unknown_reference_is_quarantined_and_operators_are_alerted(
    acme: PayingOrganization, olga: None, stripe: StripeServer
) -> None:
    stripe_event(acme, "cs_of_somebody_else")
    assert [(event.status, event.error_code) for event in inbox_events()] == [("quarantined", "unknown_reference")]
    assert mail_templates("operator_alert") == ["operator_alert"]
    assert acme.invoice().state == "open"


def test_reference_unknown_to_the_provider_is_quarantined(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.sessions.clear()
    stripe_event(acme, reference)
    assert (acme.payment().state, acme.payment().failure_code) == ("quarantined", "unknown_reference")


def test_declined_payment_fails_and_another_can_start(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.decline(reference)
    stripe_event(acme, reference, "async_payment_failed")
    assert (acme.payment().state, acme.payment().failure_code) == ("failed", "card_declined")
    assert acme.mails() == ["payment_failed"]
    assert acme.initiate("stripe").status_code == 200


def test_events_in_any_order_end_in_the_status_of_the_provider(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.expire(reference)
    stripe_event(acme, reference, "expired", "evt_2")
    assert (acme.payment().state, acme.payment().failure_code) == ("canceled", "expired")
    stripe.pay(reference)
    stripe_event(acme, reference, "completed", "evt_1")
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    stripe_event(acme, reference, "expired", "evt_3")
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    assert acme.invoice().state == "paid"


def test_late_success_of_a_canceled_payment_goes_to_the_wallet(acme: PayingOrganization, stripe: StripeServer) -> None:
    first = acme.begin("stripe")
    stripe.expire(first)
    stripe_event(acme, first, "expired", "evt_1")
    second = acme.begin("stripe")
    stripe.pay(second)
    stripe_event(acme, second, event_id="evt_2")
    stripe.pay(first)
    stripe_event(acme, first, event_id="evt_3")
    assert acme.wallet() == 9900
    assert (acme.invoice().paid_minor, acme.invoice().due_minor) == (9900, 0)
    assert {row.state for row in acme.rows("SELECT state FROM payments")} == {"succeeded"}


def test_payment_of_a_void_invoice_goes_to_the_wallet(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    with tenancy.system_session("admin.act") as session:
        invoice_lifecycle.void_invoice(session, acme.id, acme.invoice_id, OperatorContext(SYSTEM_ACTOR, "a mistake"))
    stripe.pay(reference)
    stripe_event(acme, reference)
    assert payment_amounts(acme) == ("succeeded", 9900, 0, 9900)
    assert (acme.invoice().state, acme.wallet()) == ("void", 9900)


def test_amount_above_the_amount_due_goes_to_the_wallet(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    with tenancy.system_session("admin.act") as session:
        credit = CreditNoteInput("goodwill", amount_minor=1000)
        credit_notes.create_credit_note(
            session, acme.id, acme.invoice_id, credit, OperatorContext(SYSTEM_ACTOR, "sorry")
        )
    stripe.pay(reference)
    stripe_event(acme, reference)
    assert payment_amounts(acme) == ("succeeded", 9900, 8900, 1000)
    assert (acme.invoice().state, acme.wallet()) == ("paid", 1000)


def test_event_changes_only_its_own_payment(
    acme: PayingOrganization, client: FlaskClient, stripe: StripeServer
) -> None:
    other = create_paying_organization(client, "Others")
    reference = acme.begin("stripe")
    other.begin("stripe")
    stripe.pay(reference)
    stripe_event(acme, reference)
    assert (acme.invoice().state, other.invoice().state) == ("paid", "open")


def test_tenant_role_cannot_change_the_money_of_a_payment(acme: PayingOrganization) -> None:
    acme.begin()
    with pytest.raises(sa.exc.ProgrammingError), acme.transaction() as session:
        session.execute(sa.update(Payment).values(captured_minor=9900, allocated_minor=9900, state="succeeded"))
    with pytest.raises(sa.exc.ProgrammingError), acme.transaction() as session:
        session.execute(sa.text("SELECT * FROM provider_events"))


def test_payment_ends_dunning_and_the_restriction(acme: PayingOrganization) -> None:
    clock.freeze_time(acme.invoice().due_at + timedelta(days=40))
    jobs.run_dunning()
    for days in range(41, 90):
        clock.freeze_time(acme.invoice().due_at + timedelta(days=days))
        jobs.run_dunning()
        if acme.rows("SELECT standing FROM subscriptions")[0].standing == "restricted":
            break
    assert acme.rows("SELECT standing FROM subscriptions")[0].standing == "restricted"
    request = PaymentRequest(acme.invoice_id)
    payment = checkout.initiate_payment(acme.id, request, SYSTEM_ACTOR)
    event = mock_payments.submit_action(str(payment.provider_reference), "pay")
    assert event is not None
    assert acme.post(MOCK, event.body, event.signature) == 200
    jobs.process_inbox()
    assert acme.rows("SELECT standing FROM subscriptions")[0].standing == "good"
