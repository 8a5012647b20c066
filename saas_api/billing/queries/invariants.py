"""What must always be true of the books, each as one statement that finds every place where it is not.

A statement answers with organization_id (NULL for the platform's own) and what is wrong there. Parameters:
organization_id (NULL for all), since (ledgers of periods that ended before are not read again), at (the present).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that must be true.

    sql: finds the violations, as (organization_id, what)
    is_parking: whether a violation stops the finalization of the organization's invoices
    """

    name: str
    sql: str
    is_parking: bool = True


def _own(alias: str) -> str:
    return f"(CAST(:organization_id AS uuid) IS NULL OR {alias}.organization_id = :organization_id)"


_SLACK = "CASE WHEN p.is_cut THEN interval '5 minutes' ELSE interval '0' END"

EVENT_IN_ITS_PERIOD = f"""
SELECT e.organization_id, 'event ' || e.id || ' lies outside its period' AS what
FROM usage_events e
JOIN billing_periods paying ON (paying.organization_id, paying.id) = (e.organization_id, e.billing_period_id)
JOIN billing_periods p
  ON (p.organization_id, p.id) = (e.organization_id, coalesce(e.late_for_period_id, e.billing_period_id))
WHERE {_own("e")} AND paying.ends_at >= :since
  AND NOT (e.occurred_at >= p.starts_at AND e.occurred_at < p.ends_at + {_SLACK})"""

NOTHING_AFTER_CLOSING = f"""
SELECT e.organization_id, 'event ' || e.id || ' was recorded after its period had closed' AS what
FROM billing_periods p JOIN usage_events e ON (e.organization_id, e.billing_period_id) = (p.organization_id, p.id)
WHERE {_own("p")} AND p.ends_at >= :since AND e.recorded_at > p.closed_at"""

_FACTS = f"""
WITH billed AS (
  SELECT i.organization_id, i.id AS invoice_id, i.billing_period_id, i.number
  FROM invoices i JOIN billing_periods p ON (p.organization_id, p.id) = (i.organization_id, i.billing_period_id)
  WHERE {_own("i")} AND i.kind = 'cycle' AND i.state <> 'void' AND p.ends_at >= :since),
plans AS (
  SELECT s.organization_id, s.plan_version_id, s.starts_at, lead(s.starts_at) OVER (
    PARTITION BY s.organization_id ORDER BY s.seq) AS until
  FROM subscription_segments s WHERE {_own("s")}),
ledger AS (
  SELECT b.organization_id, b.invoice_id, e.late_for_period_id, s.plan_version_id, e.meter_code,
    sum(e.quantity) AS quantity
  FROM billed b
  JOIN usage_events e ON (e.organization_id, e.billing_period_id) = (b.organization_id, b.billing_period_id)
  JOIN plans s ON s.organization_id = e.organization_id AND s.starts_at <= e.occurred_at
    AND (s.until IS NULL OR s.until > e.occurred_at)
  GROUP BY 1, 2, 3, 4, 5),
lines AS (
  SELECT l.organization_id, l.invoice_id, l.late_for_period_id, l.plan_version_id, l.meter_code, l.quantity
  FROM billed b JOIN invoice_lines l ON (l.organization_id, l.invoice_id) = (b.organization_id, b.invoice_id)
  WHERE l.kind IN ('usage', 'late_usage'))"""
QUANTITY_IS_LEDGER_SUM = f"""{_FACTS}
SELECT coalesce(f.organization_id, l.organization_id) AS organization_id,
  'invoice ' || coalesce(f.invoice_id, l.invoice_id) || ' bills ' || coalesce(l.quantity, 0) || ' '
    || coalesce(f.meter_code, l.meter_code) || ', the ledger has ' || coalesce(f.quantity, 0) AS what
FROM (SELECT f.* FROM ledger f JOIN prices r ON (r.plan_version_id, r.meter_code) = (f.plan_version_id, f.meter_code)
      WHERE f.quantity <> 0) f
FULL JOIN lines l ON (l.organization_id, l.invoice_id, l.plan_version_id, l.meter_code)
    = (f.organization_id, f.invoice_id, f.plan_version_id, f.meter_code)
  AND coalesce(l.late_for_period_id, l.invoice_id) = coalesce(f.late_for_period_id, f.invoice_id)
WHERE f.quantity IS DISTINCT FROM l.quantity"""

LINES_MAKE_SUBTOTAL = f"""
SELECT i.organization_id, 'invoice ' || i.id || ' has subtotal ' || i.subtotal_minor || ', its lines '
  || coalesce(l.minor, 0) AS what
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(amount_minor) AS minor FROM invoice_lines GROUP BY 1, 2) l
  ON (l.organization_id, l.invoice_id) = (i.organization_id, i.id)
WHERE {_own("i")} AND i.subtotal_minor <> coalesce(l.minor, 0)"""

PAYMENTS_MAKE_PAID = f"""
SELECT i.organization_id, 'invoice ' || i.id || ' has ' || i.paid_minor || ' paid, its payments '
  || coalesce(p.minor, 0) AS what
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(allocated_minor) AS minor FROM payments GROUP BY 1, 2) p
  ON (p.organization_id, p.invoice_id) = (i.organization_id, i.id)
WHERE {_own("i")} AND i.paid_minor <> coalesce(p.minor, 0)"""

NOTES_MAKE_CREDITED = f"""
SELECT i.organization_id, 'invoice ' || i.id || ' has ' || i.credited_minor || ' credited, its notes '
  || coalesce(n.minor, 0) AS what
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(total_minor) AS minor, sum(to_due_minor) AS due_minor
           FROM credit_notes GROUP BY 1, 2) n ON (n.organization_id, n.invoice_id) = (i.organization_id, i.id)
WHERE {_own("i")} AND (i.credited_minor, i.reduced_minor) <> (coalesce(n.minor, 0), coalesce(n.due_minor, 0))
UNION ALL
SELECT n.organization_id, 'credit note ' || n.number || ' is ' || n.total_minor || ', its lines '
  || coalesce(l.minor, 0)
FROM credit_notes n
LEFT JOIN (SELECT organization_id, credit_note_id, sum(amount_minor) AS minor FROM credit_note_lines GROUP BY 1, 2) l
  ON (l.organization_id, l.credit_note_id) = (n.organization_id, n.id)
WHERE {_own("n")} AND n.total_minor - n.tax_minor <> coalesce(l.minor, 0)"""

ENTRIES_MAKE_REMAINDER = f"""
SELECT g.organization_id, 'grant ' || g.source_key || ' has ' || g.remaining_minor || ' left of ' || g.amount_minor
  || ', its entries are ' || coalesce(e.minor, 0) AS what
FROM credit_grants g
LEFT JOIN (SELECT organization_id, grant_id, sum(delta_minor) AS minor FROM credit_entries GROUP BY 1, 2) e
  ON (e.organization_id, e.grant_id) = (g.organization_id, g.id)
WHERE {_own("g")} AND g.remaining_minor <> g.amount_minor + coalesce(e.minor, 0)
UNION ALL
SELECT i.organization_id, 'invoice ' || i.id || ' took ' || i.credits_applied_minor || ' from the wallet, its entries '
  || coalesce(-e.minor, 0)
FROM invoices i
LEFT JOIN (SELECT organization_id, invoice_id, sum(delta_minor) AS minor FROM credit_entries
           WHERE invoice_id IS NOT NULL GROUP BY 1, 2) e
  ON (e.organization_id, e.invoice_id) = (i.organization_id, i.id)
WHERE {_own("i")} AND i.credits_applied_minor <> coalesce(-e.minor, 0)"""

NUMBERS_WITHOUT_GAPS = """
SELECT CAST(NULL AS uuid) AS organization_id, 'series ' || coalesce(s.series, n.series) || ': ' || coalesce(n.count, 0)
  || ' numbers from ' || coalesce(n.first, 0) || ' to ' || coalesce(n.last, 0) || ', last given '
  || coalesce(s.last_value, 0) AS what
FROM number_series s
FULL JOIN (SELECT series, min(serial) AS first, max(serial) AS last, count(*) AS count
           FROM (SELECT series, serial FROM invoices WHERE serial IS NOT NULL
                 UNION ALL SELECT series, serial FROM credit_notes) given GROUP BY series) n ON n.series = s.series
WHERE CAST(:organization_id AS uuid) IS NULL
  AND (n.first, n.last, n.count) IS DISTINCT FROM (CAST(1 AS bigint), s.last_value, s.last_value)"""

PERIODS_WITHOUT_GAPS = f"""
SELECT organization_id, kind || ' ' || seq || ' does not begin where the one before it ends' AS what
FROM (
  SELECT p.organization_id, 'period' AS kind, p.seq, p.starts_at, row_number() OVER own AS nth,
    lag(p.ends_at) OVER own AS previous FROM billing_periods p
  WHERE {_own("p")} WINDOW own AS (PARTITION BY p.organization_id ORDER BY p.seq)
  UNION ALL
  SELECT s.organization_id, 'segment', s.seq, s.starts_at, row_number() OVER own, lag(s.ends_at) OVER own
  FROM subscription_segments s
  WHERE {_own("s")} WINDOW own AS (PARTITION BY s.organization_id ORDER BY s.seq)) chain
WHERE seq <> nth OR nth > 1 AND starts_at IS DISTINCT FROM previous"""

NOW_IS_COVERED = f"""
SELECT u.organization_id, 'no ' || missing.kind || ' contains now' AS what
FROM subscriptions u
JOIN organizations o ON o.id = u.organization_id AND o.closed_at IS NULL AND o.status <> 'closed'
CROSS JOIN LATERAL (
  SELECT 'period' AS kind WHERE NOT EXISTS (SELECT FROM billing_periods p WHERE p.organization_id = u.organization_id
    AND p.starts_at <= :at AND p.ends_at > :at)
  UNION ALL
  SELECT 'plan' WHERE NOT EXISTS (SELECT FROM subscription_segments s WHERE s.organization_id = u.organization_id
    AND s.starts_at <= :at AND (s.ends_at IS NULL OR s.ends_at > :at))) missing
WHERE {_own("u")} AND u.state = 'active'
UNION ALL
SELECT o.id, 'no account' FROM organizations o
WHERE o.closed_at IS NULL AND o.status <> 'closed' AND o.created_at < CAST(:at AS timestamptz) - interval '2 hours'
  AND (CAST(:organization_id AS uuid) IS NULL OR o.id = :organization_id)
  AND NOT EXISTS (SELECT FROM subscriptions u WHERE u.organization_id = o.id)"""

CLOSED_IS_INVOICED = f"""
SELECT p.organization_id, 'period ' || p.seq || ' is closed since ' || p.closed_at || ' and not invoiced' AS what
FROM billing_periods p WHERE {_own("p")} AND p.state = 'closed' AND p.closed_at < now() - interval '2 hours'"""

ROLLUPS_ARE_THE_LEDGER = f"""
SELECT organization_id, meter_code || ' of a period: rollups have ' || coalesce(r.quantity, 0) || ', the ledger '
  || coalesce(e.quantity, 0) AS what
FROM (SELECT e.organization_id, e.billing_period_id, e.meter_code, sum(e.quantity) AS quantity
      FROM usage_events e CROSS JOIN usage_watermark w
      JOIN billing_periods p ON (p.organization_id, p.id) = (e.organization_id, e.billing_period_id)
      WHERE {_own("e")} AND p.ends_at >= :since
        AND NOT (e.recorded_xid >= w.through_xid AND e.recorded_at > w.floor_at)
      GROUP BY 1, 2, 3) e
FULL JOIN (
  SELECT r.organization_id, r.billing_period_id, r.meter_code, sum(r.quantity) AS quantity
  FROM usage_rollups r JOIN billing_periods p ON (p.organization_id, p.id) = (r.organization_id, r.billing_period_id)
  WHERE {_own("r")} AND p.ends_at >= :since GROUP BY 1, 2, 3) r USING (organization_id, billing_period_id, meter_code)
WHERE coalesce(r.quantity, 0) <> coalesce(e.quantity, 0)"""

NO_PAYMENT_HANGS = f"""
SELECT p.organization_id, 'payment ' || p.id || ' is in flight since ' || p.created_at AS what
FROM payments p WHERE {_own("p")} AND p.state IN ('created', 'pending', 'requires_action')
  AND p.created_at < CAST(:at AS timestamptz) - interval '8 days'"""

# These rows are no violations yet: the rules rate them again.
LINES_TO_RERATE = f"""
SELECT l.organization_id, l.id, l.kind, l.plan_version_id, l.meter_code, l.quantity, l.amount_minor, l.calculation,
  i.currency
FROM invoice_lines l JOIN invoices i ON (i.organization_id, i.id) = (l.organization_id, l.invoice_id)
WHERE {_own("l")} AND l.kind <> 'manual' AND i.created_at >= :since"""

RERATED = "amounts.rerated"
ROLLUPS = "rollup.ledger"
CHECKS = (
    Check("ownership.time", EVENT_IN_ITS_PERIOD),
    Check("ownership.closed", NOTHING_AFTER_CLOSING),
    Check("amounts.quantity", QUANTITY_IS_LEDGER_SUM),
    Check(RERATED, LINES_TO_RERATE),
    Check("sums.lines", LINES_MAKE_SUBTOTAL),
    Check("sums.payments", PAYMENTS_MAKE_PAID),
    Check("sums.credit_notes", NOTES_MAKE_CREDITED),
    Check("sums.grants", ENTRIES_MAKE_REMAINDER),
    Check("numbers.gapless", NUMBERS_WITHOUT_GAPS),
    Check("coverage.chain", PERIODS_WITHOUT_GAPS),
    Check("coverage.now", NOW_IS_COVERED),
    Check("coverage.invoiced", CLOSED_IS_INVOICED),
    Check(ROLLUPS, ROLLUPS_ARE_THE_LEDGER, is_parking=False),
    Check("money.in_flight", NO_PAYMENT_HANGS),
)
