"""Usage without a database: what an event is, which days a range means, how success is counted."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

LONGEST_RANGE_DAYS = 366
DEFAULT_RANGE_DAYS = 30
QUARTER_HOUR_SECONDS = 900


class BadRange(Exception):
    """A pair of dates that names no range.

    field: the date that is wrong
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Usage:
    """One metered call, as it enters the ledger.

    source: what metered it, such as "messages.send"
    key: counts once for ever within organization and source
    quantity: in the meter's unit, above 0
    at: when it happened
    """

    id: UUID
    source: str
    key: str
    meter: str
    quantity: Decimal | int
    at: datetime
    api_key_id: UUID | None = None
    message_id: UUID | None = None


@dataclass(frozen=True)
class QuotaCounter:
    """One of the gate's counters.

    name: the meter
    units: what this request adds
    ceiling: most units a period may hold, -1 for no ceiling
    known: units used so far, as far as this process knows
    """

    name: str
    units: int
    ceiling: int
    known: int


@dataclass(frozen=True)
class Days:
    """Whole local days, both inclusive."""

    first: date
    last: date
    zone: ZoneInfo

    @property
    def starts_at(self) -> datetime:
        """First instant of the first day."""
        return first_instant(self.first, self.zone)

    @property
    def ends_at(self) -> datetime:
        """First instant after the last day."""
        return first_instant(self.last + timedelta(days=1), self.zone)

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))


def first_instant(day: date, zone: ZoneInfo) -> datetime:
    """First instant of a local day in UTC; the first existing one where midnight was skipped."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def read_days(first: date | None, last: date | None, today: date, zone: ZoneInfo) -> Days:
    """The range a pair of dates names; what is left out is filled up to thirty days that end today.

    raises: BadRange for a reversed pair or more than 366 days
    """
    last = last or max(today, first or today)
    first = first or last - timedelta(days=min(DEFAULT_RANGE_DAYS - 1, last.toordinal() - 1))
    if first > last:
        raise BadRange("end_date", "Must not be before start_date.")
    if (last - first).days >= LONGEST_RANGE_DAYS:
        raise BadRange("end_date", f"At most {LONGEST_RANGE_DAYS} days.")
    if first.year < 2 or last.year > 9998:  # zones shift the first and last year out of the calendar
        raise BadRange("start_date", "Outside the calendar.")
    return Days(first, last, zone)


def success_rate(accepted: int, failed: int) -> Decimal:
    """Share of accepted among accepted and failed, in percent with two decimals; 100 when there was none."""
    if accepted + failed == 0:
        return Decimal(100)
    return (Decimal(100) * accepted / (accepted + failed)).quantize(Decimal("0.01"), ROUND_HALF_UP)


def quarter_hour(at: datetime) -> datetime:
    """Start of the quarter hour; every zone's hours are made of them."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % QUARTER_HOUR_SECONDS, UTC)
