"""The spending page: spend cap and alerts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Blueprint, Response, g
from marshmallow import fields, validate
from sqlalchemy import Row

from saas_api.accounts import audit
from saas_api.billing import alerts, current_period, spend_cap
from saas_api.billing.models import BillingProfile
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.thresholds import AlertRuleInput, AlertSubject
from saas_api.billing.usage_schemas import MAX_ALERTS, AlertIn, SpendCapIn
from saas_api.core import clock, formatting, money
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.settings import setting
from saas_api.core.web import pages
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.dashboard import context, navigation
from saas_api.usage import meter_file, meters
from saas_api.usage.meter_file import MeterContent

bp = Blueprint("spend_cap", __name__)
bp.before_request(context.require_live_mode)
TEMPLATE = "dashboard.spend_cap.index"


class SpendCapForm(SpendCapIn):
    """A spend cap, or none."""

    limit = fields.String(required=True, validate=validate.OneOf(("amount", "none")))

    @ma.pre_load
    def _apply_limit(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if data.get("limit") == "none":
            return {**data, "amount": None}
        return {name: value for name, value in data.items() if value is not None}


class AlertForm(AlertIn):
    """A new alert; `subject` includes the meter, such as "quantity:sms"."""

    class Meta(AlertIn.Meta):
        """A new alert is enabled."""

        exclude = ("enabled",)

    @ma.pre_load
    def _split_subject(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        subject, _colon, meter = data.get("subject", "").partition(":")
        return {**data, "subject": subject, "meter": meter or None}


@bp.get("/billing/spending")
@require_permission("billing:read")
def index(form: Form | None = None) -> Response:
    """Show the spend cap, the spend of the period, and the alerts."""
    running = current_period.get_current_period(engine.session(), context.current_account(), clock.now())
    by_code = meters.all_meters(engine.session())
    profile, currency = running.account.profile, running.version.currency
    return pages.render_page(
        "dashboard/billing/spending.html",
        form=_filled(form, profile, currency),
        running=running,
        cap_minor=profile.spend_cap_minor,
        action=profile.spend_cap_action,
        is_default=profile.spend_cap_is_default,
        default_minor=setting("DEFAULT_SPEND_CAP").get(currency),
        currency=currency,
        alert_groups=list_alert_groups(
            alerts.list_alert_rules(engine.session(), context.current_organization_id(), running.account.period.id),
            by_code,
            running.version,
        ),
        subjects=list(_subjects(by_code, running.version)),
        period=running.account.period,
        zone=navigation.get_layout().organization.timezone,
    )


@bp.post("/billing/spending/cap")
@require_permission("spend-cap:write")
@form_view(SpendCapForm(), form=index)
def set_cap(body: dict[str, Any]) -> Any:
    """Set or remove the spend cap."""
    amount = body["amount"]
    spend_cap.set_spend_cap(engine.session(), g.principal, amount, body["action"])
    return pages.redirect_to(TEMPLATE, _notice="Spend cap saved." if amount is not None else "Spend cap removed.")


@bp.post("/billing/spending/alerts")
@require_permission("spend-cap:write")
@form_view(AlertForm(), form=index)
def add_alert(body: dict[str, Any]) -> Any:
    """Add an alert."""
    rules, rule = _alert_rules(), AlertRuleInput(**body)
    if rule in rules.values():
        raise ValidationFailed.at_field("threshold", "This alert already exists.")
    if len(rules) >= MAX_ALERTS:
        raise ValidationFailed.at_field("subject", f"You can have at most {MAX_ALERTS} alerts. Remove one first.")
    _save_alerts([*rules.values(), rule])
    return pages.redirect_to(TEMPLATE, _notice="Alert added.")


@bp.post('/billing/spending/alerts/<id("alr"):rule_id>/switch')
@require_permission("spend-cap:write")
@form_view(EmptyForm(), form=lambda form, rule_id: index(form))  # noqa: ARG005 - the page of all of them is shown again
def toggle_alert(rule_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Enable or disable an alert."""
    rules = _alert_rules()
    if rule_id not in rules:
        raise NotFound
    toggled = replace(rules[rule_id], is_enabled=not rules[rule_id].is_enabled)
    _save_alerts(list({**rules, rule_id: toggled}.values()))
    return pages.redirect_to(TEMPLATE, _notice=f"Alert turned {'on' if toggled.is_enabled else 'off'}.")


@bp.post('/billing/spending/alerts/<id("alr"):rule_id>/remove')
@require_permission("spend-cap:write")
@form_view(EmptyForm(), form=lambda form, rule_id: index(form))  # noqa: ARG005 - the page of all of them is shown again
def remove_alert(rule_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Remove an alert."""
    rules = _alert_rules()
    rules.pop(rule_id, None)
    _save_alerts(list(rules.values()))
    return pages.redirect_to(TEMPLATE, _notice="Alert removed.")


@dataclass(frozen=True)
class AlertChip:
    """A threshold of a subject.

    rule: as of `alerts.list_alert_rules`
    threshold, text: in words, alone and with its subject
    """

    rule: Row[Any]
    threshold: str
    text: str


@dataclass(frozen=True)
class AlertGroup:
    """The alerts of one subject, lowest threshold first.

    is_void: the plan includes nothing that they could count
    """

    subject: str
    is_void: bool
    chips: Sequence[AlertChip]


def list_alert_groups(
    rules: Iterable[Row[Any]], by_code: Mapping[str, MeterContent], version: RatedPlanVersion
) -> list[AlertGroup]:
    """Returns alerts by what they watch, those of the spend first."""
    groups: defaultdict[tuple[str, str | None], list[Row[Any]]] = defaultdict(list)
    for rule in sorted(rules, key=lambda rule: (rule.meter_code or "", rule.subject, rule.threshold)):
        groups[rule.subject, rule.meter_code].append(rule)
    return [
        AlertGroup(
            describe_subject(subject, code, by_code),
            subject == AlertSubject.PERCENT_OF_INCLUDED and not _includes_some(version, code),
            [_chip(rule, by_code, version.currency) for rule in own],
        )
        for (subject, code), own in groups.items()
    ]


def _chip(rule: Row[Any], by_code: Mapping[str, MeterContent], currency: str) -> AlertChip:
    match rule.subject:
        case AlertSubject.SPEND:
            threshold = formatting.format_cost(rule.threshold, currency)
        case AlertSubject.QUANTITY:
            threshold = formatting.format_number(rule.threshold)
        case _:
            threshold = formatting.format_percent(rule.threshold / 100)
    return AlertChip(rule, threshold, f"{describe_subject(rule.subject, rule.meter_code, by_code)}: {threshold}")


def describe_subject(subject: str, code: str | None, by_code: Mapping[str, MeterContent]) -> str:
    """Returns what an alert watches in words.

    code, by_code: of its meter, and every meter
    """
    match subject:
        case AlertSubject.SPEND:
            return "Spend"
        case AlertSubject.SPEND_PERCENT_OF_CAP:
            return "Spend, % of the cap"
        case AlertSubject.QUANTITY:
            return f"{by_code[str(code)].plural} used"
        case _:
            return f"{by_code[str(code)].plural}, % of included"


def _subjects(by_code: Mapping[str, MeterContent], version: RatedPlanVersion) -> Iterator[tuple[str, str]]:
    """What a new alert can watch: included quantities of the meters of which the plan includes some."""
    yield "spend", f"Spend, in {version.currency}"
    yield "spend_percent_of_cap", "Spend, in % of the cap"
    for code, meter in sorted(by_code.items(), reverse=True):
        name = meter_file.in_text(meter.name)
        yield f"quantity:{code}", f"{name}, in {meter_file.plural_unit(meter.unit)}"
        if _includes_some(version, code):
            yield f"percent_of_included:{code}", f"{name}, in % of what the plan includes"


def _includes_some(version: RatedPlanVersion, meter: str | None) -> bool:
    price = version.prices.get(meter or "")
    return price is not None and price.includes_some


def _filled(submitted: Form | None, profile: BillingProfile, currency: str) -> Form:
    """Returns the values of the page's two forms: the stored ones, overridden by the submitted ones."""
    cap_minor, form = profile.spend_cap_minor, submitted or Form()
    amount = "" if cap_minor is None else money.format_minor(cap_minor, currency)
    current = {"limit": "none" if cap_minor is None else "amount", "amount": amount, "action": profile.spend_cap_action}
    return replace(form, values={**current, **form.values})


def _alert_rules() -> dict[UUID, AlertRuleInput]:
    rules: Sequence[Any] = alerts.list_alert_rules(
        engine.session(), context.current_organization_id(), context.current_account().period.id
    )
    return {row.id: AlertRuleInput(row.subject, row.meter_code, row.threshold, row.enabled) for row in rules}


def _save_alerts(rules: list[AlertRuleInput]) -> None:
    alerts.replace_alert_rules(engine.session(), context.current_organization_id(), rules, audit.actor_for(g.principal))
