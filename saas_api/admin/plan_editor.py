"""The editor of plans: a draft in fields or as JSON, its review, publication, and the move of organizations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, g, request, url_for
from marshmallow import fields, validate

from saas_api.accounts import audit, users
from saas_api.accounts.audit import OperatorContext
from saas_api.admin import context, plan_fields, plans
from saas_api.admin.action_types import Action
from saas_api.admin.context import Preview, ReasonForm
from saas_api.admin.plans import PlanVersionView
from saas_api.billing import plan_drafts, plan_migrations
from saas_api.billing import plans as billing_plans
from saas_api.billing.models import PlanDraft
from saas_api.billing.plan_drafts import DraftChanged
from saas_api.billing.plan_migrations import PlanMigration, PublicationPreview
from saas_api.billing.plans import PublishResult
from saas_api.billing.rating.charges import PriceModel
from saas_api.billing.subscriptions import EFFECTIVE_NOW, EFFECTIVE_PERIOD_END
from saas_api.core import document_reader, formatting
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.document_reader import InvalidDocument
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.fields import StrictInteger, StrictSchema, Text
from saas_api.core.money import CURRENCY_EXPONENTS
from saas_api.core.web import pages, templating
from saas_api.core.web.forms import Form, form_view
from saas_api.usage import meters

bp = Blueprint("plan_editor", __name__)

MAX_PREVIEWED, MAX_MOVED = 20, 500
WHEN = (EFFECTIVE_PERIOD_END, EFFECTIVE_NOW)


@dataclass(frozen=True)
class DraftDetail:
    """A draft, or the version that a draft would follow.

    revision: 0 without a stored draft
    author: email of the operator who saved it last
    is_outdated: a newer version than the one that it follows was published
    """

    id: str
    document: dict[str, Any]
    revision: int
    draft: PlanDraft | None
    author: str
    is_outdated: bool

    @property
    def name(self) -> str:
        """Name of the plan, or its code while it has none."""
        return str(self.document.get("name") or plan_drafts.plan_of_draft(self.id))


@dataclass(frozen=True)
class Review:
    """What publishing a draft would do, or the problems because of which it cannot be published."""

    preview: PublicationPreview | None = None
    problems: Sequence[tuple[str, str]] = field(default_factory=tuple)


@dataclass(frozen=True)
class MigrationChoice:
    """The move of organizations that an operator chooses.

    targets: ids of newer versions
    count: number of organizations on the source version
    moves: the first of them; None before a target is chosen
    """

    targets: Sequence[str]
    chosen: Form
    count: int
    moves: Sequence[PlanMigration] | None = None


class DraftForm(StrictSchema):
    """The revision of the draft that was edited; its fields are read by `plan_fields`, or all at once as JSON."""

    revision = StrictInteger(required=True)
    document = Text(maximum=100_000, multiline=True, load_default=None)


class RevisionForm(ReasonForm):
    """The revision of the draft that the operator saw."""

    revision = StrictInteger(required=True)


class PublishForm(RevisionForm):
    """The revision of the draft, and the version to which the operator compared it; "" for none."""

    previous = Text(maximum=60, load_default="")


class NewPlanForm(ReasonForm):
    """A new plan, with the prices of another one to begin with."""

    code = fields.String(
        required=True,
        validate=validate.Regexp(r"[a-z][a-z0-9_-]{0,39}\Z", error="Use lower-case letters, digits, - and _."),
    )
    name = Text(maximum=80, required=True)
    currency = fields.String(required=True, validate=validate.OneOf(list(CURRENCY_EXPONENTS)))
    copied_from = Text(maximum=60, required=True)


class MigrationForm(ReasonForm):
    """Where organizations move, and when."""

    target = Text(maximum=60, required=True)
    when = fields.String(required=True, validate=validate.OneOf(WHEN))


def get_draft_detail(session: SystemSession, version_id: str) -> DraftDetail:
    """A draft by the version that it follows or the code of its new plan.

    raises: NotFound
    """
    found = plan_drafts.find_document(session, version_id)
    if found is None:
        raise NotFound
    document, revision = found
    draft = plan_drafts.find_draft(session, version_id)
    author = users.find_user(session, draft.updated_by) if draft else None
    plan, currency = plan_drafts.plan_of_draft(version_id), document.get("currency")
    newest = billing_plans.find_newest_version_id(session, plan, currency if isinstance(currency, str) else None)
    return DraftDetail(
        version_id, document, revision, draft, author.email if author else "", newest not in (None, version_id)
    )


def create_plan_draft(session: SystemSession, operator: OperatorContext, **values: Any) -> str:
    """Stores the draft of a new plan.

    returns: its id, the code of the plan
    raises: ValidationFailed for a plan that exists or has a draft, and for an unknown version to copy
    """
    code, source = values["code"], values["copied_from"]
    if billing_plans.find_currency(session, code) or plan_drafts.find_draft(session, code):
        raise ValidationFailed.at_field("code", "There is a plan with this code. Choose another one.")
    found = plan_drafts.find_document(session, source) if "@" in source else None
    if found is None:
        raise ValidationFailed.at_field("copied_from", "There is no such plan version.")
    document = {name: value for name, value in found[0].items() if name != "position"}
    document |= {"plan": code, "name": values["name"], "currency": values["currency"]}
    plan_drafts.save_draft(session, code, document, 0, operator.actor)
    return str(code)


def publish(operator: OperatorContext, version_id: str, *, revision: int, previous: str) -> PublishResult:
    """Publishes a draft.

    raises: ValidationFailed with the problems of an invalid draft; as `plan_drafts.publish_draft`
    """
    try:
        return plan_drafts.publish_draft(version_id, operator, revision=revision, previous=previous or None)
    except InvalidDocument as error:
        raise ValidationFailed("The draft has problems. Edit it first.") from error


def migrate(operator: OperatorContext, source: str, *, target: str, when: str) -> tuple[int, int]:
    """Moves at most MAX_MOVED organizations from a version to another.

    returns: how many were moved, and how many can still be moved
    raises: ValidationFailed for a target that is no newer version; as `plan_migrations.migrate`
    """
    with context.write_session() as session:
        if target not in plans.list_newer_versions(session, plans.get_plan(session, source)):
            raise ValidationFailed.at_field("target", "Choose a newer version of the plan.")
        data = {"target": target, "when": when, "reason": operator.reason}
        audit.record_event(session, None, operator.actor, "plan.migrated", ("plan", source), data)
    moved = sum(1 for _ in plan_migrations.migrate(source, target, when, operator.actor, most=MAX_MOVED))
    with context.read_session() as session:
        return moved, plan_migrations.count_organizations(session, source, is_movable=True)


def review_draft(detail: DraftDetail) -> Review:
    """What publishing a draft would do."""
    try:
        actor = context.current_operator(g.principal)
        return Review(plan_migrations.preview_publication(detail.document, actor, MAX_PREVIEWED))
    except InvalidDocument as error:
        return Review(problems=error.problems)


def preview_publish(detail: DraftDetail, _form: Form | None) -> Preview:
    """The differences of a draft, and the organizations on its plan."""
    review = review_draft(detail)
    has_changes = bool(detail.revision and review.preview and review.preview.result.differences)
    return Preview(review, {"revision": detail.revision}, is_ready=has_changes)


def preview_discard(detail: DraftDetail, _form: Form | None) -> Preview:
    """Nothing to discard where no draft is stored."""
    return Preview(values={"revision": detail.revision}, is_ready=bool(detail.revision))


def preview_new_plan(_subject: None, _form: Form | None) -> Preview:
    """The plans that can be copied."""
    with context.read_session() as session:
        return Preview({code: plan.version for code, plan in billing_plans.list_selectable_plans(session).items()})


def preview_migrate(plan: PlanVersionView, form: Form | None) -> Preview:
    """The move that the query chooses, or the refused form."""
    given = form.values if form else request.args
    values = {"target": given.get("target", ""), "when": given.get("when") or EFFECTIVE_PERIOD_END}
    source, chosen = plan.row.version_id, Form(values)
    with context.read_session() as session:
        targets = plans.list_newer_versions(session, plan)
        count = plan_migrations.count_organizations(session, source)
    choice = MigrationChoice(targets, chosen, count)
    if not values["target"] or not count:
        return Preview(choice, values, is_ready=False)
    try:
        moves = plan_migrations.preview_migration(source, values["target"], values["when"], None, MAX_PREVIEWED)
    except ValidationFailed as error:
        chosen.errors["target"] = str(error.details["fields"][0]["reason"])
        return Preview(choice, values, status=422, is_ready=False)
    return Preview(MigrationChoice(targets, chosen, count, moves), values)


@bp.get("/admin/plans/<version_id>/draft")
@require_operator("admin")
def edit(version_id: str, form: Form | None = None) -> Response:
    """Show a draft in fields, or as JSON."""
    with context.read_session() as session:
        detail = get_draft_detail(session, version_id)
        known_meters = meters.all_meters(session)
    document = _submitted_document(form.values, detail.document) if form else detail.document
    problems = _problems(document) if detail.revision or form else ()
    is_json = bool(request.args.get("as") == "json" or (form and "document" in form.values))
    errors = plan_fields.field_errors(document, problems)
    text = form.value("document") if form and is_json else json.dumps(document, indent=2, ensure_ascii=False)
    return pages.render_page(
        "admin/plans/edit.html",
        detail=detail,
        document=document,
        problems=problems,
        form=Form({**plan_fields.to_values(document), "document": text}, {**errors, **(form.errors if form else {})}),
        problem=form.problem if form else None,
        is_conflict=bool(form and form.code == DraftChanged.code),
        is_json=is_json,
        prices=plan_fields.list_prices(document),
        entitlements=plan_fields.list_entitlements(document),
        meters=known_meters,
        models=list(PriceModel),
    )


@bp.post("/admin/plans/<version_id>/draft")
@require_operator("admin")
@form_view(DraftForm(), form=edit)
def save(version_id: str, body: dict[str, Any]) -> Any:
    """Store a draft, whether or not it could be published."""
    with context.read_session() as session:
        base = get_draft_detail(session, version_id).document
    document = _parse(body["document"]) if body["document"] else plan_fields.to_document(request.form, base)
    with context.write_session() as session:
        actor = context.current_operator(g.principal)
        plan_drafts.save_draft(session, version_id, document, body["revision"], actor)
    if request.form.get("then") == "review":
        return pages.redirect_to(url_for("admin.actions.plan_draft_publish_form", version_id=version_id))
    path = url_for(".edit", version_id=version_id) + ("?as=json" if body["document"] else "")
    return pages.redirect_to(path, _notice="Draft saved.")


def _parse(text: str) -> dict[str, Any]:
    try:
        document = document_reader.parse_json(text)
    except InvalidDocument as error:
        raise ValidationFailed.at_field("document", "; ".join(reason for _, reason in error.problems)) from error
    if not isinstance(document, dict):
        raise ValidationFailed.at_field("document", "Enter one JSON object.")
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # half of a surrogate pair, or a number without end
        reason = "It has a number or a character that cannot be stored."
        raise ValidationFailed.at_field("document", reason) from error
    return document


def _submitted_document(values: Mapping[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The document that a refused form describes; that of the draft where it is no JSON."""
    if "document" not in values:
        return plan_fields.to_document(values, base)
    try:
        return _parse(values["document"])
    except ValidationFailed:
        return base


def _problems(document: dict[str, Any]) -> Sequence[tuple[str, str]]:
    try:
        billing_plans.publish_plan(document, context.current_operator(g.principal), is_dry=True)
    except InvalidDocument as error:
        return error.problems
    return ()


def _describe_publication(detail: DraftDetail, result: PublishResult) -> str:
    if not result.version_id:
        return f"{detail.name} changed. Its prices stay as they are."
    return f"{result.version_id} published. New subscriptions use it from now on."


def _describe_migration(_plan: PlanVersionView, result: tuple[int, int]) -> str:
    moved, left = result
    notice = f"{templating.pluralize(moved, 'organization')} moved."
    return f"{notice} {formatting.format_number(left)} left. Move organizations again to go on." if left else notice


def _published_page(result: PublishResult) -> str:
    return url_for("admin.plans.show", version_id=result.version_id or result.previous)


ACTIONS: tuple[Action, ...] = (
    Action(
        "new",
        "plan_catalogue",
        "Create plan",
        "Creates a draft. Nobody sees the plan until you publish it.",
        "Create draft",
        "Draft created.",
        context.in_write_session(create_plan_draft),
        NewPlanForm,
        preview=preview_new_plan,
        next_page=lambda draft_id: url_for("admin.plan_editor.edit", version_id=draft_id),
    ),
    Action(
        "publish",
        "plan_draft",
        lambda detail: f"Publish {detail.name}",
        "This is a preview. Nothing changes until you publish. New subscriptions then use the new version. "
        "Organizations on the plan stay on their version until you move them.",
        "Publish plan",
        _describe_publication,
        publish,
        PublishForm,
        is_idempotent=True,
        preview=preview_publish,
        next_page=_published_page,
    ),
    Action(
        "discard",
        "plan_draft",
        lambda detail: f"Discard the draft of {detail.name}",
        "The draft is deleted. Published versions stay as they are.",
        "Discard draft",
        "Draft discarded.",
        context.in_write_session(plan_drafts.discard_draft),
        RevisionForm,
        "danger",
        preview=preview_discard,
        next_page=lambda _: url_for("admin.plans.index"),
    ),
    Action(
        "migrate",
        "plan_version",
        lambda plan: f"Move organizations from {plan.row.version_id}",
        "Moves the organizations on this version to another version. Each gets an email that lists what changes. "
        "Organizations with a scheduled plan change stay.",
        "Move organizations",
        _describe_migration,
        migrate,
        MigrationForm,
        preview=preview_migrate,
    ),
)
