"""Pages about people: found, where they belong, their sessions, and what support does for them."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g, request, url_for

from saas_api.admin import service
from saas_api.admin.queries.reading import reading
from saas_api.admin.queries.tenants import users as reads
from saas_api.admin.schemas.lists import ReasonForm
from saas_api.admin.schemas.organizations import KINDS, UsersQuery
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.ids import wire_id
from saas_api.core.render import Form, csv_response, page, see_other, submits
from saas_api.core.render.filters import plural
from saas_api.core.render.lists import read_filters

bp = Blueprint("users", __name__)
_COLUMNS = ("id", "email", "full_name", "operator", "organizations", "email_verified_at", "created_at", "last_seen_at")


@bp.get("/admin/users")
@operator("support")
def index() -> Response:
    """Find people, newest first."""
    query, form = read_filters(UsersQuery())
    if form.errors:
        return page("admin/users/index.html", status=422, form=form, kinds=KINDS, rows=(), older="", newer="", csv="")
    with reading() as session:
        found = reads.search(session, query)
    if query["format"] == "csv":
        return csv_response("users.csv", _COLUMNS, [_cells(*row) for row in found.items])
    kept = {name: value for name, value in form.values.items() if name != "cursor"}
    return page(
        "admin/users/index.html",
        form=form,
        kinds=KINDS,
        rows=found.items,
        older=url_for(".index", **kept, cursor=found.next_cursor) if found.next_cursor else "",
        newer=url_for(".index", **kept) if request.args.get("cursor") else "",
        csv=url_for(".index", **kept, format="csv"),
    )


@bp.get('/admin/users/<id("usr"):user_id>')
@operator("support")
def show(user_id: UUID) -> Response:
    """Show somebody."""
    with reading() as session:
        found = reads.person(session, user_id)
    return page("admin/users/show.html", found=found)


@bp.get('/admin/users/<id("usr"):user_id>/end-sessions')
@operator("admin")
def ending(user_id: UUID, form: Form | None = None) -> Response:
    """Ask why somebody's sessions end."""
    return _ask(user_id, "end-sessions", form)


@bp.post('/admin/users/<id("usr"):user_id>/end-sessions')
@operator("admin")
@submits(ReasonForm(), again=ending, is_fresh=True)
def end_sessions(user_id: UUID, body: dict[str, Any]) -> Any:
    """End every session of somebody."""
    ended = service.end_sessions(g.principal, user_id, body["reason"])
    return see_other(".show", _notice=f"{plural(ended, 'session')} ended.", user_id=user_id)


@bp.get('/admin/users/<id("usr"):user_id>/reset-mail')
@operator("support")
def resetting(user_id: UUID, form: Form | None = None) -> Response:
    """Ask why somebody gets a reset mail."""
    return _ask(user_id, "reset-mail", form)


@bp.post('/admin/users/<id("usr"):user_id>/reset-mail')
@operator("support")
@submits(ReasonForm(), again=resetting, is_once=True, is_fresh=True)
def send_reset(user_id: UUID, body: dict[str, Any]) -> Any:
    """Mail somebody a link that sets their password."""
    service.send_reset(g.principal, user_id, body["reason"])
    return see_other(".show", _notice="The mail is on its way. Its link works for an hour.", user_id=user_id)


def _ask(user_id: UUID, act: str, form: Form | None) -> Response:
    with reading() as session:
        found = reads.person(session, user_id)
    return page("admin/users/act.html", found=found, act=act, form=form or Form())


def _cells(user: Any, office: str | None, organizations: int, seen: Any) -> tuple[Any, ...]:
    return (
        wire_id("usr", user.id),
        user.email,
        user.full_name,
        office or "",
        organizations,
        clock.rfc3339(user.email_verified_at) if user.email_verified_at else "",
        clock.rfc3339(user.created_at),
        clock.rfc3339(seen) if seen else "",
    )
