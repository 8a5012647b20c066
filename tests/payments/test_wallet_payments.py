"""The wallet pays open invoices, the oldest due date first, whenever money comes into it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import invoice_lifecycle, invoices, settlement
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids
from saas_api.payments import dunning, payments
from saas_api.payments.payments import OfflinePayment, PaymentExists
from tests.support import forks
from tests.support.billing import BillingOrganization, create_organization
from tests.support.billing_actions import (
    JUNE,
    MAY,
    OPERATOR,
    add_endpoint,
    audit_actions,
    close_periods,
    create_credit_note,
    published_events,
    system_session,
)
from tests.support.closing import CloseRunner

pytestmark = pytest.mark.usefixtures("context")


def create_two_bills(name: str = "Acme") -> tuple[BillingOrganization, Any, Any]:
    """An organization that owes 29.00 for April and 29.00 for May."""
    organization = create_organization(name, plan="starter@1")
    add_endpoint(organization)
    return organization, close_periods(organization, MAY), close_periods(organization, JUNE)


def states(organization: BillingOrganization) -> list[tuple[str, int]]:
    """Status and amount due of each invoice, the oldest first."""
    return [(invoice.state, invoice.due_minor) for invoice in organization.invoices()]


def balance(organization: BillingOrganization) -> int:
    return int(organization.rows("SELECT coalesce(sum(remaining_minor), 0) FROM credit_grants")[0][0])


def record(organization: BillingOrganization, amount_minor: int, *invoice_ids: Any, reference: str = "MT940 1") -> Any:
    money = OfflinePayment(amount_minor, "USD", reference)
    return payments.record_offline_payment(organization.id, invoice_ids, money, SYSTEM_ACTOR, "bank transfer")


def grant(organization: BillingOrganization, amount_minor: int, key: str, **options: Any) -> None:
    source = GrantSource(key, GrantKind.PURCHASED)
    with system_session() as session:
        settlement.grant_credit(session, organization.id, source, amount_minor, OPERATOR, **options)


def invoke(app: Flask, organization: BillingOrganization, *arguments: str) -> Any:
    command = ["payments", "record", ids.format_id("org", organization.id), *arguments]
    return app.test_cli_runner().invoke(args=command)


def test_excess_of_a_payment_pays_the_other_invoice() -> None:
    """B2: two bills of 29.00; 58.00 recorded on the first pays both, and nothing stays in the wallet."""
    organization, april, _ = create_two_bills()
    record(organization, 5800, april.id)
    assert states(organization) == [("paid", 0), ("paid", 0)]
    assert balance(organization) == 0
    assert len(published_events(organization, "invoice.paid")) == 2
    assert audit_actions(organization).count("invoice.credit_applied") == 1


def test_wallet_pays_the_invoice_that_is_due_first() -> None:
    """B2: oldest due first."""
    organization, _, _ = create_two_bills()
    grant(organization, 3000, "bought")
    assert states(organization) == [("paid", 0), ("open", 2800)]
    grant(organization, 100, "bought more")
    assert states(organization) == [("paid", 0), ("open", 2700)]


def test_every_credit_to_the_wallet_pays_open_invoices() -> None:
    """B2: a credit note, the credit that a void invoice returns, and a carried amount are such credits."""
    organization, april, may = create_two_bills()
    record(organization, 2900, april.id)
    create_credit_note(organization, april.id, amount_minor=1000)
    assert states(organization)[1] == ("open", 1900)
    close_periods(organization, JUNE + timedelta(days=30))
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, may.id, OPERATOR)
    assert [(invoice.state, invoice.credits_applied_minor) for invoice in organization.invoices()] == [
        ("paid", 0),
        ("void", 0),
        ("open", 1000),
    ]


def test_wallet_pays_before_a_dunning_step() -> None:
    """B2: money that came into the wallet another way is used before anyone is reminded."""
    organization, *_ = create_two_bills()
    organization.grant(5800, "purchased", 10)
    at = organization.invoices()[-1].due_at
    clock.freeze_time(at)
    assert dunning.run_dunning(at).done == []
    assert states(organization) == [("paid", 0), ("paid", 0)]


def test_written_off_invoice_is_not_paid_from_the_wallet() -> None:
    """B2: only open invoices are paid; an uncollectible one takes a payment that is meant for it."""
    organization, april, _ = create_two_bills()
    with system_session() as session:
        invoices.mark_uncollectible(session, organization.id, april.id, OPERATOR)
    grant(organization, 2900, "bought")
    assert states(organization) == [("uncollectible", 2900), ("paid", 0)]
    record(organization, 2900, april.id)
    assert states(organization)[0] == ("paid", 0)


def test_one_transfer_is_booked_on_two_invoices(app: Flask) -> None:
    """B2: `payments record` takes several invoices; a reference counts once for each."""
    organization, april, may = create_two_bills()
    bills = [ids.format_id("inv", invoice.id) for invoice in (april, may)]
    options = ("--reference", "MT940 0815", "--reason", "bank transfer")
    booked = invoke(app, organization, *bills, "60.00", *options)
    assert (booked.exit_code, "2.00 USD to the wallet" in booked.output) == (0, True), booked.output
    assert (states(organization), balance(organization)) == ([("paid", 0), ("paid", 0)], 200)
    again = invoke(app, organization, bills[1], "60.00", *options)
    assert (again.exit_code, "was booked before on INV-000002" in again.output) == (1, True)
    assert balance(organization) == 200


def test_reference_may_be_booked_on_another_invoice_later() -> None:
    """B2: unique per invoice and reference."""
    organization, april, may = create_two_bills()
    record(organization, 2900, april.id)
    record(organization, 2900, may.id)
    assert states(organization) == [("paid", 0), ("paid", 0)]
    with pytest.raises(PaymentExists):
        record(organization, 2900, may.id)


def test_amount_in_another_currency_is_refused_by_name(app: Flask) -> None:
    """B15: `--currency EUR` on an invoice in USD says so."""
    organization, april, _ = create_two_bills()
    options = ("--reference", "1", "--reason", "bank transfer", "--currency", "EUR")
    refused = invoke(app, organization, ids.format_id("inv", april.id), "29.00", *options)
    assert (refused.exit_code, "INV-000001 is in USD" in refused.output) == (1, True), refused.output
    assert states(organization)[0] == ("open", 2900)


def test_money_that_comes_in_concurrently_is_used_once(app: Flask) -> None:
    """B2: grants, transfers and credit notes at the same time neither lose nor double a cent, nor wait for ever."""
    organization, april, may = create_two_bills()

    def act(number: int) -> None:
        with app.app_context():
            if number % 3 == 0:
                grant(organization, 700, f"bought {number}")
            elif number % 3 == 1:
                record(organization, 900, (may, april)[number % 2].id, reference=f"transfer {number}")
            else:
                create_credit_note(organization, (april, may)[number % 2].id, amount_minor=500)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(act, range(9)))
    [(due, wallet)] = organization.rows("""SELECT (SELECT sum(due_minor) FROM invoices),
      (SELECT coalesce(sum(remaining_minor), 0) FROM credit_grants)""")
    assert wallet - due == 3 * (700 + 900 + 500) - 5800


def test_killed_recording_is_repeated_once(app: Flask) -> None:
    """B2: killed before the commit, the command books nothing; repeated, it books everything once."""
    organization, april, may = create_two_bills()
    bills = [ids.format_id("inv", invoice.id) for invoice in (april, may)]
    options = ("--reference", "MT940 1", "--reason", "bank transfer")
    command = ("payments", "record", ids.format_id("org", organization.id), *bills, "58.00", *options)
    environment = {**forks.engines_of(app.config), "APP_FAULTS": "1", "FAULT": "payments.before_commit:kill"}
    [killed] = forks.run_flask_at_once(command, [environment])
    assert killed.returncode == -9
    assert states(organization) == [("open", 2900), ("open", 2900)]
    statuses = [one.returncode for one in forks.run_flask_at_once(command, [forks.engines_of(app.config)] * 2)]
    assert sorted(statuses) == [0, 1]
    assert (states(organization), balance(organization)) == ([("paid", 0), ("paid", 0)], 0)


def test_killed_closing_uses_the_wallet_and_moves_a_rest_once(app: Flask) -> None:
    """B2, B6: killed with a number taken, then run twice at once: each invoice once, with the right amount due."""
    rest, wallet = create_organization("Acme", plan="starter@1"), create_organization("Carol", plan="starter@1")
    record(rest, 2870, close_periods(rest, MAY).id)
    record(wallet, 2900, wallet.invoices()[0].id)
    grant(wallet, 2000, "bought")
    runner = CloseRunner(app.config)
    [killed] = runner.close("2026-06-01T02:00:00Z", "billing.after_number:kill")
    assert killed.status == -9
    runner.close("2026-06-01T02:00:00Z", "", "")
    assert states(rest) == [("paid", 0), ("open", 2930)]
    assert states(wallet) == [("paid", 0), ("open", 900)]
    assert balance(wallet) == balance(rest) == 0
