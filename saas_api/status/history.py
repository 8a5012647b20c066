"""Minutes that each component spent in each state, by day."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.db.tenancy import SystemSession
from saas_api.status.components import Component, ComponentState

SHOWN_DAYS = 90
_MINUTE = timedelta(minutes=1)
_NOTICED_MINUTES = 5
"""Shorter problems leave a day's bar as it is; they count in the share of time."""
_ADD_MINUTES = text("""
INSERT INTO status_days AS d (component, day, ok_minutes, slow_minutes, down_minutes)
SELECT s.component, :day, :minutes * (s.state = 'ok')::int, :minutes * (s.state = 'slow')::int,
    :minutes * (s.state = 'down')::int
  FROM unnest(CAST(:components AS text[]), CAST(:states AS text[])) AS s (component, state)
ON CONFLICT (component, day) DO UPDATE SET ok_minutes = d.ok_minutes + excluded.ok_minutes,
  slow_minutes = d.slow_minutes + excluded.slow_minutes, down_minutes = d.down_minutes + excluded.down_minutes
""")
_DAYS = text("""
SELECT component, day, ok_minutes, slow_minutes, down_minutes FROM status_days WHERE day > :before ORDER BY day
""")


@dataclass(frozen=True)
class StatusDay:
    """Minutes of a component in each state on a UTC day; minutes in which nothing was measured are in none."""

    day: date
    ok_minutes: int = 0
    slow_minutes: int = 0
    down_minutes: int = 0

    @property
    def measured_minutes(self) -> int:
        return self.ok_minutes + self.slow_minutes + self.down_minutes

    @property
    def state(self) -> ComponentState | None:
        """The worst state of at least five minutes; None for a day without a measurement."""
        if not self.measured_minutes:
            return None
        if self.down_minutes >= _NOTICED_MINUTES:
            return ComponentState.DOWN
        has_problems = self.slow_minutes + self.down_minutes >= _NOTICED_MINUTES
        return ComponentState.SLOW if has_problems else ComponentState.OK


@dataclass(frozen=True)
class ComponentHistory:
    """The days of a component, the oldest first, one for each of SHOWN_DAYS."""

    days: Sequence[StatusDay]

    @property
    def uptime(self) -> Decimal | None:
        """Share of the measured time in which the component was not down, with four decimals, rounded down.

        None without a measurement.
        """
        measured = sum(day.measured_minutes for day in self.days)
        if not measured:
            return None
        up = Decimal(measured - sum(day.down_minutes for day in self.days)) / measured
        return up.quantize(Decimal("0.0001"), ROUND_DOWN)


def record_minute(session: SystemSession, states: Mapping[Component, ComponentState], day: date) -> None:
    """Add a minute of a UTC day to the state in which each component is."""
    _add_minutes(session, states, day, 1)


def record_outage(session: SystemSession, component: Component, starts_at: datetime, ends_at: datetime) -> None:
    """Add the whole minutes of a time, in UTC, to those in which a component was down."""
    minutes = (starts_at + _MINUTE * number for number in range((ends_at - starts_at) // _MINUTE))
    for day, count in Counter(minute.date() for minute in minutes).items():
        _add_minutes(session, {component: ComponentState.DOWN}, day, count)


def _add_minutes(session: SystemSession, states: Mapping[Component, ComponentState], day: date, minutes: int) -> None:
    values = {"day": day, "components": list(states), "states": list(states.values()), "minutes": minutes}
    session.execute(_ADD_MINUTES, values)


def list_histories(session: Session, today: date) -> dict[Component, ComponentHistory]:
    """The history of each component until a UTC day, which is included.

    session: a system session
    """
    first = today - timedelta(days=SHOWN_DAYS - 1)
    recorded = {
        (component, day): StatusDay(day, *minutes)
        for component, day, *minutes in session.execute(_DAYS, {"before": first - timedelta(days=1)})
    }
    days = [first + timedelta(days=number) for number in range(SHOWN_DAYS)]
    return {
        component: ComponentHistory([recorded.get((component, day), StatusDay(day)) for day in days])
        for component in Component
    }
