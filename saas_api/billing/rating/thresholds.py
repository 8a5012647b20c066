"""Alert rules and the values that are compared with their thresholds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from enum import StrEnum

from saas_api.billing.rating.charges import MeterPrice
from saas_api.core.money import DECIMAL_PRECISION


class AlertSubject(StrEnum):
    """What an alert watches: spend in a period, or the usage of one meter."""

    SPEND = "spend"
    SPEND_PERCENT_OF_CAP = "spend_percent_of_cap"
    QUANTITY = "quantity"
    PERCENT_OF_INCLUDED = "percent_of_included"


ALERT_SUBJECTS = tuple(AlertSubject)
METER_SUBJECTS = (AlertSubject.QUANTITY, AlertSubject.PERCENT_OF_INCLUDED)


@dataclass(frozen=True)
class AlertRuleInput:
    """An alert rule to store; rules that differ in `is_enabled` only are equal.

    threshold: in major units, percent, or the meter's unit, depending on the subject
    """

    subject: AlertSubject
    meter: str | None
    threshold: Decimal
    is_enabled: bool = field(default=True, compare=False)


def observed_value(
    subject: AlertSubject, total_major: Decimal, cap_major: Decimal | None, quantity: Decimal, price: MeterPrice | None
) -> Decimal | None:
    """The value that a rule compares with its threshold.

    total_major: base and usage charges of the period
    returns: None for a percentage without a cap or an included quantity
    """
    with localcontext(prec=DECIMAL_PRECISION):
        match subject:
            case AlertSubject.SPEND:
                return total_major
            case AlertSubject.SPEND_PERCENT_OF_CAP:
                return total_major * 100 / cap_major if cap_major else None
            case AlertSubject.QUANTITY:
                return quantity
            case _:
                return quantity * 100 / price.included_quantity if price and price.included_quantity else None


def find_most_used(values: Iterable[tuple[Decimal, MeterPrice]]) -> tuple[Decimal, MeterPrice]:
    """Of quantities with their prices, the one of whose included quantity most is used up.

    values: at least one
    """
    subject = AlertSubject.PERCENT_OF_INCLUDED
    return max(values, key=lambda value: observed_value(subject, Decimal(0), None, *value) or Decimal(-1))
