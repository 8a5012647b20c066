"""What an alert compares with its threshold."""

from dataclasses import dataclass, field
from decimal import Decimal, localcontext

from saas_api.billing.rating.charges import MeterPrice
from saas_api.core.money import DECIMAL_PRECISION

ALERT_SUBJECTS = ("spend", "spend_percent_of_cap", "quantity", "percent_of_included")
METER_SUBJECTS = ("quantity", "percent_of_included")


@dataclass(frozen=True)
class AlertRuleInput:
    """A rule as somebody wants it; two that differ in `is_enabled` only are the same rule.

    threshold: in major units, percent, or the meter's unit
    """

    subject: str
    meter: str | None
    threshold: Decimal
    is_enabled: bool = field(default=True, compare=False)


def observed_value(
    subject: str, total_major: Decimal, cap_major: Decimal | None, quantity: Decimal, price: MeterPrice | None
) -> Decimal | None:
    """What a rule looks at now; None where there is nothing to be a share of.

    total_major: base and charge of the period
    """
    with localcontext(prec=DECIMAL_PRECISION):
        match subject:
            case "spend":
                return total_major
            case "spend_percent_of_cap":
                return total_major * 100 / cap_major if cap_major else None
            case "quantity":
                return quantity
            case _:
                return quantity * 100 / price.included_quantity if price and price.included_quantity else None
