"""The current bill of the billing page: its lines beside what the plan includes, and the same as CSV."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Response

from saas_api.billing.current_period import CurrentPeriod
from saas_api.billing.rating.bill import BillLine, LineKind
from saas_api.core import money, time_zones
from saas_api.core.web import pages
from saas_api.usage.meter_file import MeterContent

CSV_COLUMNS = ("description", "meter", "unit", "quantity", "included", "overage", "amount", "currency")


@dataclass(frozen=True)
class BillRow:
    """A line of the current bill, or a meter that was not used and of which the plan includes some.

    meter, unit: None of amounts that do not follow from usage, such as the plan fee
    quantity: in the meter's unit; None without a meter
    included: in the meter's unit; None where included quantities do not apply
    """

    description: str
    meter: str | None
    unit: str | None
    quantity: Decimal | None
    included: Decimal | None
    amount_minor: int

    @property
    def covered(self) -> Decimal | None:
        """The quantity that the included one covers."""
        return None if self.quantity is None or self.included is None else min(self.quantity, self.included)

    @property
    def overage(self) -> Decimal | None:
        """The quantity beyond the included one."""
        return None if self.quantity is None else self.quantity - (self.covered or 0)


def list_rows(running: CurrentPeriod, by_code: Mapping[str, MeterContent]) -> list[BillRow]:
    """Returns the lines of the cost so far, then the meters without usage that have an included quantity."""
    line_counts = Counter(line.meter for line in running.lines)
    rows = [_row(line, by_code, line_counts[line.meter]) for line in running.lines]
    rows += [
        BillRow(by_code[code].name, code, by_code[code].unit, Decimal(0), price.included_quantity, 0)
        for code, price in sorted(running.version.prices.items())
        if code not in line_counts and price.included_quantity
    ]
    return rows


def _row(line: BillLine, by_code: Mapping[str, MeterContent], line_count: int) -> BillRow:
    """A line; one that is the only one of its meter has the meter's name."""
    if line.meter is None:
        return BillRow(line.description, None, None, None, None, line.amount_minor)
    meter, included = by_code[line.meter], line.calculation.get("included")
    is_only_line = line_count == 1 and line.kind == LineKind.USAGE
    return BillRow(
        meter.name if is_only_line else line.description,
        line.meter,
        meter.unit,
        line.quantity,
        None if included is None else Decimal(included),
        line.amount_minor,
    )


def csv_table(running: CurrentPeriod, rows: Sequence[BillRow]) -> Response:
    """Returns the rows as a file; their amounts add up to the cost so far."""
    period = running.account.period
    starts_on = period.starts_at.astimezone(time_zones.get_zone(period.timezone)).date()
    cells = [tuple(_cells(row, running.currency)) for row in rows]
    return pages.csv_response(f"bill-{starts_on}.csv", CSV_COLUMNS, cells)


def _cells(row: BillRow, currency: str) -> Iterator[Any]:
    yield from (row.description, row.meter, row.unit)
    for quantity in (row.quantity, row.covered, row.overage):
        yield None if quantity is None else Decimal(money.format_unit_price(quantity))
    yield from (Decimal(money.format_minor(row.amount_minor, currency)), currency)
