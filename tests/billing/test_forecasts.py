"""Usage of the whole period, as if that under the version in force went on at its pace."""

from decimal import Decimal

from saas_api.billing import current_period
from saas_api.billing.rating.bill import BillInputs, ProratedSegment, UsageQuantity
from saas_api.billing.rating.plan_changes import PlanSegment
from tests.support.billing import day

APRIL_SECONDS = 30 * 86_400
SEGMENTS = (
    ProratedSegment("team@1", day(1), day(11)),
    ProratedSegment("pro@1", day(11), day(19)),
    ProratedSegment("team@1", day(19), day(1, month=5)),
)


def project(at: int, **quantities: int) -> dict[str, Decimal] | None:
    used = tuple(UsageQuantity(f"{plan}@1", "lookups", Decimal(quantity)) for plan, quantity in quantities.items())
    inputs = BillInputs(day(1), day(1, month=5), APRIL_SECONDS, {}, SEGMENTS, used)
    projected = current_period.project_usage(inputs, PlanSegment("team@1", day(19)), None, day(at))
    return projected and {usage.version_id: usage.quantity for usage in projected}


def test_pace_counts_all_days_on_a_version_that_came_back() -> None:
    # 12 days on team until the 21st, and 10 more to come.
    assert project(21, team=1_200, pro=80) == {"team@1": Decimal(2_200), "pro@1": Decimal(80)}


def test_usage_on_the_first_day_of_a_version_that_came_back_is_projected() -> None:
    assert project(19, team=1_000) == {"team@1": Decimal(2_200)}
