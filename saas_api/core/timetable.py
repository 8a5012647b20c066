"""The timetable as data: every job, its cadence and why: `saas_api.schedule` keeps it, the console shows it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@dataclass(frozen=True)
class Entry:
    """One job and its cadence.

    every_seconds, offset_seconds: a slot begins at each multiple plus the offset, UTC
    """

    job: str
    every_seconds: int
    offset_seconds: int
    why: str

    def slot(self, at: datetime) -> datetime:
        """The newest slot that has begun."""
        since = int(at.timestamp()) - self.offset_seconds
        return datetime.fromtimestamp(since - since % self.every_seconds + self.offset_seconds, at.tzinfo)

    def next_slot(self, at: datetime) -> datetime:
        """The slot after it."""
        return self.slot(at) + timedelta(seconds=self.every_seconds)


TIMETABLE = (
    Entry("usage.roll_up", _MINUTE, 0, "dashboards read sums instead of events"),
    Entry("billing.alerts", _MINUTE, 0, "thresholds are told once a period, and the gate's counters set right"),
    Entry("webhooks.disable_failing", _HOUR, 50 * _MINUTE, "endpoints that failed for five days are left alone"),
    Entry("webhooks.purge", _DAY, 190 * _MINUTE, "events are kept for thirty days"),
    Entry("ops.purge", _DAY, 195 * _MINUTE, "idempotency keys, old runs and the mock's memory are cleared away"),
    Entry("billing.close", _HOUR, 5 * _MINUTE, "periods that have ended are closed and invoiced"),
    Entry("billing.invariants", 24 * _HOUR, 3 * _HOUR + 30 * _MINUTE, "what must be true of the books is read anew"),
    Entry("payments.inbox", _MINUTE, 0, "events of payment providers are worked off, announced or not"),
    Entry("payments.janitor", 5 * _MINUTE, 0, "payments of unknown outcome are asked about, refunds are sent"),
    Entry("payments.dunning", _MINUTE, 0, "unpaid invoices are pursued, and settled ones no longer"),
)
