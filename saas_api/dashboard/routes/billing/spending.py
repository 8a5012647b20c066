"""`/dashboard/billing/spending`: the spend cap, and alerts before it is reached."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.billing import service as billing
from saas_api.billing.models import BillingProfile
from saas_api.billing.queries import alerts, catalogue
from saas_api.billing.rules.thresholds import OF_METERS, Wanted
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid, NotFound
from saas_api.core.money import minor_to_text, unit_price_text
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.settings import setting
from saas_api.dashboard.queries.billing import running as reads
from saas_api.dashboard.queries.prices import NAMES
from saas_api.dashboard.routes.billing.door import account, organization_id, zone
from saas_api.dashboard.schemas.billing import AlertForm, CapForm, NoFields
from saas_api.organizations.service.audit import actor_of

bp = Blueprint("spending", __name__)
MOST_ALERTS = 50
PAGE = "dashboard.billing.spending.index"


@bp.get("/billing/spending")
@require("billing:read")
def index(form: Form | None = None) -> Response:
    """Show the cap with what counts against it, and the alerts with what they raised in this period."""
    running = reads.read(session(), account(), clock.now())
    units = catalogue.units(session())
    profile, currency = running.account.profile, running.version.currency
    return page(
        "dashboard/billing/spending.html",
        form=_filled(form, profile, currency),
        running=running,
        cap_minor=profile.spend_cap_minor,
        action=profile.spend_cap_action,
        is_default=profile.spend_cap_is_default,
        default=setting("DEFAULT_SPEND_CAP"),
        base_minor=sum(line.amount_minor for line in running.forecast.lines if line.kind == "base"),
        currency=currency,
        rules=[
            {
                "rule": rule,
                "text": describe(rule.subject, rule.meter_code, unit_price_text(rule.threshold), units, currency),
            }
            for rule in alerts.rules(session(), organization_id(), running.account.period.id)
        ],
        subjects=list(_subjects(units, currency)),
        period=running.account.period,
        zone=zone(),
    )


@bp.post("/billing/spending/cap")
@require("spend-cap:write")
@submits(CapForm(), again=index)
def set_cap(body: dict[str, Any]) -> Any:
    """Put another cap in force, or none."""
    amount = body["amount"] if body["limit"] == "amount" else None
    billing.set_cap(session(), organization_id(), amount, body["action"], actor_of(g.principal))
    return see_other(PAGE, _notice="The spend cap is changed." if amount is not None else "There is no spend cap now.")


@bp.post("/billing/spending/alerts")
@require("spend-cap:write")
@submits(AlertForm(), again=index)
def add_alert(body: dict[str, Any]) -> Any:
    """Add an alert."""
    rules, wanted = _wanted(), Wanted(body["subject"], body["meter"], body["threshold"])
    if wanted in rules.values():
        raise Invalid.at("threshold", "There is such an alert already.")
    if len(rules) >= MOST_ALERTS:
        raise Invalid.at("subject", f"At most {MOST_ALERTS} alerts. Remove one first.")
    if body["subject"] not in {subject.partition(":")[0] for subject, _ in _subjects(_units(), "")}:
        raise Invalid.at("subject", "There is nothing like that to watch.")
    if (body["subject"] in OF_METERS) != (body["meter"] is not None) or body["meter"] not in {None, *_units()}:
        raise Invalid.at("subject", "There is no such meter.")
    _put([*rules.values(), wanted])
    return see_other(PAGE, _notice="The alert is added.")


@bp.post('/billing/spending/alerts/<id("alr"):rule_id>/switch')
@require("spend-cap:write")
@submits(NoFields(), again=lambda form, rule_id: index(form))  # noqa: ARG005 - the page of all of them is shown again
def switch_alert(rule_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Switch an alert off, or on again."""
    rules = _wanted()
    if rule_id not in rules:
        raise NotFound
    switched = replace(rules[rule_id], is_enabled=not rules[rule_id].is_enabled)
    _put(list({**rules, rule_id: switched}.values()))
    return see_other(PAGE, _notice=f"The alert is switched {'on' if switched.is_enabled else 'off'}.")


@bp.post('/billing/spending/alerts/<id("alr"):rule_id>/remove')
@require("spend-cap:write")
@submits(NoFields(), again=lambda form, rule_id: index(form))  # noqa: ARG005 - the page of all of them is shown again
def remove_alert(rule_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Remove an alert."""
    rules = _wanted()
    rules.pop(rule_id, None)
    _put(list(rules.values()))
    return see_other(PAGE, _notice="The alert is removed.")


def describe(subject: str, meter: str | None, threshold: str, units: dict[str, str], currency: str) -> str:
    """An alert in words.

    threshold: as text, in the unit of its subject
    """
    thing = f"{NAMES.get(meter or '', meter)} {units.get(meter or '', 'unit')}s"
    match subject:
        case "spend":
            return f"Spend reaches {threshold} {currency}"
        case "spend_percent_of_cap":
            return f"Spend reaches {threshold} % of the cap"
        case "quantity":
            return f"{threshold} {thing} used"
        case _:
            return f"{threshold} % of the included {thing} used"


def _subjects(units: dict[str, str], currency: str) -> Any:
    yield "spend", f"Spend, in {currency}"
    yield "spend_percent_of_cap", "Spend, in % of the cap"
    for meter, unit in sorted(units.items(), reverse=True):
        name = NAMES.get(meter, meter)
        yield f"quantity:{meter}", f"{name}, in {unit}s"
        yield f"percent_of_included:{meter}", f"{name}, in % of what the plan includes"


def _filled(typed: Form | None, profile: BillingProfile, currency: str) -> Form:
    """The page's two forms: what holds, and over it what was typed into one of them."""
    cap_minor, form = profile.spend_cap_minor, typed or Form()
    amount = "" if cap_minor is None else minor_to_text(cap_minor, currency)
    holds = {"limit": "none" if cap_minor is None else "amount", "amount": amount, "action": profile.spend_cap_action}
    return replace(form, values={**holds, **form.values})


def _units() -> dict[str, str]:
    return catalogue.units(session())


def _wanted() -> dict[UUID, Wanted]:
    rules: Sequence[Any] = alerts.rules(session(), organization_id(), account().period.id)
    return {row.id: Wanted(row.subject, row.meter_code, row.threshold, row.enabled) for row in rules}


def _put(rules: list[Wanted]) -> None:
    billing.change_rules(session(), organization_id(), rules, actor_of(g.principal))
