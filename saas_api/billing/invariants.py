"""Nightly checks of ledger, periods, invoices and wallets; a violation puts the billing of its organization on hold."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import plans
from saas_api.billing.models import BillingProfile, InvariantResult, PlanVersion
from saas_api.billing.rating import charges, explanation
from saas_api.billing.rating.bill import LineKind
from saas_api.billing.rating.charges import MeterPrice
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict
from saas_api.core.ids import NIL_UUID
from saas_api.core.observability import get_logger
from saas_api.usage import quantities, rollups
from saas_api.usage.ledger import IN_LEDGER
from saas_api.usage.quantities import EXACT_COLUMNS
from saas_api.usage.rollups import DIMENSIONS_SQL, IS_ROLLED

log = get_logger(__name__)


@dataclass(frozen=True)
class InvariantCheck:
    """A statement about the stored data that must be true.

    sql: selects the violations, as (organization_id, what)
    holds_billing: whether a violation stops the finalization of the organization's invoices
    """

    name: str
    sql: str
    holds_billing: bool = True


class CheckInProgress(Conflict):
    """Another process runs the checks; two at once would only slow each other down."""

    code, message = "ALREADY_CHECKING", "The checks are running already."


@dataclass(frozen=True)
class Violation:
    """A violation of a check.

    organization_id: None for data of the platform, such as number series
    """

    organization_id: UUID | None
    what: str


@dataclass(frozen=True)
class CheckResult:
    """Violations that a check found."""

    check: InvariantCheck
    violations: list[Violation]


def _per_organization(alias: str) -> str:
    return f"(CAST(:organization_id AS uuid) IS NULL OR {alias}.organization_id = :organization_id)"


_ALLOWED_DELAY = "CASE WHEN p.is_cut THEN interval '5 minutes' ELSE interval '0' END"

USAGE_WITHIN_PERIOD = f"""
SELECT e.organization_id, 'event ' || e.id || ' lies outside its period' AS what
FROM usage_events e
JOIN billing_periods paying
  ON (paying.organization_id, paying.id, paying.month) = (e.organization_id, e.billing_period_id, e.month)
JOIN billing_periods p
  ON (p.organization_id, p.id) = (e.organization_id, coalesce(e.late_for_period_id, e.billing_period_id))
WHERE {_per_organization("e")} AND paying.ends_at >= :since
  AND NOT (e.occurred_at >= p.starts_at AND e.occurred_at < p.ends_at + {_ALLOWED_DELAY})"""

NO_USAGE_AFTER_CLOSE = f"""
SELECT e.organization_id, 'event ' || e.id || ' was recorded after its period had closed' AS what
FROM billing_periods p
JOIN usage_events e ON (e.organization_id, e.billing_period_id, e.month) = (p.organization_id, p.id, p.month)
WHERE {_per_organization("p")} AND p.ends_at >= :since AND e.recorded_at > p.closed_at"""

# Late usage of meters that do not add up has no quantity of its own: what it adds depends on all other events.
_EXACT = quantities.exact_sql(
    "organization_id, invoice_id, plan_version_id, meter_code, dimension_value",
    """SELECT * FROM events e WHERE aggregation NOT IN ('sum', 'count') AND late_for_period_id IS NULL
      AND reversal_of IS NULL AND NOT EXISTS (SELECT FROM usage_events r WHERE r.organization_id = e.organization_id
        AND r.reversal_of = e.id AND r.billing_period_id = e.billing_period_id)""",
)
_BILLED_QUANTITIES = f"""
WITH billed AS (
  SELECT i.organization_id, i.id AS invoice_id, i.billing_period_id, i.number, p.month
  FROM invoices i JOIN billing_periods p ON (p.organization_id, p.id) = (i.organization_id, i.billing_period_id)
  WHERE {_per_organization("i")} AND i.kind = 'cycle' AND i.state <> 'void' AND p.ends_at >= :since AND {IN_LEDGER}),
plans AS (
  SELECT s.organization_id, s.plan_version_id, s.starts_at, lead(s.starts_at) OVER (
    PARTITION BY s.organization_id ORDER BY s.seq) AS until
  FROM subscription_segments s WHERE {_per_organization("s")}),
events AS (
  SELECT b.organization_id, b.invoice_id, b.billing_period_id, e.late_for_period_id, s.plan_version_id, e.meter_code,
    coalesce(d.dimension_value, '') AS dimension_value, e.reversal_of, {EXACT_COLUMNS}
  FROM billed b
  JOIN usage_events e
    ON (e.organization_id, e.billing_period_id, e.month) = (b.organization_id, b.billing_period_id, b.month)
  JOIN meters m ON m.code = e.meter_code
  JOIN plans s ON s.organization_id = e.organization_id AND s.starts_at <= e.occurred_at
    AND (s.until IS NULL OR s.until > e.occurred_at)
  {quantities.price_join("s.plan_version_id", "e.meter_code", "e.properties")}),
ledger AS (
  SELECT organization_id, invoice_id, late_for_period_id, plan_version_id, meter_code, dimension_value,
    sum(quantity) AS quantity
  FROM events WHERE aggregation IN ('sum', 'count') GROUP BY 1, 2, 3, 4, 5, 6
  UNION ALL
  SELECT organization_id, invoice_id, NULL, plan_version_id, meter_code, dimension_value, quantity
  FROM ({_EXACT}) exact),
lines AS (
  SELECT l.organization_id, l.invoice_id, l.late_for_period_id, l.plan_version_id, l.meter_code,
    coalesce(l.calculation ->> 'dimension_value', '') AS dimension_value, l.quantity
  FROM billed b JOIN invoice_lines l ON (l.organization_id, l.invoice_id) = (b.organization_id, b.invoice_id)
  WHERE l.kind = 'usage' OR l.kind = 'late_usage' AND NOT l.calculation ? 'aggregation')"""
QUANTITY_IS_LEDGER_SUM = f"""{_BILLED_QUANTITIES}
SELECT coalesce(f.organization_id, l.organization_id) AS organization_id,
  'invoice ' || coalesce(f.invoice_id, l.invoice_id) || ' bills ' || coalesce(l.quantity, 0) || ' '
    || coalesce(f.meter_code, l.meter_code) || ', the ledger has ' || coalesce(f.quantity, 0) AS what
FROM (SELECT * FROM ledger WHERE quantity <> 0) f
FULL JOIN lines l ON (l.organization_id, l.invoice_id, l.plan_version_id, l.meter_code, l.dimension_value)
    = (f.organization_id, f.invoice_id, f.plan_version_id, f.meter_code, f.dimension_value)
  AND coalesce(l.late_for_period_id, l.invoice_id) = coalesce(f.late_for_period_id, f.invoice_id)
WHERE coalesce(f.quantity, 0) <> coalesce(l.quantity, 0)"""

SUBTOTAL_IS_SUM_OF_LINES = f"""
SELECT i.organization_id, 'invoice ' || i.id || ' has subtotal ' || i.subtotal_minor || ', its lines '
  || coalesce(l.minor, 0) AS what
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(amount_minor) AS minor FROM invoice_lines GROUP BY 1, 2) l
  ON (l.organization_id, l.invoice_id) = (i.organization_id, i.id)
WHERE {_per_organization("i")} AND i.subtotal_minor <> coalesce(l.minor, 0)"""

PAID_IS_SUM_OF_PAYMENTS = f"""
SELECT i.organization_id, 'invoice ' || i.id || ' has ' || i.paid_minor || ' paid, its payments '
  || coalesce(p.minor, 0) AS what
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(allocated_minor) AS minor FROM payments GROUP BY 1, 2) p
  ON (p.organization_id, p.invoice_id) = (i.organization_id, i.id)
WHERE {_per_organization("i")} AND i.paid_minor <> coalesce(p.minor, 0)"""

CREDITED_IS_SUM_OF_CREDIT_NOTES = f"""
SELECT i.organization_id, 'invoice ' || i.id || ' has ' || i.credited_minor || ' credited, its notes '
  || coalesce(n.minor, 0) AS what
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(total_minor) AS minor, sum(to_due_minor) AS due_minor
           FROM credit_notes GROUP BY 1, 2) n ON (n.organization_id, n.invoice_id) = (i.organization_id, i.id)
WHERE {_per_organization("i")}
  AND (i.credited_minor, i.reduced_minor) <> (coalesce(n.minor, 0), coalesce(n.due_minor, 0))
UNION ALL
SELECT n.organization_id, 'credit note ' || n.number || ' is ' || n.total_minor || ', its lines '
  || coalesce(l.minor, 0)
FROM credit_notes n
LEFT JOIN (SELECT organization_id, credit_note_id, sum(amount_minor) AS minor FROM credit_note_lines GROUP BY 1, 2) l
  ON (l.organization_id, l.credit_note_id) = (n.organization_id, n.id)
WHERE {_per_organization("n")} AND n.total_minor - n.tax_minor <> coalesce(l.minor, 0)"""

GRANT_REMAINDER_IS_SUM_OF_ENTRIES = f"""
SELECT g.organization_id, 'grant ' || g.source_key || ' has ' || g.remaining_minor || ' left of ' || g.amount_minor
  || ', its entries are ' || coalesce(e.minor, 0) AS what
FROM credit_grants g
LEFT JOIN (SELECT organization_id, grant_id, sum(delta_minor) AS minor FROM credit_entries GROUP BY 1, 2) e
  ON (e.organization_id, e.grant_id) = (g.organization_id, g.id)
WHERE {_per_organization("g")} AND g.remaining_minor <> g.amount_minor + coalesce(e.minor, 0)
UNION ALL
SELECT i.organization_id, 'invoice ' || i.id || ' took ' || i.credits_applied_minor || ' from the wallet, its entries '
  || coalesce(-e.minor, 0)
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(delta_minor) AS minor FROM credit_entries
           WHERE invoice_id IS NOT NULL GROUP BY 1, 2) e
  ON (e.organization_id, e.invoice_id) = (i.organization_id, i.id)
WHERE {_per_organization("i")} AND i.credits_applied_minor <> coalesce(-e.minor, 0)"""

NUMBERS_WITHOUT_GAPS = """
SELECT CAST(NULL AS uuid) AS organization_id, 'series ' || coalesce(s.series, n.series) || ': ' || coalesce(n.count, 0)
  || ' numbers from ' || coalesce(n.first, 0) || ' to ' || coalesce(n.last, 0) || ', last given '
  || coalesce(s.last_value, 0) AS what
FROM number_series s
FULL JOIN (SELECT series, min(serial) AS first, max(serial) AS last, count(*) AS count
           FROM (SELECT series, serial FROM invoices WHERE serial IS NOT NULL
                 UNION ALL SELECT series, serial FROM credit_notes
                 UNION ALL SELECT series, serial FROM moved_numbers WHERE has_left) given
           WHERE NOT EXISTS (SELECT FROM moved_numbers m WHERE NOT m.has_left
                             AND m.series = given.series AND m.serial = given.serial)
           GROUP BY series) n ON n.series = s.series
WHERE CAST(:organization_id AS uuid) IS NULL
  AND (n.first, n.last, n.count) IS DISTINCT FROM (CAST(1 AS bigint), s.last_value, s.last_value)"""

PERIODS_WITHOUT_GAPS = f"""
SELECT organization_id, kind || ' ' || seq || ' does not begin where the one before it ends' AS what
FROM (
  SELECT p.organization_id, 'period' AS kind, p.seq, p.starts_at, row_number() OVER own AS nth,
    lag(p.ends_at) OVER own AS previous FROM billing_periods p
  WHERE {_per_organization("p")} WINDOW own AS (PARTITION BY p.organization_id ORDER BY p.seq)
  UNION ALL
  SELECT s.organization_id, 'segment', s.seq, s.starts_at, row_number() OVER own, lag(s.ends_at) OVER own
  FROM subscription_segments s
  WHERE {_per_organization("s")} WINDOW own AS (PARTITION BY s.organization_id ORDER BY s.seq)) chain
WHERE seq <> nth OR nth > 1 AND starts_at IS DISTINCT FROM previous"""

CURRENT_PERIOD_EXISTS = f"""
SELECT u.organization_id, 'no ' || missing.kind || ' contains now' AS what
FROM subscriptions u
JOIN organizations o ON o.id = u.organization_id AND o.closed_at IS NULL AND o.status <> 'closed'
CROSS JOIN LATERAL (
  SELECT 'period' AS kind WHERE NOT EXISTS (SELECT FROM billing_periods p WHERE p.organization_id = u.organization_id
    AND p.starts_at <= :at AND p.ends_at > :at)
  UNION ALL
  SELECT 'plan' WHERE NOT EXISTS (SELECT FROM subscription_segments s WHERE s.organization_id = u.organization_id
    AND s.starts_at <= :at AND (s.ends_at IS NULL OR s.ends_at > :at))) missing
WHERE {_per_organization("u")} AND u.state = 'active'
UNION ALL
SELECT o.id, 'no account' FROM organizations o
WHERE o.closed_at IS NULL AND o.status <> 'closed' AND o.created_at < CAST(:at AS timestamptz) - interval '2 hours'
  AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)
  AND NOT EXISTS (SELECT FROM subscriptions u WHERE u.organization_id = o.id)"""

CLOSED_PERIODS_ARE_INVOICED = f"""
SELECT p.organization_id, 'period ' || p.seq || ' is closed since ' || p.closed_at || ' and not invoiced' AS what
FROM billing_periods p
WHERE {_per_organization("p")} AND p.state = 'closed' AND p.closed_at < now() - interval '2 hours'"""

_IN_FORCE_AT = """LEFT JOIN subscription_segments s ON s.organization_id = {0}.organization_id
        AND s.starts_at <= {0}.{1} AND (s.ends_at IS NULL OR s.ends_at > {0}.{1})"""
ROLLUPS_MATCH_LEDGER = f"""
SELECT organization_id, meter_code || ' of a period on ' || plan_version_id || ': rollups have '
  || coalesce(r.quantity, 0) || ', the ledger ' || coalesce(e.quantity, 0) AS what
FROM (SELECT e.organization_id, e.billing_period_id, coalesce(e.late_for_period_id, '{NIL_UUID}') AS late_for_period_id,
        coalesce(s.plan_version_id, 'no plan') AS plan_version_id, e.meter_code, {DIMENSIONS_SQL} AS dimensions,
        sum(e.quantity) AS quantity
      FROM usage_events e CROSS JOIN usage_watermark w
      JOIN meters m ON m.code = e.meter_code
      JOIN billing_periods p
        ON (p.organization_id, p.id, p.month) = (e.organization_id, e.billing_period_id, e.month)
      {_IN_FORCE_AT.format("e", "occurred_at")}
      WHERE {_per_organization("e")} AND p.ends_at >= :since AND {IN_LEDGER} AND {IS_ROLLED}
      GROUP BY 1, 2, 3, 4, 5, 6) e
FULL JOIN (
  SELECT r.organization_id, r.billing_period_id, r.late_for_period_id,
    coalesce(s.plan_version_id, 'no plan') AS plan_version_id, r.meter_code, r.dimensions, sum(r.quantity) AS quantity
  FROM usage_rollups r JOIN billing_periods p ON (p.organization_id, p.id) = (r.organization_id, r.billing_period_id)
  {_IN_FORCE_AT.format("r", "bucket_at")}
  WHERE {_per_organization("r")} AND p.ends_at >= :since AND {IN_LEDGER} GROUP BY 1, 2, 3, 4, 5, 6) r
  USING (organization_id, billing_period_id, late_for_period_id, plan_version_id, meter_code, dimensions)
WHERE coalesce(r.quantity, 0) <> coalesce(e.quantity, 0)"""

NO_PAYMENT_STUCK = f"""
SELECT p.organization_id, 'payment ' || p.id || ' is in flight since ' || p.created_at AS what
FROM payments p WHERE {_per_organization("p")} AND p.state IN ('created', 'pending', 'requires_action')
  AND p.created_at < CAST(:at AS timestamptz) - interval '8 days'"""

# Selects lines, not violations: `_rating_violations` calculates each of them again.
LINES_TO_RERATE = f"""
SELECT l.organization_id, l.id, l.kind, l.plan_version_id, l.meter_code, l.quantity, l.amount_minor, l.calculation,
  i.currency
FROM invoice_lines l JOIN invoices i ON (i.organization_id, i.id) = (l.organization_id, l.invoice_id)
WHERE {_per_organization("l")} AND l.kind <> 'manual' AND i.created_at >= :since"""

SETTLED_HOLDS_ARE_RECORDED = f"""
SELECT h.organization_id, 'hold ' || h.id || ' was settled with ' || h.settled_quantity || ', the ledger has '
  || coalesce(e.quantity, 0) AS what
FROM holds h
LEFT JOIN usage_event_keys k
  ON (k.organization_id, k.source, k.idempotency_key) = (h.organization_id, h.source, h.idempotency_key)
LEFT JOIN usage_events e ON (e.organization_id, e.id, e.month) = (k.organization_id, k.event_id, k.month)
WHERE {_per_organization("h")} AND h.status = 'settled' AND h.mode = 'live' AND h.ended_at >= :since
  AND ((k.event_id, k.quantity) IS DISTINCT FROM (h.usage_event_id, h.settled_quantity)
    OR (e.meter_code, e.quantity) <> (h.meter_code, h.settled_quantity))"""

# The key that is kept for ever is what makes an event count once, and where a repeat and a reversal find it.
EVENTS_HAVE_THEIR_KEY = f"""
SELECT e.organization_id, 'event ' || e.id || ' has no key, or that of another' AS what
FROM usage_events e
JOIN billing_periods p ON (p.organization_id, p.id, p.month) = (e.organization_id, e.billing_period_id, e.month)
LEFT JOIN usage_event_keys k
  ON (k.organization_id, k.source, k.idempotency_key) = (e.organization_id, e.source, e.idempotency_key)
WHERE {_per_organization("e")} AND p.ends_at >= :since
  AND (k.event_id, k.month, k.quantity) IS DISTINCT FROM (e.id, e.month, e.quantity)
UNION ALL
SELECT k.organization_id, 'key ' || k.idempotency_key || ' of ' || k.source || ' has no event'
FROM usage_event_keys k LEFT JOIN usage_events e ON (e.organization_id, e.id, e.month) = (k.organization_id, k.event_id,
  k.month)
WHERE {_per_organization("k")} AND e.id IS NULL AND k.month >= CAST(:since AS timestamptz) - interval '1 month'
  AND k.month NOT IN (SELECT month FROM archived_partitions WHERE table_name = 'usage_events')"""

LINES_MATCH_RATING = "amounts.rerated"
ROLLUP_CHECK = "rollup.ledger"
INVARIANTS = (
    InvariantCheck("ownership.time", USAGE_WITHIN_PERIOD),
    InvariantCheck("ownership.closed", NO_USAGE_AFTER_CLOSE),
    InvariantCheck("amounts.quantity", QUANTITY_IS_LEDGER_SUM),
    InvariantCheck(LINES_MATCH_RATING, LINES_TO_RERATE),
    InvariantCheck("sums.lines", SUBTOTAL_IS_SUM_OF_LINES),
    InvariantCheck("sums.payments", PAID_IS_SUM_OF_PAYMENTS),
    InvariantCheck("sums.credit_notes", CREDITED_IS_SUM_OF_CREDIT_NOTES),
    InvariantCheck("sums.grants", GRANT_REMAINDER_IS_SUM_OF_ENTRIES),
    InvariantCheck("numbers.gapless", NUMBERS_WITHOUT_GAPS),
    InvariantCheck("coverage.chain", PERIODS_WITHOUT_GAPS),
    InvariantCheck("coverage.now", CURRENT_PERIOD_EXISTS),
    InvariantCheck("coverage.invoiced", CLOSED_PERIODS_ARE_INVOICED),
    InvariantCheck(ROLLUP_CHECK, ROLLUPS_MATCH_LEDGER, holds_billing=False),
    InvariantCheck("money.in_flight", NO_PAYMENT_STUCK),
    InvariantCheck("holds.recorded", SETTLED_HOLDS_ARE_RECORDED),
    InvariantCheck("ledger.keys", EVENTS_HAVE_THEIR_KEY),
)

MAX_SAMPLES = 20
_BATCH_SIZE = 2000
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('billing.invariants', 2))")
_ALL_TIME = datetime(1, 1, 1, tzinfo=UTC)


def check_invariants(
    organization_id: UUID | None = None,
    *,
    since: datetime | None = None,
    progress: Callable[[Sequence[InvariantCheck]], Iterable[InvariantCheck]] = iter,
) -> list[CheckResult]:
    """Run every check, hold the billing of affected organizations and alert the operators.

    organization_id: None for all, which also stores the results
    since: leaves out usage of periods that ended before
    progress: wraps the iteration over checks
    raises: CheckInProgress
    """
    at = clock.now()
    values = {"organization_id": organization_id, "since": since or _ALL_TIME, "at": at}
    with tenancy.system_session("billing.invariants") as lock_session:
        if not lock_session.scalar(_TRY_LOCK):
            raise CheckInProgress
        return _run(values, at, progress(INVARIANTS))


def _run(values: dict[str, Any], at: datetime, checks: Iterable[InvariantCheck]) -> list[CheckResult]:
    results = []
    for check in checks:
        with tenancy.system_session("billing.invariants") as session:
            tenancy.allow_long_statements(session)
            result = CheckResult(check, list(_violations(session, check, values)))
            _apply_results(session, result, at, is_stored=values["organization_id"] is None)
        results.append(result)
    if any(result.violations for result in results if result.check.name == ROLLUP_CHECK):
        rollups.rebuild_rollups()
    return results


def _violations(session: SystemSession, check: InvariantCheck, values: dict[str, Any]) -> Iterator[Violation]:
    if check.name == LINES_MATCH_RATING:
        yield from _rating_violations(session, check, values)
        return
    for row in session.execute(text(check.sql), values):
        yield Violation(row.organization_id, row.what)


def _rating_violations(session: SystemSession, check: InvariantCheck, values: dict[str, Any]) -> Iterator[Violation]:
    versions = plans.get_versions(session, set(session.scalars(select(PlanVersion.id))))
    for row in session.execute(text(check.sql), values, execution_options={"yield_per": _BATCH_SIZE}):
        version = versions.get(row.plan_version_id)
        default = version.prices.get(row.meter_code) if version else None
        price = default.by_value.get(row.calculation.get("dimension_value", "")) if default else None
        try:
            amounts = _recalculated_amounts(row, price)
        except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
            yield Violation(row.organization_id, f"line {row.id} cannot be rated again: {type(problem).__name__}")
            continue
        if amounts != {row.amount_minor}:
            recalculated = ", ".join(str(amount) for amount in sorted(amounts))
            yield Violation(row.organization_id, f"line {row.id} is {row.amount_minor}, rated again {recalculated}")


def _recalculated_amounts(row: Any, price: MeterPrice | None) -> set[int]:
    """Amount of a line by its stored calculation and, if it has a price, by that price."""
    kind = LineKind(row.kind)
    amounts = {explanation.explain_calculation(kind, row.calculation, row.currency, None).recomputed_minor}
    if kind == LineKind.USAGE and price:
        amounts.add(_recalculated_charge(price, row.calculation, row.quantity))
    if kind == LineKind.LATE_USAGE and price:
        billed, with_late = row.calculation["billed"], row.calculation["with_late"]
        quantity = Decimal(billed["quantity"])
        amounts.add(
            _recalculated_charge(price, with_late, quantity + row.quantity)
            - _recalculated_charge(price, billed, quantity)
            + int(row.calculation["credited_minor"])
        )
    return amounts


def _recalculated_charge(price: MeterPrice, calculation: Mapping[str, Any], quantity: Decimal) -> int:
    """Charge at a price, of whose allowances other versions of the plan have left what the calculation says."""
    maximum = calculation.get("max_minor")
    shared = replace(
        price,
        included_quantity=Decimal(calculation["included"]),
        max_amount_minor=None if maximum is None else int(maximum),
    )
    return charges.rounded_charge(shared, quantity)


def _apply_results(session: SystemSession, result: CheckResult, at: datetime, *, is_stored: bool) -> None:
    if is_stored:
        _store_results(session, result, at)
    if not result.violations:
        return
    for violation in result.violations[:MAX_SAMPLES]:
        owner = violation.organization_id
        log.error(
            "invariant_violated", check=result.check.name, organization_id=owner and str(owner), what=violation.what
        )
    if result.check.holds_billing:
        _hold_billing(session, result, at)
    _alert_operators(session, result)


def _store_results(session: SystemSession, result: CheckResult, at: datetime) -> None:
    sample = [
        {
            "organization_id": violation.organization_id and ids.format_id("org", violation.organization_id),
            "what": violation.what,
        }
        for violation in result.violations[:MAX_SAMPLES]
    ]
    statement = insert(InvariantResult).values(
        check_name=result.check.name, at=at, violations=len(result.violations), sample=sample
    )
    update_values = {"violations": statement.excluded.violations, "sample": statement.excluded.sample}
    session.execute(statement.on_conflict_do_update(index_elements=["check_name", "at"], set_=update_values))


def _hold_billing(session: SystemSession, result: CheckResult, at: datetime) -> None:
    first_by_organization = {
        violation.organization_id: violation.what
        for violation in reversed(result.violations)
        if violation.organization_id
    }
    rows = session.scalars(
        update(BillingProfile)
        .where(BillingProfile.organization_id.in_(first_by_organization), BillingProfile.on_hold_at.is_(None))
        .values(on_hold_at=at, hold_reason=f"check {result.check.name}")
        .returning(BillingProfile.organization_id)
    ).all()
    for organization_id in rows:
        data = {"check": result.check.name, "what": first_by_organization[organization_id]}
        target = ("organization", organization_id)
        audit.record_event(session, organization_id, SYSTEM_ACTOR, "billing.parked", target, data)


def _alert_operators(session: SystemSession, result: CheckResult) -> None:
    first = result.violations[0]
    owner = f" of {ids.format_id('org', first.organization_id)}" if first.organization_id else ""
    detail = f"{len(result.violations)} found; the first{owner}: {first.what}"
    operators.send_alert(session, f"check {result.check.name} failed", detail)
