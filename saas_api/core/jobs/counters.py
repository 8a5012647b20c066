"""Counters of drains, summed in memory and added to PostgreSQL at the end of a drain."""

from collections import Counter

import sqlalchemy as sa

from saas_api.core.db import tenancy
from saas_api.core.observability import get_logger

log = get_logger(__name__)
_pending_counts: Counter[tuple[str, str]] = Counter()
_ADD_COUNTS = sa.text("""
INSERT INTO delivery_counters AS c (name, labels, value)
SELECT * FROM unnest(CAST(:names AS text[]), CAST(:labels AS text[]), CAST(:values AS bigint[])) ORDER BY 1, 2
ON CONFLICT (name, labels) DO UPDATE SET value = c.value + excluded.value
""")


def increment(name: str, label: str, by: int = 1) -> None:
    """Add to a counter, such as ("webhook_attempts_total", "ok"), which `flush_counters` writes."""
    _pending_counts[name, label] += by


def flush_counters() -> None:
    """Write the pending counts. A failure is logged and loses them, as they are only statistics."""
    counts = {key: value for key, value in _pending_counts.items() if value}
    _pending_counts.clear()
    if not counts:
        return
    values = {
        "names": [name for name, _ in counts],
        "labels": [label for _, label in counts],
        "values": list(counts.values()),
    }
    try:
        with tenancy.system_session("queue.runs") as session:
            session.execute(_ADD_COUNTS, values)
    except sa.exc.SQLAlchemyError:
        log.warning("counters_not_written", exc_info=True)
