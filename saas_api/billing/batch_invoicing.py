"""Invoices of many organizations in one transaction, each kind of row in one statement.

`invoice_lifecycle` does the same for one organization. What suits only one of many is left to it: an organization that
another process works on, or that cannot be calculated.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import attributes

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.accounts.models import Organization
from saas_api.billing import batch_bill_inputs, events, invoice_lifecycle, wallet
from saas_api.billing.invoice_lifecycle import CALCULATION_ERRORS, FINALIZED_ACTION, INVOICE_SERIES
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import BillingPeriod, BillingProfile, Invoice, PeriodStatus
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import Bill
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.faults import fault_point
from saas_api.core.settings import setting


@dataclass(frozen=True)
class _Draft:
    """A draft and what its finalization needs.

    invoice: not in the session; its row is written from it
    """

    period: BillingPeriod
    invoice: Invoice
    period_bill: Bill
    organization: Organization
    profile: BillingProfile


def invoice_next_periods(session: SystemSession, organization_ids: Sequence[UUID]) -> list[InvoiceWithPeriod]:
    """Invoice the earliest closed period of each organization.

    organization_ids: in the order of the numbers that their invoices get
    returns: the invoices; none for an organization that has no closed period or is left to
        `invoice_lifecycle.invoice_next_period`
    raises: what the database raises for any of them; then nothing may be committed
    """
    drafts = _calculate(session, organization_ids)
    if not drafts:
        return []
    _store_drafts(session, drafts)
    fault_point("billing.after_draft")
    final = [draft for draft in drafts if invoice_lifecycle.is_finalized_automatically(draft.profile)]
    if final:
        _finalize(session, final)
    written = _load(session, drafts)
    if final:
        _publish(session, final, written)
    fault_point("billing.after_invoice")
    return list(written.values())


def _calculate(session: SystemSession, organization_ids: Sequence[UUID]) -> list[_Draft]:
    """The bills, without what has to be left out. From here on the wallets of their organizations are locked."""
    tenancy.allow_long_statements(session)  # millions of events must not prevent an invoice
    statement = invoice_lifecycle.NEXT_UNINVOICED_PERIOD.where(BillingPeriod.organization_id.in_(organization_ids))
    periods = {period.organization_id: period for period in session.scalars(statement)}
    bills = dict(_calculate_bills(batch_bill_inputs.get_inputs(session, list(periods.values())))) if periods else {}
    if not bills:
        return []
    free = wallet.try_lock_wallets(session, bills)  # late: payments wait for them
    organizations = {one.id: one for one in session.scalars(select(Organization).where(Organization.id.in_(free)))}
    profiles = session.scalars(select(BillingProfile).where(BillingProfile.organization_id.in_(free)))
    profiles_by_owner = {profile.organization_id: profile for profile in profiles}
    return [
        _Draft(
            periods[owner],
            invoice_lifecycle.new_draft(periods[owner], bills[owner]),
            bills[owner],
            organizations[owner],
            profiles_by_owner[owner],
        )
        for owner in organization_ids
        if owner in free
    ]


def _calculate_bills(inputs: Mapping[UUID, bill.BillInputs]) -> Iterator[tuple[UUID, Bill]]:
    for organization_id, own in inputs.items():
        try:
            yield organization_id, bill.calculate_bill(own)
        except CALCULATION_ERRORS:
            continue  # the caller finds it again, reports it and puts its billing on hold


_INVOICE_COLUMNS = """organization_id, id, billing_period_id, kind, currency, rule_version, subtotal_minor, total_minor,
  created_at"""
_INSERT_DRAFTS = text(f"""INSERT INTO invoices ({_INVOICE_COLUMNS})
SELECT {_INVOICE_COLUMNS} FROM json_populate_recordset(CAST(NULL AS invoices), CAST(:rows AS json))""")
_LINE_COLUMNS = """organization_id, id, invoice_id, position, source_key, kind, description, plan_version_id,
  meter_code, late_for_period_id, service_starts_at, service_ends_at, quantity, amount_minor, calculation"""
_INSERT_LINES = text(f"""INSERT INTO invoice_lines ({_LINE_COLUMNS})
SELECT {_LINE_COLUMNS} FROM json_populate_recordset(CAST(NULL AS invoice_lines), CAST(:rows AS json))""")
_MARK_INVOICED = text("""UPDATE billing_periods p SET state = 'invoiced'
FROM unnest(CAST(:organizations AS uuid[]), CAST(:periods AS uuid[])) AS d (organization_id, id)
WHERE p.organization_id = d.organization_id AND p.id = d.id""")


def _store_drafts(session: SystemSession, drafts: Sequence[_Draft]) -> None:
    names = [name.strip() for name in _INVOICE_COLUMNS.split(",")]
    invoices = [{name: getattr(draft.invoice, name) for name in names} for draft in drafts]
    lines = [values for draft in drafts for values in invoice_lifecycle.line_values(draft.invoice, draft.period_bill)]
    line_ids = ids.new_ids(len(lines))
    session.execute(_INSERT_DRAFTS, {"rows": _to_json(invoices)})
    session.execute(
        _INSERT_LINES,
        {"rows": _to_json({**values, "id": line_id} for values, line_id in zip(lines, line_ids, strict=True))},
    )
    session.execute(
        _MARK_INVOICED,
        {
            "organizations": [draft.invoice.organization_id for draft in drafts],
            "periods": [draft.period.id for draft in drafts],
        },
    )
    for draft in drafts:
        attributes.set_committed_value(draft.period, "status", PeriodStatus.INVOICED)  # as it is stored now


def _to_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows for json_populate_recordset; PostgreSQL reads decimals from their text."""
    return orjson.dumps(list(rows), default=str).decode()


_FINALIZE = text("""UPDATE invoices i SET state = f.state, bill_to = f.bill_to, seller = f.seller,
  credits_applied_minor = f.credits_applied_minor, finalized_at = f.finalized_at, due_at = f.due_at,
  paid_at = f.paid_at, series = f.series, serial = f.serial, number = f.number
FROM json_populate_recordset(CAST(NULL AS invoices), CAST(:rows AS json)) f
WHERE i.organization_id = f.organization_id AND i.id = f.id""")


def _finalize(session: SystemSession, drafts: Sequence[_Draft]) -> None:
    credits_minor = _use_wallets(session, drafts)
    serials = invoice_lifecycle.next_serials(session, invoice_lifecycle.local_series(INVOICE_SERIES), len(drafts))
    fault_point("billing.after_number")
    rows = []
    for draft, serial in zip(drafts, serials, strict=True):
        owner, invoice_id = draft.invoice.organization_id, draft.invoice.id
        values = invoice_lifecycle.final_values(
            draft.invoice, draft.organization, draft.profile, credits_minor.get(owner, 0), serial
        )
        rows.append({"organization_id": owner, "id": invoice_id, "state": values.pop("status"), **values})
    session.execute(_FINALIZE, {"rows": _to_json(rows)})


# Only these have anything to do with the wallet, besides bills below zero: with credit, or with a rest that moves.
_USING_WALLET = text("""
SELECT organization_id FROM credit_grants WHERE organization_id = ANY (:organizations) AND remaining_minor > 0
UNION SELECT organization_id FROM invoices
WHERE organization_id = ANY (:organizations) AND state = 'open' AND due_minor < :minimum""")


def _use_wallets(session: SystemSession, drafts: Sequence[_Draft]) -> dict[UUID, int]:
    """Credit that pays each draft, by organization, in minor units; totals rise by small rests of older invoices."""
    owners = [draft.invoice.organization_id for draft in drafts]
    values = {"organizations": owners, "minimum": setting("DUNNING_MINIMUM_MINOR")}
    using = set(session.scalars(_USING_WALLET, values))
    using.update(draft.invoice.organization_id for draft in drafts if draft.period_bill.carry_minor)
    credits_minor = {}
    for draft in drafts:
        owner = draft.invoice.organization_id
        if owner in using:
            stored = session.get_one(Invoice, (owner, draft.invoice.id))
            credits_minor[owner] = invoice_lifecycle.use_wallet(session, stored)
            draft.invoice.total_minor = stored.total_minor
    session.flush()
    return credits_minor


def _load(session: SystemSession, drafts: Sequence[_Draft]) -> dict[UUID, InvoiceWithPeriod]:
    """The stored invoices with their periods, by organization, in the order of the drafts."""
    statement = (
        select(Invoice)
        .where(Invoice.organization_id.in_([draft.invoice.organization_id for draft in drafts]))
        .where(Invoice.id.in_([draft.invoice.id for draft in drafts]))
        .execution_options(populate_existing=True)
    )
    stored = {invoice.organization_id: invoice for invoice in session.scalars(statement)}
    return {
        draft.period.organization_id: InvoiceWithPeriod(stored[draft.period.organization_id], draft.period)
        for draft in drafts
    }


def _publish(session: SystemSession, drafts: Collection[_Draft], written: Mapping[UUID, InvoiceWithPeriod]) -> None:
    final = [(written[draft.invoice.organization_id], draft.organization) for draft in drafts]
    events.publish_finalized(session, [(item.invoice, item.period) for item, _ in final if item.period])
    entries = [
        (item.invoice.organization_id, ("invoice", item.invoice.id), invoice_lifecycle.audit_data(item.invoice))
        for item, _ in final
    ]
    audit.record_events(session, SYSTEM_ACTOR, FINALIZED_ACTION, entries)
    charged = [(item, organization) for item, organization in final if item.invoice.total_minor]
    invoice_lifecycle.email_invoices(session, charged)
