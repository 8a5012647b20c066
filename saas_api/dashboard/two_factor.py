"""Two-factor sign-in of the user's account: setting it up, recovery codes, turning it off."""

from typing import Any

import segno
from flask import Blueprint, Response, g
from markupsafe import Markup

from saas_api.accounts import throttles, two_factor
from saas_api.accounts.schemas import CodeIn
from saas_api.accounts.tokens import TokenAudience
from saas_api.core.access import require_permission
from saas_api.core.errors import NotFound
from saas_api.core.web import pages
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.dashboard import context

bp = Blueprint("two_factor", __name__)
_QR_SCALE, _QR_BORDER = 5, 4
"""Pixels of a module, and modules of white around the code, as its standard asks for."""


def draw_qr_code(text: str) -> Markup:
    """A QR code as an SVG element for a page, dark on white in both themes."""
    code = segno.make(text, micro=False)
    svg = code.svg_inline(scale=_QR_SCALE, border=_QR_BORDER, dark="#000", light="#fff", omitsize=True)
    return Markup(svg)  # noqa: S704 - of modules and colours, without the text


@bp.get("/account/two-factor")
@require_permission(None)
def show(form: Form | None = None) -> Response:
    """Show whether two-factor sign-in is on, and the forms that change it."""
    return pages.render_page(
        "dashboard/settings/two_factor.html",
        two_factor=two_factor.get_status(g.principal),
        zone=context.current_zone() if g.principal.has_organization else "UTC",
        form=form or Form(),
    )


@bp.post("/account/two-factor")
@require_permission(None)
@form_view(EmptyForm(), form=show)
def start_setup(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Make a secret for the user's authenticator app."""
    two_factor.start_setup(g.principal)
    return pages.redirect_to("dashboard.two_factor.setup_form")


@bp.get("/account/two-factor/setup")
@require_permission(None)
def setup_form(form: Form | None = None) -> Any:
    """Show the secret to scan, and the form of the first code."""
    try:
        setup = two_factor.get_setup(g.principal)
    except NotFound:  # it has ended, perhaps by this form in another tab
        return show(form) if form else pages.redirect_to("dashboard.two_factor.show")
    return pages.render_page(
        "dashboard/settings/two_factor_setup.html",
        secret=" ".join(setup.secret[start : start + 4] for start in range(0, len(setup.secret), 4)),
        qr_code=draw_qr_code(setup.uri),
        form=form or Form(),
    )


@bp.post("/account/two-factor/setup")
@require_permission(None)
@form_view(CodeIn(), form=setup_form, is_idempotent=True)
def enable(body: dict[str, Any]) -> Any:
    """Turn two-factor sign-in on, and show the recovery codes."""
    return _codes_page(two_factor.enable(g.principal, body["code"], throttles.request_origin(TokenAudience.PAGES)))


@bp.get("/account/two-factor/recovery-codes")
@require_permission(None)
def recovery_codes_form(form: Form | None = None) -> Response:
    """Show the form that makes new recovery codes."""
    return pages.render_page("dashboard/settings/two_factor_codes.html", form=form or Form())


@bp.post("/account/two-factor/recovery-codes")
@require_permission(None)
@form_view(CodeIn(), form=recovery_codes_form, is_idempotent=True)
def replace_recovery_codes(body: dict[str, Any]) -> Any:
    """Make new recovery codes, and show them."""
    origin = throttles.request_origin(TokenAudience.PAGES)
    return _codes_page(two_factor.replace_recovery_codes(g.principal, body["code"], origin))


@bp.get("/account/two-factor/disable")
@require_permission(None)
def disable_form(form: Form | None = None) -> Response:
    """Show the form that turns two-factor sign-in off."""
    return pages.render_page("dashboard/settings/two_factor_disable.html", form=form or Form())


@bp.post("/account/two-factor/disable")
@require_permission(None)
@form_view(CodeIn(), form=disable_form)
def disable(body: dict[str, Any]) -> Any:
    """Turn two-factor sign-in off."""
    two_factor.disable(g.principal, body["code"], throttles.request_origin(TokenAudience.PAGES))
    return pages.redirect_to("dashboard.two_factor.show", _notice="Two-factor sign-in is off.")


def _codes_page(codes: list[str]) -> Response:
    return pages.render_page("dashboard/settings/recovery_codes.html", codes=codes, is_secret=True)
