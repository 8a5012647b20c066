"""Creation of the demo: plays the timeline of some organizations and finishes their pending deliveries."""

import secrets
from itertools import islice

from sqlalchemy import text

from saas_api.accounts import operators, users
from saas_api.accounts.audit import Actor
from saas_api.api_keys import last_use
from saas_api.api_keys import secrets as key_secrets
from saas_api.core import crypto
from saas_api.core.settings import setting
from saas_api.demo import activity, organizations, services, status, timeline
from saas_api.demo.activity import OrganizationActivity
from saas_api.demo.organizations import PLATFORM, DemoCredentials, DemoLogin
from saas_api.demo.timeline import Timeline
from saas_api.usage import request_counts, request_recorder, rollups

DEFAULT_OPTIONS = {"organizations": 2, "days": 35, "messages": 500, "seed": 1}
"""Options of `make run`, whose demo is created within seconds."""
# No service records attempts without sending: the endpoints of the demo do not exist.
# One delivery in nineteen fails at first and succeeds at the second attempt; one in sixty-one never succeeds.
_INSERT_ATTEMPTS = text("""
INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, ended_at, status_code, duration_ms, error,
  outcome, response_snippet, payload_format, request_headers)
SELECT d.organization_id, d.id, n, e.created_at + (n - 1) * interval '75 seconds' + interval '300 milliseconds',
  e.created_at + (n - 1) * interval '75 seconds' + interval '300 milliseconds' + took.ms * interval '1 millisecond',
  CASE WHEN is_ok.yes THEN 204 ELSE 503 END, took.ms, NULL,
  CASE WHEN is_ok.yes THEN 'ok' ELSE 'http_error' END,
  CASE WHEN NOT is_ok.yes THEN '{"error": "upstream is restarting"}' END, 'full',
  json_build_object('Host', split_part(w.url, '/', 3), 'Accept-Encoding', 'identity',
    'Content-Length', octet_length(e.payload)::text, 'content-type', 'application/json',
    'user-agent', 'saas-api-webhooks/1', 'webhook-id', e.payload::json ->> 'id',
    'webhook-timestamp', floor(extract(epoch FROM e.created_at) + (n - 1) * 75)::bigint::text,
    'webhook-signature', 'v1,' || encode(sha256(convert_to(e.payload || n, 'UTF8')), 'base64'))
FROM webhook_deliveries d JOIN events e ON (e.organization_id, e.id) = (d.organization_id, d.event_id)
JOIN webhook_endpoints w ON (w.organization_id, w.id) = (d.organization_id, d.endpoint_id)
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
_SET_LAST_SUCCESS = text("""
UPDATE webhook_endpoints w SET last_success_at = (SELECT max(finished_at) FROM webhook_deliveries d
  WHERE (d.organization_id, d.endpoint_id) = (w.organization_id, w.id) AND d.status = 'delivered')
WHERE organization_id = ANY (CAST(:orgs AS uuid[]))""")
# With a real SMTP server, no mail is sent to users who do not exist.
_FINISH_MAILS = text("""
UPDATE mails SET status = 'sent', next_at = NULL, finished_at = now(), subject = NULL, text_body = NULL,
  html_body = NULL WHERE status = 'queued' AND organization_id = ANY (CAST(:orgs AS uuid[]))""")


def seed_demo(**options: int) -> DemoCredentials:
    """Create the demo unless it exists, and store its passwords and keys in the instance.

    options: `organizations`, `days`, `messages` and `seed`; without them, an existing demo with any options is used
    """
    stored = organizations.load_credentials()
    if stored is not None and (not options or stored.options == options) and _is_seeded(stored):
        return stored
    credentials = _create_demo(options or DEFAULT_OPTIONS)
    organizations.save_credentials(credentials)
    return credentials


def _is_seeded(credentials: DemoCredentials) -> bool:
    with timeline.demo_session() as session:
        return key_secrets.find_active_secret(session, crypto.keyed_digests(credentials.key)) is not None


def _create_demo(options: dict[str, int]) -> DemoCredentials:
    demo_timeline = Timeline(options["days"], options["seed"])
    email_suffix = "" if _is_first() else f"-{secrets.token_hex(2)}"
    chosen = list(islice(organizations.iter_organizations(), options["organizations"]))
    message_weight = options["messages"] / sum(organization.weight for organization in chosen)
    activities = [
        OrganizationActivity(demo_timeline, organization, round(message_weight * organization.weight), email_suffix)
        for organization in chosen
    ]
    for item in activities:
        item.schedule()
    activity.schedule_platform_jobs(demo_timeline)
    demo_timeline.run()
    _finish_pending_work([str(item.id) for item in activities])
    services.create_service()
    status.create_history()
    logins = [login for item in activities for login in item.logins]
    key_texts = {item.organization.name: item.key_text for item in activities}
    return DemoCredentials([*logins, _create_operator(email_suffix)], activities[0].key_text, key_texts, options)


def _create_operator(email_suffix: str) -> DemoLogin:
    login = DemoLogin(f"olga{email_suffix}@platform.example", secrets.token_hex(6), "operator", PLATFORM)
    with timeline.demo_session() as session:
        user = operators.appoint_operator(session, login.email, "admin", Actor("system", "demo")).user
        user.full_name, user.password_hash = "Olga", crypto.hash_password(login.password)
        users.mark_email_verified(session, user)
    return login


def _is_first() -> bool:
    with timeline.demo_session() as session:
        return users.find_by_email(session, "alice@acme.example") is None


def _finish_pending_work(organization_ids: list[str]) -> None:
    """Write counters that are still in memory, and finish deliveries, mails and rollups."""
    request_recorder.flush()
    request_counts.sum_minutes()
    last_use.flush_last_used()
    values = {"orgs": organization_ids}
    with timeline.demo_session() as session:
        session.execute(text("SET LOCAL statement_timeout = '60s'"))
        for statement in (_INSERT_ATTEMPTS, _FINISH_DELIVERIES, _SET_LAST_SUCCESS):
            session.execute(statement, values)
        if setting("SMTP_HOST"):
            session.execute(_FINISH_MAILS, values)
    rollups.roll_up()
