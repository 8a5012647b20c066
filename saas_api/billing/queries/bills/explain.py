"""How a line's amount comes about: its stored calculation, the events it counts, and the price it was rated at."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from saas_api.billing.models import Invoice, InvoiceLine
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.invoices import get_line
from saas_api.billing.rules.explaining import Explained, explain
from saas_api.billing.rules.rating import Price
from saas_api.core import tenancy
from saas_api.usage.queries import events

_ROWS_A_PAGE = 2_000


@dataclass(frozen=True)
class LineExplained:
    """A line and everything its amount follows from.

    counted: None for a line that counts no events, such as a plan's base
    """

    invoice: Invoice
    line: InvoiceLine
    unit: str | None
    price: Price | None
    counted: events.Counted | None
    explained: Explained


def explain_line(session: Session, organization_id: UUID, invoice_id: UUID, line_id: UUID) -> LineExplained:
    """Follow a line of a final invoice.

    raises: NotFound
    """
    invoice, line = get_line(session, organization_id, invoice_id, line_id)
    version, meter = line.plan_version_id, line.meter_code
    price = catalogue.prices(session, {version}).get((version, meter)) if version and meter else None
    unit = catalogue.units(session).get(meter) if meter else None
    wanted = slice_of(invoice, line)
    return LineExplained(
        invoice,
        line,
        unit,
        price,
        events.counted(session, wanted) if wanted else None,
        explain(line.kind, line.calculation, invoice.currency, unit),
    )


def slice_of(invoice: Invoice, line: InvoiceLine) -> events.Slice | None:
    """The events that a line counts; None when it counts none."""
    if invoice.billing_period_id is None or line.meter_code is None or line.plan_version_id is None:
        return None
    return events.Slice(
        line.organization_id,
        invoice.billing_period_id,
        line.late_for_period_id,
        line.plan_version_id,
        line.meter_code,
    )


def line_events(wanted: events.Slice | None) -> Iterator[RowMapping]:
    """Every event of a line, a page in memory at a time and no transaction open in between."""
    after: RowMapping | None = None
    while wanted:
        with tenancy.transaction(wanted.organization_id) as session:
            rows = events.page(session, wanted, after, _ROWS_A_PAGE)
        yield from rows
        if len(rows) < _ROWS_A_PAGE:
            return
        after = rows[-1]
