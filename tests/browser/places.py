"""Every page there is: the map of addresses, with ids of what the demo has put behind them."""

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

NO_PAGES = {
    "/api/": "the API answers JSON",
    "/apidocs/index.html": "leads to the reference",
    "/dashboard/first-steps": "a part of the home page, asked for by its poll",
    "/dashboard/live": "the same",
    "/docs/assets/": "files of the reference",
    "/docs/static/": "files of the reference",
    "/docs/oauth2-redirect.html": "a step of Swagger UI",
    "/healthz": "for machines",
    "/metrics": "for machines",
    "/readyz": "for machines",
    "/static/": "files of pages",
}
"""Beginnings of addresses that are no pages, and why."""
FILES = (".csv", ".pdf")
SECTIONS = ("sending", "money", "company", "operator")

_SECTION_OF = {
    "/dashboard": "sending",
    "/dashboard/billing": "money",
    "/dashboard/webhooks": "money",
    "/dashboard/team": "company",
    "/dashboard/audit-log": "company",
    "/dashboard/settings": "company",
    "/dashboard/account": "company",
    "/admin": "operator",
}
_OWN = "organization_id = :org"
_FOUND = {
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
    "pay": "SELECT id FROM payments ORDER BY created_at DESC LIMIT 1",
    "org": "SELECT CAST(:org AS uuid)",
    "code": "SELECT 'scale'",
    "version_id": "SELECT 'pro@1'",
    "reference": "SELECT provider_reference FROM payments ORDER BY created_at DESC LIMIT 1",
    "mail_id": f"SELECT id FROM mails WHERE {_OWN} ORDER BY created_at DESC LIMIT 1",
    "job": "SELECT 'usage.roll_up'",
    "job_id": "SELECT NULL",
    "provider": "SELECT 'mock'",
    "event_id": "SELECT event_id FROM provider_events ORDER BY received_at DESC LIMIT 1",
}
"""What stands for an argument: by the prefix of its ids, else by its name."""
_FOUND_BY_OPERATORS = {
    "pay": "SELECT id FROM payments WHERE state = 'quarantined' LIMIT 1",
    "usr": "SELECT id FROM users WHERE email LIKE 'alice%'",
}
_ARGUMENT = re.compile(
    r"""<(?:id\("(?P<prefix>\w+)"\):|any\((?P<options>[^)]*)\):|\w+:)?(?P<name>\w+)>""",
)
NOTHING_THERE = {
    "/admin/jobs/failed/<job_id>/retry": "no job failed in the demo",
}


@dataclass(frozen=True)
class Place:
    """A page.

    path: with ids that exist; None when the demo has nothing to show there
    """

    rule: str
    path: str | None
    section: str


def rules(app: Flask) -> list[Rule]:
    """Addresses that somebody may open in a browser."""
    found = [rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    pages = [rule for rule in found if not rule.rule.startswith(tuple(NO_PAGES)) and not rule.rule.endswith(FILES)]
    return sorted(pages, key=lambda one: one.rule)


def section_of(rule: str) -> str:
    """Which part of the product an address belongs to."""
    starts = [start for start in _SECTION_OF if rule == start or rule.startswith(f"{start}/")]
    return _SECTION_OF[max(starts, key=len)] if starts else "company"


def places(app: Flask, organization_id: UUID) -> list[Place]:
    """Every page with an address that leads somewhere; of several verbs each."""
    found: list[Place] = []
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        for rule in (one.rule for one in rules(app)):
            section = section_of(rule)
            queries = _FOUND | _FOUND_BY_OPERATORS if section == "operator" else _FOUND
            values = {
                _key(match): _value(session, queries, match, organization_id)
                for match in _ARGUMENT.finditer(rule)
                if not match["options"]
            }
            found += [Place(rule, path, section) for path in _paths(rule, values)]
    return found


def _paths(rule: str, values: dict[str, str | None]) -> list[str | None]:
    """The rule with its arguments filled in, once for each of several verbs."""
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
    assert query, f"how to fill <{match['name']}> is not known: add it to tests/browser/places.py"
    found = session.scalar(sa.text(query), {"org": organization_id})
    if found is None:
        return None
    return ids.format_id(match["prefix"], found) if match["prefix"] else str(found)
