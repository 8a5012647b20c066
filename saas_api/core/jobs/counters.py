"""Increment and flush_counters: statistics of drains."""

from collections import Counter

import sqlalchemy as sa

from saas_api.core.db import tenancy
from saas_api.core.observability import get_logger

log = get_logger(__name__)
_pending_counts: Counter[tuple[str, str]] = Counter()
_COUNT = sa.text("""
INSERT INTO delivery_counters AS c (name, labels, value)
SELECT * FROM unnest(CAST(:names AS text[]), CAST(:labels AS text[]), CAST(:values AS bigint[])) ORDER BY 1, 2
ON CONFLICT (name, labels) DO UPDATE SET value = c.value + excluded.value
""")


def increment(name: str, label: str, by: int = 1) -> None:
    """Count something that a drain did, such as ("webhook_attempts_total", "ok"); `write_tally` writes it down."""
    _pending_counts[name, label] += by


def flush_counters() -> None:
    """Add what was counted to the counters; statistics, whose failure holds up nothing."""
    counted = {names: value for names, value in _pending_counts.items() if value}
    _pending_counts.clear()
    if not counted:
        return
    values = {
        "names": [name for name, _ in counted],
        "labels": [label for _, label in counted],
        "values": list(counted.values()),
    }
    try:
        with tenancy.system_session("queue.runs") as session:
            session.execute(_COUNT, values)
    except sa.exc.SQLAlchemyError:
        log.warning("counters_not_written", exc_info=True)
