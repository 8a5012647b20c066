"""Rows of the usage CSV of an organization: calls and their cost by day, endpoint, key and meter."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import usage_costs
from saas_api.core import ids, money
from saas_api.usage import meters
from saas_api.usage.ranges import DateRange

COLUMNS = (
    "date",
    "method",
    "endpoint",
    "api_key_id",
    "api_key_name",
    "meter",
    "quantity",
    "unit",
    "outcome",
    "requests",
    "cost",
    "currency",
    "dimensions",
)


def list_rows(
    session: Session, organization_id: UUID, days: DateRange, mode: str, meter: str | None = None
) -> list[tuple[Any, ...]]:
    """Values for COLUMNS: accepted calls, then, without a chosen meter, the refused ones."""
    names, by_code = usage_costs.get_key_names(session, organization_id), meters.all_meters(session)
    currency = usage_costs.report_currency(session, organization_id)
    return [
        (
            *(str(row.day), row.method, row.endpoint),
            *((ids.format_id("key", key), names.get(key)) if (key := row.api_key_id) else (None, None)),
            row.meter,
            row.quantity and Decimal(money.format_unit_price(row.quantity)),
            by_code[row.meter].unit if row.meter else None,
            *(row.outcome, row.requests),
            *((None, None) if row.cost is None else (Decimal(money.format_exact_amount(row.cost, currency)), currency)),
            json.dumps(row.dimensions, sort_keys=True) if row.dimensions else None,
        )
        for row in usage_costs.usage_rows(session, organization_id, days, mode, meter)
    ]
