"""Property: any order of invoices, credit, payments, notes, voids and payouts ends as a model in fractions says."""

import itertools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import credit_notes, invariants, invoice_lifecycle, period_close, settlement
from saas_api.billing.credit_notes import CreditExceedsInvoice, CreditNoteInput
from saas_api.billing.invoice_lifecycle import InvoiceHasPayments
from saas_api.billing.invoices import InvoiceNotOpen
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.payments import payments, payouts
from saas_api.payments.payments import OfflinePayment
from saas_api.payments.payouts import PayoutExceedsWallet
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import OPERATOR

pytestmark = pytest.mark.usefixtures("context")

BASE, MINIMUM = Fraction(29), Fraction(1)
_names = itertools.count(1)


@dataclass(eq=False)
class Grant:
    """Credit: promotional is used first and never paid out."""

    left: Fraction
    is_promotional: bool = False


@dataclass(eq=False)
class Bill:
    """An invoice: what paid it, by grant and by payment, and what notes took off or gave back."""

    total: Fraction
    paid: Fraction = Fraction(0)
    reduced: Fraction = Fraction(0)
    noted: Fraction = Fraction(0)
    money_back: Fraction = Fraction(0)
    promotion_back: Fraction = Fraction(0)
    credit: list[tuple[Grant | None, Fraction]] = field(default_factory=list)
    is_void: bool = False

    def due(self) -> Fraction:
        taken = sum(amount for _, amount in self.credit)
        return Fraction(0) if self.is_void else self.total - self.paid - self.reduced - taken


@dataclass
class Model:
    """The rules of docs/billing.md, in fractions of a dollar."""

    bills: list[Bill] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    out: Fraction = Fraction(0)

    def wallet(self) -> Fraction:
        return sum((grant.left for grant in self.grants), Fraction(0))

    def settle(self) -> None:
        for bill in self.bills:
            self.pay_from_wallet(bill)

    def pay_from_wallet(self, bill: Bill) -> None:
        for grant in sorted(self.grants, key=lambda grant: not grant.is_promotional):
            amount = min(grant.left, bill.due())
            if amount > 0:
                grant.left -= amount
                bill.credit.append((grant, amount))

    def add(self, amount: Fraction, *, is_promotional: bool = False) -> None:
        if amount > 0:
            self.grants.append(Grant(amount, is_promotional))

    def close(self) -> None:
        new = Bill(BASE)
        for bill in self.bills:
            if 0 < bill.due() < MINIMUM:
                new.total += bill.due()
                bill.credit.append((None, bill.due()))
        self.pay_from_wallet(new)
        self.bills.append(new)

    def pay(self, bill: Bill, amount: Fraction) -> None:
        allocated = min(amount, bill.due())
        bill.paid += allocated
        self.add(amount - allocated)
        self.settle()

    def note(self, bill: Bill, amount: Fraction) -> bool:
        if bill.is_void or amount > bill.total - bill.noted:
            return False
        bill.noted += amount
        to_due = min(amount, bill.due())
        bill.reduced += to_due
        promotion = sum((part for grant, part in bill.credit if grant and grant.is_promotional), Fraction(0))
        money = bill.paid + sum(part for _, part in bill.credit) - promotion
        to_money = min(amount - to_due, money - bill.money_back)
        bill.money_back += to_money
        self.add(to_money)
        self.add(amount - to_due - to_money, is_promotional=True)
        self.settle()
        return True

    def void(self, bill: Bill) -> bool:
        if bill.is_void or bill.due() == 0 or bill.paid:
            return False
        for grant, amount in bill.credit:
            if grant:
                grant.left += amount
        bill.is_void = True
        self.settle()
        return True

    def pay_out(self, amount: Fraction) -> bool:
        money = [grant for grant in self.grants if not grant.is_promotional]
        if amount > sum(grant.left for grant in money):
            return False
        self.out += amount
        for grant in money:
            part = min(grant.left, amount)
            grant.left, amount = grant.left - part, amount - part
        return True


class Product:
    """The same steps in the product."""

    def __init__(self) -> None:
        self.organization: BillingOrganization = create_organization(f"Acme{next(_names)}", plan="starter@1")
        self.month = 4
        self.steps = itertools.count(1)

    def bill_ids(self) -> list[Any]:
        return [invoice.id for invoice in self.organization.invoices()]

    def close(self) -> None:
        self.month += 1
        clock.freeze_time(day(1, 2, month=self.month))
        assert not period_close.close_due(clock.now(), self.organization.id).failed

    def grant(self, amount: Fraction, kind: GrantKind) -> None:
        with tenancy.system_session("admin.act") as session:
            source = GrantSource(f"step:{next(self.steps)}", kind)
            settlement.grant_credit(session, self.organization.id, source, int(amount * 100), OPERATOR)

    def pay(self, number: int, amount: Fraction) -> None:
        money = OfflinePayment(int(amount * 100), "USD", f"transfer {next(self.steps)}")
        invoice_ids = [self.bill_ids()[number]]
        payments.record_offline_payment(self.organization.id, invoice_ids, money, SYSTEM_ACTOR, "bank transfer")

    def note(self, number: int, amount: Fraction) -> bool:
        content = CreditNoteInput("goodwill", amount_minor=int(amount * 100))
        try:
            with tenancy.system_session("admin.act") as session:
                credit_notes.create_credit_note(
                    session, self.organization.id, self.bill_ids()[number], content, OPERATOR
                )
        except (CreditExceedsInvoice, InvoiceNotOpen):
            return False
        return True

    def void(self, number: int) -> bool:
        try:
            with tenancy.system_session("admin.act") as session:
                invoice_lifecycle.void_invoice(session, self.organization.id, self.bill_ids()[number], OPERATOR)
        except (InvoiceHasPayments, InvoiceNotOpen):
            return False
        return True

    def pay_out(self, amount: Fraction) -> bool:
        reference = f"payout {next(self.steps)}"
        try:
            with tenancy.system_session("admin.act") as session:
                payouts.pay_out(session, self.organization.id, (int(amount * 100), "USD"), OPERATOR, reference)
        except PayoutExceedsWallet:
            return False
        return True

    def state(self) -> tuple[list[Fraction], Fraction]:
        due = [
            Fraction(0 if invoice.state == "void" else invoice.due_minor, 100)
            for invoice in self.organization.invoices()
        ]
        [(wallet,)] = self.organization.rows("SELECT coalesce(sum(remaining_minor), 0) FROM credit_grants")
        return due, Fraction(int(wallet), 100)


AMOUNTS = st.sampled_from([Fraction(cents, 100) for cents in (30, 500, 1450, 2870, 2900, 5800)])
STEP = st.one_of(
    st.tuples(st.just("close")),
    st.tuples(st.sampled_from(["promote", "sell", "payout"]), AMOUNTS),
    st.tuples(st.sampled_from(["pay", "note"]), AMOUNTS, st.integers(0, 3)),
    st.tuples(st.just("void"), st.integers(0, 3)),
)


def perform(model: Model, product: Product, name: str, values: list[Any]) -> None:
    """Perform a step in both; what one refuses the other refuses."""
    amount = values[0] if values and isinstance(values[0], Fraction) else Fraction(0)
    number = values[-1] % len(model.bills) if values and isinstance(values[-1], int) else 0
    if name == "close":
        model.close()
        product.close()
    elif name in {"promote", "sell"}:
        model.add(amount, is_promotional=name == "promote")
        model.settle()
        product.grant(amount, GrantKind.PROMOTIONAL if name == "promote" else GrantKind.PURCHASED)
    elif name == "pay":
        model.pay(model.bills[number], amount)
        product.pay(number, amount)
    elif name == "note":
        assert model.note(model.bills[number], amount) == product.note(number, amount)
    elif name == "void":
        assert model.void(model.bills[number]) == product.void(number)
    else:
        assert model.pay_out(amount) == product.pay_out(amount)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=4, max_size=7))
def test_books_are_those_of_the_model_after_every_step(steps: list[tuple[Any, ...]]) -> None:
    """B2: what is due of each invoice and what is in the wallet; the nightly checks hold at the end."""
    model, product = Model(), Product()
    perform(model, product, "close", [])
    for name, *values in steps:
        perform(model, product, name, values)
        assert product.state() == ([bill.due() for bill in model.bills], model.wallet()), (name, values)
    results = invariants.check_invariants(product.organization.id)
    assert {r.check.name for r in results if r.violations} <= {"coverage.now", "coverage.invoiced"}
