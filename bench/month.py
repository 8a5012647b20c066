"""Benchmark of month end: one worker closes and invoices organizations, as the hourly job does."""

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import text

from bench import report
from bench.application import running_application
from bench.consumption import Engines, tree_seconds
from saas_api.billing import period_close
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.ledger import USAGE_COLUMNS, append_sql

MIN_ORGANIZATIONS_PER_SECOND = 200
_BATCH = 500
_APRIL, _MAY = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)

# Each organization has its next period, and an owner who gets the mail of the invoice; one of ten has an endpoint,
# which gets events. Half of them pay for pro, and all have used twenty segments and twenty emails.
_CREATE = """
CREATE TEMPORARY TABLE new ON COMMIT DROP AS
  SELECT n, gen_random_uuid() AS id, gen_random_uuid() AS user_id, gen_random_uuid() AS subscription_id,
    gen_random_uuid() AS period_id FROM generate_series(%(first)s, %(last)s) n;
INSERT INTO users (id, email, full_name, password_hash, email_verified_at)
  SELECT user_id, 'alice' || n || '@acme.example', 'Alice', 'none', now() FROM new;
INSERT INTO organizations (id, name, slug, created_at) SELECT id, 'Acme ' || n, 'acme-' || n, %(april)s FROM new;
INSERT INTO memberships (organization_id, user_id, role) SELECT id, user_id, 'owner' FROM new;
INSERT INTO webhook_endpoints (organization_id, url) SELECT id, 'https://a.example/h' FROM new WHERE n %% 10 = 0;
INSERT INTO billing_profiles (organization_id) SELECT id FROM new;
INSERT INTO subscriptions (organization_id, id, started_at) SELECT id, subscription_id, %(april)s FROM new;
INSERT INTO subscription_segments (organization_id, subscription_id, seq, plan_version_id, starts_at)
  SELECT id, subscription_id, 1, CASE n %% 2 WHEN 0 THEN 'free@1' ELSE 'pro@1' END, %(april)s FROM new;
INSERT INTO billing_periods (organization_id, id, subscription_id, seq, starts_at, ends_at, nominal_seconds, timezone)
  SELECT id, period_id, subscription_id, 1, %(april)s, %(may)s, 2592000, 'UTC' FROM new
  UNION ALL SELECT id, gen_random_uuid(), subscription_id, 2, %(may)s, %(june)s, 2678400, 'UTC' FROM new;
""" + append_sql(
    USAGE_COLUMNS,
    """SELECT new.id, 'bench', meter || event, meter, 100, %(april)s + event * interval '1 day', period_id, p.month
      FROM new JOIN billing_periods p ON p.organization_id = new.id AND p.id = period_id,
        unnest(ARRAY['sms', 'email']) meter, generate_series(1, 20) event""",
)
_CLOSED_AT = text("SELECT closed_at FROM billing_periods WHERE seq = 1 ORDER BY closed_at")
_WRITTEN = text("""SELECT count(*) AS invoices, sum(total_minor) AS total_minor, max(serial) AS last_serial,
  (SELECT sum(amount_minor) FROM invoice_lines) AS lines_minor, (SELECT count(*) FROM mails) AS mails,
  (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM audit_events) AS audit_events FROM invoices""")
_MINOR_FREE, _MINOR_PRO = 1_100, 9_900 + 1_100
"""2,000 segments and 2,000 emails. On free the first 1,000 of each cost nothing, on pro all cost half as much each."""


@dataclass(frozen=True)
class Measurement:
    """What month end costs.

    quarters: organizations a second of each quarter of them, in order
    *_ms: milliseconds of CPU for one organization
    """

    organizations: int
    organizations_per_second: int
    quarters: list[int]
    worker_ms: float
    database_ms: float

    @property
    def missed_targets(self) -> str:
        """Names of the missed targets."""
        return "speed" if self.organizations_per_second < MIN_ORGANIZATIONS_PER_SECOND else ""


def run(seconds: float, _connections: int) -> dict[str, Any]:
    """Close as many organizations as the target closes in some seconds, and print a table.

    Fails when an invoice, a mail, an event or a cent is missing.
    """
    organizations = max(4, round(seconds * MIN_ORGANIZATIONS_PER_SECOND))
    with running_application(APP_URL="http://localhost", DEFAULT_SPEND_CAP="none") as app, app.app_context():
        _create(organizations)
        clock.freeze_time(_MAY + timedelta(hours=2))
        engines, started_at = Engines(app), datetime.now(UTC)
        worker_before, database_before = time.process_time(), tree_seconds(engines.postgres)
        result = period_close.close_due(clock.now())
        worker_seconds = time.process_time() - worker_before
        database_seconds = tree_seconds(engines.postgres) - database_before
        ended_at = datetime.now(UTC)
        _verify(organizations, len(result.invoices))
        measurement = Measurement(
            organizations,
            round(organizations / (ended_at - started_at).total_seconds()),
            _rates_of_quarters(started_at, ended_at),
            round(worker_seconds / organizations * 1e3, 2),
            round(database_seconds / organizations * 1e3, 2),
        )
        clock.freeze_time(None)
    _print(measurement)
    return asdict(measurement)


def _create(organizations: int) -> None:
    with report.progress("month, organizations", organizations) as bar:
        for first in range(1, organizations + 1, _BATCH):
            last = min(first + _BATCH - 1, organizations)
            bounds = {"first": first, "last": last, "april": _APRIL, "may": _MAY, "june": _MAY + timedelta(days=31)}
            with tenancy.system_session("demo.seed") as session:
                session.connection().exec_driver_sql(_CREATE, bounds)
            bar.update(last - first + 1)


def _rates_of_quarters(started_at: datetime, ended_at: datetime) -> list[int]:
    """A quarter ends when the next one begins to be closed, because its last invoices follow its last closing."""
    with tenancy.system_session("demo.seed") as session:
        closed_at = session.scalars(_CLOSED_AT).all()
    count = len(closed_at)
    bounds = [started_at, *(closed_at[count * quarter // 4] for quarter in range(1, 4)), ended_at]
    return [round(count / 4 / (end - start).total_seconds()) for start, end in pairwise(bounds)]


def _verify(organizations: int, reported: int) -> None:
    with tenancy.system_session("demo.seed") as session:
        written = session.execute(_WRITTEN).one()
    on_free = organizations // 2
    expected_minor = on_free * _MINOR_FREE + (organizations - on_free) * _MINOR_PRO
    expected = (*[organizations, expected_minor, organizations, expected_minor], *[organizations, organizations // 10])
    if reported != organizations or tuple(written[:-1]) != expected or written.audit_events < organizations:
        raise RuntimeError(f"{organizations} organizations were closed, {reported} reported, and there are {written}")


def _print(measurement: Measurement) -> None:
    header = ("organizations", "a second", "quarters", "worker ms", "database ms", "missed")
    row = (
        measurement.organizations,
        measurement.organizations_per_second,
        " ".join(map(str, measurement.quarters)),
        measurement.worker_ms,
        measurement.database_ms,
        measurement.missed_targets,
    )
    report.print_table(header, [row])
