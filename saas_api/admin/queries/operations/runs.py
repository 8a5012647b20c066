"""The timetable with its last runs, what waits in every table, and what the checks of the books found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.billing.queries.invariants import CHECKS, Check
from saas_api.core.timetable import Entry, scheduled_jobs

MOST_COUNTED = 100_000
_LAST = sa.text("""
SELECT j.job, r.scheduled_for, r.state, r.started_at, r.finished_at, r.attempts, r.host, r.error, ok.ok_at
FROM unnest(CAST(:jobs AS text[])) j (job)
LEFT JOIN LATERAL (SELECT * FROM job_runs r WHERE r.job = j.job ORDER BY r.scheduled_for DESC LIMIT 1) r ON true
LEFT JOIN LATERAL (SELECT r.finished_at AS ok_at FROM job_runs r WHERE r.job = j.job AND r.state = 'done'
  ORDER BY r.scheduled_for DESC LIMIT 1) ok ON true
""")
_OPEN = """SELECT '{table}' AS name, count(*) AS waiting,
  extract(epoch FROM now() - min(next_at) FILTER (WHERE next_at <= now()))::int AS late_seconds
  FROM (SELECT next_at FROM {table} WHERE {is_open} LIMIT :most) w"""
_WAITING = sa.text(
    " UNION ALL ".join(
        _OPEN.format(table=table, is_open=is_open)
        for table, is_open in (
            ("messages", "status IN ('queued', 'sending')"),
            ("webhook_deliveries", "status IN ('queued', 'sending')"),
            ("mails", "status IN ('queued', 'sending')"),
            ("provider_events", "state = 'received'"),
        )
    )
)
_FOUND = sa.text("""
SELECT c.name, last.at, last.violations, last.sample, coalesce(change.at, first.at) AS since
FROM unnest(CAST(:names AS text[])) c (name)
JOIN LATERAL (SELECT * FROM invariant_results r WHERE r.check_name = c.name ORDER BY r.at DESC LIMIT 1) last ON true
JOIN LATERAL (SELECT min(r.at) AS at FROM invariant_results r WHERE r.check_name = c.name) first ON true
LEFT JOIN LATERAL (SELECT r.at FROM invariant_results r WHERE r.check_name = c.name AND r.at > (
    SELECT max(o.at) FROM invariant_results o WHERE o.check_name = c.name
      AND (o.violations = 0) <> (last.violations = 0))
  ORDER BY r.at LIMIT 1) change ON true
""")
_ABOUT = {
    "ownership.time": "Usage lies in the period that pays for it.",
    "ownership.closed": "Nothing was recorded in a period after it had closed.",
    "amounts.quantity": "An invoice bills exactly what the ledger holds.",
    "amounts.rerated": "A line, rated again, comes to what it says.",
    "sums.lines": "An invoice's lines make its subtotal.",
    "sums.payments": "An invoice's payments make what it counts as paid.",
    "sums.credit_notes": "An invoice's credit notes make what it counts as credited.",
    "sums.grants": "A wallet's entries make what is left in it.",
    "numbers.gapless": "Invoice numbers have no gaps.",
    "coverage.chain": "Billing periods follow each other without gaps.",
    "coverage.now": "Every organization has a period that contains now.",
    "coverage.invoiced": "Every closed period has its invoice.",
    "rollup.ledger": "The sums that dashboards read are those of the ledger; a violation rebuilds them.",
    "money.in_flight": "No payment hangs undecided.",
}


@dataclass(frozen=True)
class Slot:
    """A job of the timetable and its newest run.

    run: None before the first
    """

    entry: Entry
    run: Any
    next_at: datetime
    is_late: bool

    @property
    def seconds(self) -> float | None:
        """How long the newest run took; None while it runs."""
        if self.run is None or self.run.finished_at is None:
            return None
        taken: float = (self.run.finished_at - self.run.started_at).total_seconds()
        return max(taken, 0.0)


@dataclass(frozen=True)
class Checked:
    """A check of the books and what its last run found.

    since: when it began to be so; None before the first run
    """

    check: Check
    about: str
    at: datetime | None
    violations: int
    since: datetime | None
    sample: Sequence[dict[str, Any]]


def timetable(session: Session, at: datetime) -> list[Slot]:
    """Every job of the timetable with its newest run; late is what missed two slots."""
    entries = scheduled_jobs()
    rows = {row.job: row for row in session.execute(_LAST, {"jobs": [entry.job for entry in entries]})}
    return [_slot(entry, rows[entry.job], at) for entry in entries]


def waiting(session: Session) -> Sequence[Any]:
    """How many rows of each table wait to be worked off, and for how many seconds the oldest is overdue."""
    return session.execute(_WAITING, {"most": MOST_COUNTED + 1}).all()


def checks(session: Session) -> list[Checked]:
    """Every check of the books, with what its last run found and since when."""
    rows = {row.name: row for row in session.execute(_FOUND, {"names": [check.name for check in CHECKS]})}
    return [_checked(check, rows.get(check.name)) for check in CHECKS]


def _slot(entry: Entry, row: Any, at: datetime) -> Slot:
    run = row if row.scheduled_for else None
    is_late = run is not None and (entry.slot(at) - run.scheduled_for).total_seconds() >= 2 * entry.every_seconds
    return Slot(entry, run, entry.next_slot(at), is_late)


def _checked(check: Check, row: Any) -> Checked:
    about = _ABOUT.get(check.name, "")
    if row is None:
        return Checked(check, about, None, 0, None, [])
    return Checked(check, about, row.at, row.violations, row.since, row.sample)
