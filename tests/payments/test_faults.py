"""Faults during a settlement, and their recovery by the inbox, the scheduled job or reconciliation."""

import threading
from datetime import timedelta

import pytest
from flask import Flask

from saas_api.core import clock
from saas_api.core.jobs import queue
from saas_api.core.jobs.outbox import RowResult
from saas_api.payments import jobs, payments, provider_events
from tests.support import stripe_server
from tests.support.faults import InjectFault
from tests.support.payments import (
    STRIPE,
    PayingOrganization,
    inbox_events,
    mail_templates,
    make_events_due,
    payment_amounts,
    stripe_event,
)
from tests.support.stripe_server import StripeServer


def test_unavailable_provider_leaves_the_event_for_a_retry(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    stripe.failing_with = 500
    stripe_event(acme, reference)
    assert [(event.status, event.attempts) for event in inbox_events()] == [("queued", 1)]
    assert payment_amounts(acme)[0] == "pending"
    stripe.failing_with = None
    make_events_due()
    jobs.process_inbox()
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    assert inbox_events()[0].status == "processed"


def test_event_without_an_answer_is_quarantined_after_eight_attempts(
    acme: PayingOrganization, olga: None, stripe: StripeServer
) -> None:
    reference = acme.begin("stripe")
    stripe.failing_with = 500
    stripe_event(acme, reference)
    for _ in range(7):
        make_events_due()
        jobs.process_inbox()
    assert [(event.status, event.attempts) for event in inbox_events()] == [("quarantined", 8)]
    assert mail_templates("operator_alert") == ["operator_alert"]
    assert payment_amounts(acme)[0] == "pending"  # reconciliation continues


def test_event_without_wake_up_is_settled_by_the_scheduled_job(
    app: Flask, acme: PayingOrganization, stripe: StripeServer
) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    body = stripe_server.event("checkout.session.completed", reference)
    assert acme.post(STRIPE, body, stripe_server.sign(body)) == 200
    queue.worker_redis().flushdb()  # the wake-up is lost
    assert payment_amounts(acme)[0] == "pending"
    jobs.process_inbox()
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)


def test_killed_claim_is_processed_again_after_its_lease(acme: PayingOrganization, stripe: StripeServer) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    body = stripe_server.event("checkout.session.completed", reference)
    acme.post(STRIPE, body, stripe_server.sign(body))
    provider_events.claim_batch("stripe")
    jobs.process_inbox()
    assert payment_amounts(acme)[0] == "pending"
    make_events_due()
    jobs.process_inbox()
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    assert [(event.status, event.attempts, event.interruptions) for event in inbox_events()] == [("processed", 1, 1)]


def test_event_that_ten_workers_died_of_is_quarantined(
    acme: PayingOrganization, olga: None, stripe: StripeServer
) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    body = stripe_server.event("checkout.session.completed", reference)
    acme.post(STRIPE, body, stripe_server.sign(body))
    for _ in range(10):
        provider_events.claim_batch("stripe")
        make_events_due()
    jobs.process_inbox()
    assert [(event.status, event.error_code) for event in inbox_events()] == [("quarantined", "poisoned")]
    assert mail_templates("operator_alert") == ["operator_alert"]
    assert payment_amounts(acme)[0] == "pending"


def test_result_of_a_worker_that_lost_its_lease_is_not_recorded(acme: PayingOrganization, stripe: StripeServer) -> None:
    body = stripe_server.event("checkout.session.completed", "cs_unknown")
    acme.post(STRIPE, body, stripe_server.sign(body))
    slow = provider_events.claim_batch("stripe")
    make_events_due()
    other = provider_events.claim_batch("stripe")
    [event] = slow.rows
    provider_events._record_result(slow, event, RowResult(event.id, "processed"))
    assert [(event.status, event.lease_token) for event in inbox_events()] == [("sending", other.token)]


def test_events_that_the_lease_does_not_suffice_for_are_given_back(
    acme: PayingOrganization, stripe: StripeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_events, "MAX_PROCESSING_SECONDS", -1)
    for number in range(3):
        body = stripe_server.event("checkout.session.completed", "cs_unknown", event_id=f"evt_{number}")
        acme.post(STRIPE, body, stripe_server.sign(body))
    assert provider_events.process_batch("stripe") == 3
    assert sorted(event.status for event in inbox_events()) == ["quarantined", "queued", "queued"]
    assert {event.attempts for event in inbox_events() if event.status == "queued"} == {0}


def test_failed_settlement_changes_nothing_and_is_repeated(
    app: Flask, acme: PayingOrganization, stripe: StripeServer, inject_fault: InjectFault
) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    inject_fault("payments.before_commit:raise")
    stripe_event(acme, reference)
    assert payment_amounts(acme) == ("pending", 0, 0, 0)
    assert (acme.invoice().state, acme.invoice().paid_minor) == ("open", 0)
    make_events_due()
    jobs.process_inbox()
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)


def test_eight_concurrent_settlements_apply_the_payment_once(
    app: Flask, acme: PayingOrganization, stripe: StripeServer
) -> None:
    reference = acme.begin("stripe")
    stripe.pay(reference)
    outcomes: list[str] = []

    def settle() -> None:
        with app.app_context():
            outcomes.append(payments.settle_payment("stripe", reference))

    threads = [threading.Thread(target=settle) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["done"] * 8
    assert (acme.invoice().paid_minor, acme.wallet()) == (9900, 0)
    assert acme.mails() == ["payment_received"]


def test_reconciliation_slows_down_and_cancels_after_a_week(acme: PayingOrganization, stripe: StripeServer) -> None:
    acme.begin("stripe")
    begun = acme.payment().created_at
    checked_after = []
    for minutes in (*range(0, 480, 30), *range(810, 11_000, 360)):  # the first three come within 450 minutes
        clock.freeze_time(begun + timedelta(minutes=minutes))
        before = len(stripe.calls)
        jobs.reconcile()
        if len(stripe.calls) > before:
            checked_after.append(minutes)
    assert checked_after[:3] == [30, 90, 450]
    assert len(checked_after) == 10
    assert (acme.payment().state, acme.payment().failure_code) == ("canceled", "expired")


def test_reconciliation_settles_a_payment_without_an_event(acme: PayingOrganization, stripe: StripeServer) -> None:
    stripe.pay(acme.begin("stripe"))
    clock.freeze_time(clock.now() + timedelta(minutes=6))
    jobs.reconcile()
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)


def test_reconciliation_postpones_while_the_provider_is_unavailable(
    acme: PayingOrganization, stripe: StripeServer
) -> None:
    acme.begin("stripe")
    stripe.failing_with = 503
    clock.freeze_time(clock.now() + timedelta(minutes=6))
    jobs.reconcile()
    assert (acme.payment().state, acme.payment().checks) == ("pending", 1)
