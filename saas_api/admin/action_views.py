"""The pair of views that shows the form of an action and runs it, registered for each entry of the table."""

from typing import Any

from flask import Blueprint, Response, g, make_response, url_for

from saas_api.accounts.audit import OperatorContext
from saas_api.admin import actions, context, organization_actions
from saas_api.admin.action_types import Action, Subject, SubjectText
from saas_api.admin.context import Preview
from saas_api.admin.subjects import SUBJECTS
from saas_api.core import ids
from saas_api.core.access import public_view, require_operator
from saas_api.core.errors import ValidationFailed
from saas_api.core.web import pages
from saas_api.core.web.forms import Form, form_view

bp = Blueprint("actions", __name__)


def action_url(subject: str, name: str, /, **path: Any) -> str:
    """URL of the form of an action.

    path: arguments of the subject's rule
    """
    return url_for(f"admin.actions.{actions.get_action(subject, name).key}_form", **path)


@bp.post("/admin/impersonation/end")
@public_view
def stop_impersonation() -> Response:
    """End the impersonation of this browser; public, because it ends nothing else."""
    token, g.impersonation_token = g.presented_impersonation_token, None
    organization_id = organization_actions.stop_impersonation(token) if token else None
    path = "/admin/organizations"
    if organization_id:
        path = f"{path}/{ids.format_id('org', organization_id)}"
    return pages.redirect_to(path, _notice="You stopped viewing the organization.")


def _register(action: Action) -> None:
    subject = SUBJECTS[action.subject]
    rule = subject.rule.replace("{action}", action.name)

    @require_operator(action.role)
    def show_form(form: Form | None = None, **path: Any) -> Response:
        return _show_form(action, subject, path, form)

    @require_operator(action.role)
    @form_view(action.form(), form=show_form, is_idempotent=action.is_idempotent, requires_fresh_login=True)
    def run(body: dict[str, Any], **path: Any) -> Response:
        return _run(action, subject, path, body)

    bp.add_url_rule(rule, f"{action.key}_form", show_form, methods=["GET"])
    bp.add_url_rule(rule, action.key, run, methods=["POST"])


def _show_form(action: Action, subject: Subject, path: dict[str, Any], form: Form | None) -> Response:
    with context.read_session() as session:
        target = subject.load(session, **path)
    preview = action.preview(target, form) if action.preview else Preview()
    page_url = _page_url(subject, path)
    crumbs = [(subject.section, url_for(subject.section_page))]
    if subject.label:
        crumbs.append((subject.label(target), page_url))
    return pages.render_page(
        "admin/action.html",
        status=preview.status,
        action=action,
        title=_text(action.title, target),
        consequence=_text(action.consequence, target),
        button=_text(action.button, target),
        button_style=_text(action.button_style, target),
        is_tenant_owned=subject.is_tenant_owned,
        subject=target,
        preview=preview,
        crumbs=crumbs,
        page_url=page_url,
        form=form or Form(preview.values),
    )


def _run(action: Action, subject: Subject, path: dict[str, Any], body: dict[str, Any]) -> Response:
    with context.read_session() as session:
        target = subject.load(session, **path)
    operator = OperatorContext(context.current_operator(g.principal), body.pop("reason"))
    if action.is_confirmed_by_name and body.pop("name").strip() != target.name:
        raise ValidationFailed.at_field("name", f"The name doesn't match. Type {target.name}")
    result = action.run(operator, *subject.key(target), **body)
    if action.show_result:
        return action.show_result(result)
    message = action.success_message
    notice = message if isinstance(message, str) else message(target, result)
    next_page = action.next_page(result) if action.next_page else _page_url(subject, path)
    return make_response(pages.redirect_to(next_page, _notice=notice))


def _page_url(subject: Subject, path: dict[str, Any]) -> str:
    return url_for(subject.page, **path) if subject.page else url_for(subject.section_page)


def _text(text: SubjectText, target: Any) -> str:
    return text if isinstance(text, str) else text(target)


for _action in actions.ACTIONS:
    _register(_action)
