"""What workers would have done by now: webhooks delivered or failed, mails sent, sums of usage made, keys seen."""

from sqlalchemy import text

from saas_api.cli.demo.stage import system
from saas_api.core.settings import setting
from saas_api.usage import service as usage

# One in nineteen fails at first and arrives at the second try; one in sixty-one never arrives.
_TRIES = text("""
INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, ended_at, status_code, duration_ms, error,
  outcome, response_snippet)
SELECT d.organization_id, d.id, n, e.created_at + (n - 1) * interval '75 seconds' + interval '300 milliseconds',
  e.created_at + (n - 1) * interval '75 seconds' + interval '300 milliseconds' + took.ms * interval '1 millisecond',
  CASE WHEN is_ok.yes THEN 204 ELSE 503 END, took.ms, CASE WHEN NOT is_ok.yes THEN 'HTTP 503' END,
  CASE WHEN is_ok.yes THEN 'ok' ELSE 'http_error' END,
  CASE WHEN NOT is_ok.yes THEN '{"error": "upstream is restarting"}' END
FROM webhook_deliveries d JOIN events e ON (e.organization_id, e.id) = (d.organization_id, d.event_id)
CROSS JOIN LATERAL generate_series(1, CASE WHEN e.sequence % 61 = 7 THEN 5 WHEN e.sequence % 19 = 3 THEN 2 ELSE 1 END) n
CROSS JOIN LATERAL (SELECT (41 + (e.sequence * 37 + n * 11) % 160)::int AS ms) took
CROSS JOIN LATERAL (SELECT e.sequence % 61 <> 7 AND (e.sequence % 19 <> 3 OR n = 2) AS yes) is_ok
WHERE d.status = 'queued' AND d.attempts = 0 AND d.organization_id = ANY (CAST(:orgs AS uuid[]))""")
_END = text("""
UPDATE webhook_deliveries d SET attempts = t.n, status = CASE t.outcome WHEN 'ok' THEN 'delivered' ELSE 'failed' END,
  last_status = t.status_code, error_code = CASE WHEN t.outcome <> 'ok' THEN 'http_503' END, next_at = NULL,
  finished_at = t.ended_at, created_at = e.created_at
FROM (SELECT DISTINCT ON (organization_id, delivery_id) * FROM webhook_attempts
      WHERE organization_id = ANY (CAST(:orgs AS uuid[])) ORDER BY organization_id, delivery_id, n DESC) t, events e
WHERE (t.organization_id, t.delivery_id) = (d.organization_id, d.id) AND d.status = 'queued'
  AND (e.organization_id, e.id) = (d.organization_id, d.event_id)""")
_HEALTH = text("""
UPDATE webhook_endpoints w SET last_success_at = (SELECT max(finished_at) FROM webhook_deliveries d
  WHERE (d.organization_id, d.endpoint_id) = (w.organization_id, w.id) AND d.status = 'delivered')
WHERE organization_id = ANY (CAST(:orgs AS uuid[]))""")
_SEEN = text(
    """
UPDATE {table} k SET last_used_at = m.at FROM (SELECT organization_id, api_key_id, max(accepted_at) AS at
  FROM messages WHERE organization_id = ANY (CAST(:orgs AS uuid[])) GROUP BY 1, 2) m
WHERE (m.organization_id, m.api_key_id) = (k.organization_id, k.{column})""".format(table="api_keys", column="id")
)
_SECRETS_SEEN = text(_SEEN.text.replace("api_keys k", "api_key_secrets k").replace("k.id)", "k.key_id)"))
# Where mail really leaves, people who do not exist are sent none.
_UNSENT = text("""
UPDATE mails SET status = 'sent', next_at = NULL, finished_at = now(), subject = NULL, text_body = NULL,
  html_body = NULL WHERE status = 'queued' AND organization_id = ANY (CAST(:orgs AS uuid[]))""")


def finish(organization_ids: list[str]) -> None:
    """Bring everything that waits in the demo's companies to its end.

    organization_ids: UUIDs as text
    """
    values = {"orgs": organization_ids}
    with system() as session:
        session.execute(text("SET LOCAL statement_timeout = '60s'"))
        for statement in (_TRIES, _END, _HEALTH, _SEEN, _SECRETS_SEEN):
            session.execute(statement, values)
        if setting("SMTP_HOST"):
            session.execute(_UNSENT, values)
    usage.roll_up()
