"""The pages of the product: every route that is a page, with ids of the demo data."""

import functools
import re
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session
from werkzeug.routing import Rule

from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.architecture.test_routes import access

NO_PAGES = {
    "/api/": "the API answers JSON",
    "/apidocs/index.html": "leads to the reference",
    "/dashboard/first-steps": "a part of the home page, asked for by its poll",
    "/dashboard/figures": "the same",
    "/dashboard/live": "the same",
    "/docs/assets/": "files of the reference",
    "/docs/explorer/": "documents of services; tested in test_reference",
    "/docs/oauth2-redirect.html": "a step of Swagger UI",
    "/gate": "for proxies",
    "/healthz": "for machines",
    "/metrics": "for machines",
    "/payments/setups/": "leads to the payment methods",
    "/portal/open": "needs a link; tested in test_portal",
    "/readyz": "for machines",
    "/version": "for machines",
    "/static/": "files of pages",
}
"""Beginnings of paths that are no pages, and why."""
FILES = (".csv", ".pdf", ".atom")
SECTIONS = ("sending", "money", "organization", "operator")

_SECTION_OF = {
    "/dashboard": "sending",
    "/dashboard/billing": "money",
    "/dashboard/webhooks": "money",
    "/dashboard/team": "organization",
    "/dashboard/audit-log": "organization",
    "/dashboard/settings": "organization",
    "/dashboard/account": "organization",
    "/admin": "operator",
}
_OWN = "organization_id = :org"
_QUERIES = {
    "key": f"SELECT id FROM api_keys WHERE {_OWN} AND revoked_at IS NULL ORDER BY created_at LIMIT 1",
    "msg": f"SELECT id FROM messages WHERE {_OWN} AND status = 'failed' ORDER BY accepted_at DESC LIMIT 1",
    "whe": f"SELECT id FROM webhook_endpoints WHERE {_OWN} ORDER BY created_at LIMIT 1",
    "whd": f"SELECT id FROM webhook_deliveries WHERE {_OWN} ORDER BY attempts DESC, created_at DESC LIMIT 1",
    "evt": f"SELECT id FROM events WHERE {_OWN} ORDER BY sequence DESC LIMIT 1",
    "usr": f"SELECT user_id FROM memberships WHERE {_OWN} AND role = 'member' LIMIT 1",
    "ivt": f"SELECT id FROM invitations WHERE {_OWN} ORDER BY created_at DESC LIMIT 1",
    "inv": f"SELECT id FROM invoices WHERE {_OWN} AND state = 'open' ORDER BY total_minor DESC LIMIT 1",
    "lin": f"""SELECT l.id FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id AND i.state = 'open'
      WHERE l.{_OWN} AND l.kind = 'usage' ORDER BY i.total_minor DESC, l.amount_minor DESC LIMIT 1""",
    "inc": "SELECT id FROM incidents ORDER BY id DESC LIMIT 1",
    "pay": "SELECT id FROM payments ORDER BY created_at DESC LIMIT 1",
    "rfd": "SELECT id FROM refunds ORDER BY created_at DESC LIMIT 1",
    "org": "SELECT CAST(:org AS uuid)",
    "code": "SELECT 'scale'",
    "error_code": "SELECT 'SPEND_CAP_REACHED'",
    "slug": "SELECT 'webhooks'",
    "topic": "SELECT 'messages'",
    "meter_code": "SELECT 'sms'",
    "version_id": "SELECT 'pro@1'",
    "name": "SELECT name FROM services WHERE revoked_at IS NULL ORDER BY name LIMIT 1",
    "reference": "SELECT provider_reference FROM payments ORDER BY created_at DESC LIMIT 1",
    "setup_reference": "SELECT reference FROM mock_setups LIMIT 1",
    "mail_id": f"SELECT id FROM mails WHERE {_OWN} ORDER BY created_at DESC LIMIT 1",
    "grt": f"SELECT id FROM credit_grants WHERE {_OWN} AND kind = 'promotional' LIMIT 1",
    "request_id": f"SELECT request_id FROM request_log WHERE {_OWN} ORDER BY status DESC, at DESC LIMIT 1",
    "job": "SELECT 'usage.roll_up'",
    "job_id": "SELECT NULL",
    "provider": "SELECT 'mock'",
    "event_id": "SELECT event_id FROM provider_events ORDER BY received_at DESC LIMIT 1",
}
"""Queries for the value of an argument, by the prefix of its ids or by its name."""
_OPERATOR_QUERIES = {
    "inc": "SELECT id FROM incidents ORDER BY id DESC LIMIT 1",
    "pay": "SELECT id FROM payments WHERE state = 'quarantined' LIMIT 1",
    "usr": "SELECT id FROM users WHERE email LIKE 'alice%'",
}
_ARGUMENT = re.compile(
    r"""<(?:id\("(?P<prefix>\w+)"\):|any\((?P<options>[^)]*)\):|\w+:)?(?P<name>\w+)>""",
)
WITHOUT_DEMO_DATA = {
    "/payments/mock/setups/<setup_reference>": "no card is saved in the demo",
    '/admin/refunds/<id("rfd"):refund_id>/paid-back': "no refund failed in the demo",
    '/admin/refunds/<id("rfd"):refund_id>/retry': "the same",
    '/admin/refunds/<id("rfd"):refund_id>/to-wallet': "the same",
    "/admin/jobs/failed/<job_id>/retry": "no job failed in the demo",
}


@dataclass(frozen=True)
class PageRoute:
    """A page.

    path: with existing ids; None when the demo has no data for it
    """

    rule: str
    path: str | None
    section: str


def rules(app: Flask) -> list[Rule]:
    """Return the rules of pages but those of the portal, whose sessions no user has; they are tested in test_portal."""
    readable = [rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    pages = [rule for rule in readable if not rule.rule.startswith(tuple(NO_PAGES)) and not rule.rule.endswith(FILES)]
    return sorted((rule for rule in pages if not access(app, rule).is_for_portal), key=lambda rule: rule.rule)


def section_of(rule: str) -> str:
    """Return the section of the product that a path belongs to."""
    starts = [start for start in _SECTION_OF if rule == start or rule.startswith(f"{start}/")]
    return _SECTION_OF[max(starts, key=len)] if starts else "organization"


def page_routes(app: Flask, organization_id: UUID) -> list[PageRoute]:
    """Return every page with a path of existing ids, and each of several verbs in a path."""
    routes: list[PageRoute] = []
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        for rule in (page.rule for page in rules(app)):
            section = section_of(rule)
            queries = _QUERIES | _OPERATOR_QUERIES if section == "operator" else _QUERIES
            values = {
                _key(match): _value(session, queries, match, organization_id)
                for match in _ARGUMENT.finditer(rule)
                if not match["options"]
            }
            routes += [PageRoute(rule, path, section) for path in _paths(rule, values)]
    return routes


def _paths(rule: str, values: dict[str, str | None]) -> list[str | None]:
    """Return the rule with values for its arguments, once for each of several verbs."""
    if None in values.values():
        return [None]
    choice = next((match for match in _ARGUMENT.finditer(rule) if match["options"]), None)
    verbs = re.findall(r"[\w-]+", choice["options"]) if choice else [""]
    return [_ARGUMENT.sub(functools.partial(_filled, values | {"": verb}), rule) for verb in verbs]


def _filled(values: dict[str, str | None], match: re.Match[str]) -> str:
    return str(values["" if match["options"] else _key(match)])


def _key(match: re.Match[str]) -> str:
    return str(match["prefix"] or match["name"])


def _value(session: Session, queries: dict[str, str], match: re.Match[str], organization_id: UUID) -> str | None:
    query = queries.get(_key(match))
    assert query, f"no query for <{match['name']}>: add one to tests/browser/page_routes.py"
    value = session.scalar(sa.text(query), {"org": organization_id})
    if value is None:
        return None
    return ids.format_id(match["prefix"], value) if match["prefix"] else str(value)
