"""Seed_demo, credentials, completing pending work."""

import secrets
from itertools import islice

from sqlalchemy import text

from saas_api.accounts import operators, users
from saas_api.api_keys import secrets as key_secrets
from saas_api.core import crypto
from saas_api.core.settings import setting
from saas_api.demo import activity, companies, timeline
from saas_api.demo.activity import CompanyActivity
from saas_api.demo.companies import PLATFORM_COMPANY, DemoCompany, DemoCredentials, DemoLogin
from saas_api.demo.timeline import Timeline
from saas_api.usage import rollups

QUICK_HASHING = {"organizations": 2, "days": 35, "messages": 500, "seed": 1}
"""What `make run` makes: enough to see, made within a second or two."""


def seed_demo(**wish: int) -> DemoCredentials:
    """Make the demo unless it is there; passwords and keys stay in the instance.

    wish: `organizations`, `days`, `messages`, `seed`; without any, whatever demo is there will do
    """
    kept = companies.load_credentials()
    if kept is not None and (not wish or kept.wish == wish) and _is_seeded(kept):
        return kept
    facts = _make(wish or QUICK_HASHING)
    companies.save_credentials(facts)
    return facts


def _is_seeded(facts: DemoCredentials) -> bool:
    with timeline.demo_session() as session:
        return key_secrets.find_active_secret(session, crypto.api_key_digests(facts.key)) is not None


def _make(wish: dict[str, int]) -> DemoCredentials:
    stage = Timeline(wish["days"], wish["seed"])
    CompanyActivity.mark = "" if _is_first() else f"-{secrets.token_hex(2)}"
    chosen = list(islice(companies.iter_companies(), wish["organizations"]))
    lives = [CompanyActivity(stage, company, number) for company, number in _message_shares(chosen, wish["messages"])]
    for life in lives:
        life.schedule()
    activity.schedule_dunning(stage)
    stage.run()
    complete_pending_work([str(life.id) for life in lives])
    logins = [login for life in lives for login in life.logins]
    keys = {life.company.name: life.key_text for life in lives}
    return DemoCredentials([*logins, _make_operator()], lives[0].key_text, keys, wish)


def _message_shares(chosen: list[DemoCompany], messages: int) -> list[tuple[DemoCompany, int]]:
    total = sum(company.weight for company in chosen)
    return [(company, round(messages * company.weight / total)) for company in chosen]


def _make_operator() -> DemoLogin:
    login = DemoLogin(
        f"olga{CompanyActivity.mark}@platform.example", secrets.token_hex(6), "operator", PLATFORM_COMPANY
    )
    with timeline.demo_session() as session:
        user = users.create(session, login.email, login.password, "Olga")
        user.email_verified_at = user.created_at
        operators.grant_operator_role(session, user.id, "admin")
    return login


def _is_first() -> bool:
    with timeline.demo_session() as session:
        return users.find_by_email(session, "alice@acme.example") is None


# One in nineteen fails at first and arrives at the second try; one in sixty-one never arrives.
_INSERT_ATTEMPTS = text("""
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
_FINISH_DELIVERIES = text("""
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
_SET_LAST_USED = text(
    """
UPDATE {table} k SET last_used_at = m.at FROM (SELECT organization_id, api_key_id, max(accepted_at) AS at
  FROM messages WHERE organization_id = ANY (CAST(:orgs AS uuid[])) GROUP BY 1, 2) m
WHERE (m.organization_id, m.api_key_id) = (k.organization_id, k.{column})""".format(table="api_keys", column="id")
)
_SECRETS_SEEN = text(_SET_LAST_USED.text.replace("api_keys k", "api_key_secrets k").replace("k.id)", "k.key_id)"))
# Where mail really leaves, people who do not exist are sent none.
_PENDING_MAILS = text("""
UPDATE mails SET status = 'sent', next_at = NULL, finished_at = now(), subject = NULL, text_body = NULL,
  html_body = NULL WHERE status = 'queued' AND organization_id = ANY (CAST(:orgs AS uuid[]))""")


def complete_pending_work(organization_ids: list[str]) -> None:
    """Bring everything that waits in the demo's companies to its end.

    organization_ids: UUIDs as text
    """
    values = {"orgs": organization_ids}
    with timeline.demo_session() as session:
        session.execute(text("SET LOCAL statement_timeout = '60s'"))
        for statement in (_INSERT_ATTEMPTS, _FINISH_DELIVERIES, _HEALTH, _SET_LAST_USED, _SECRETS_SEEN):
            session.execute(statement, values)
        if setting("SMTP_HOST"):
            session.execute(_PENDING_MAILS, values)
    rollups.roll_up()
