"""Forms of pages: what was typed comes back with what is wrong, and a repeated submit does nothing twice.

A form that makes something carries a signed key with its time; the answer is kept under it in the transaction of its
effect, as under an Idempotency-Key of the API.
"""

import functools
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

import marshmallow as ma
from flask import Response, g, make_response, request
from flask import session as visit
from marshmallow import fields
from sqlalchemy.exc import IntegrityError

from saas_api.core import crypto, idempotency
from saas_api.core.access import NotFresh, check_fresh
from saas_api.core.db import constraint_of, db
from saas_api.core.errors import ApiError, Forbidden, Invalid, Malformed, NotFound
from saas_api.core.http import load
from saas_api.core.render.repeats import answer_once

CSRF, ONCE, PASSWORD = "csrf_token", "form_key", "confirm_password"
_MISSING = "Missing data for required field."
KEY_SECONDS = 3000
"""Less than the hour for which an answer with a secret is kept."""


class FormExpired(Malformed):
    """A form of an ended session, or of another page than ours."""

    code, message = "FORM_EXPIRED", "This form is no longer valid. Nothing was done."


class SentAlready(Invalid):
    """A form's key is too old, missing, or was used for other values."""

    code = "FORM_SENT_ALREADY"


@dataclass
class Form:
    """What a form shows: values as typed, what is wrong by field, what is wrong besides, and the error's code."""

    values: Mapping[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    code: str | None = None

    def value(self, name: str, default: Any = "") -> Any:
        """What a field shows."""
        found = self.values.get(name)
        return default if found is None else found


def csrf_token() -> str:
    """What a form must bring back: of the session, or for who has none of this visit."""
    if g.get("csrf"):
        return str(g.csrf)
    if "nonce" not in visit:
        visit["nonce"] = secrets.token_urlsafe(16)
    return crypto.mac("visit", visit["nonce"])[:32]


def is_own_form(*, is_visit: bool = False) -> bool:
    """Whether what is sent came from a form that this person opened here.

    is_visit: a form for everybody, which may have been opened before its reader signed in
    """
    sent = request.headers.get("X-CSRF-TOKEN") or request.form.get(CSRF, "")
    accepted = [g.csrf] if g.get("csrf") else []
    if "nonce" in visit and (is_visit or not accepted):
        accepted.append(crypto.mac("visit", visit["nonce"])[:32])
    return is_own_origin() and any(compare_digest(sent.encode(), str(one).encode()) for one in accepted)


def is_own_origin(*, is_proof_asked: bool = False) -> bool:
    """Whether the browser says that our own page sent this.

    is_proof_asked: what says nothing is not believed
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin == "null":  # said of every form of a page without referrers, such as ours
        origin = None
    if site == "cross-site" or (origin and urlsplit(origin).netloc != request.host):
        return False
    if site == "same-site" and not origin:
        return False
    return bool(origin or site == "same-origin") or not is_proof_asked


def kept_address() -> str:
    """Where a refused form of ours was sent to; empty for what may come from elsewhere."""
    return request.path if is_own_origin(is_proof_asked=True) else ""


def kept_fields() -> list[tuple[str, str]]:
    """What a refused form held, to be sent again: no passwords, and nothing that another site sent."""
    if not is_own_origin(is_proof_asked=True):
        return []
    return [
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in (CSRF, ONCE) and "password" not in name
    ]


def form_key() -> str:
    """A key for one submit of a form."""
    made = f"{int(time.time())}.{secrets.token_urlsafe(12)}"
    return f"{made}.{crypto.mac('form', made)[:32]}"


def submits(
    schema: ma.Schema, *, again: Callable[..., Any], is_once: bool = False, is_fresh: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """Read a form and call the view with it; what is refused shows the form again as it was typed.

    schema: of the fields; what is empty is left out
    again: the view that shows the form, called with the path's arguments and `form`
    is_once: a repeated submit gets the answer of the first
    is_fresh: a password of the last ten minutes is asked for
    """

    def wrap(view: Callable[..., Any]) -> Callable[..., Response]:
        @functools.wraps(view)
        def call(**path: Any) -> Response:
            try:
                if is_fresh:
                    check_fresh(g.principal)
                body = load(schema, _typed(schema))
                run = functools.partial(view, body=body, **path)
                return _once(run) if is_once else make_response(run())
            except (ApiError, IntegrityError) as error:
                refused = _refusal(error)
                db.session.rollback()
                answer = make_response(again(form=_form(schema, refused), **path))
                answer.status_code = 422 if isinstance(refused, NotFresh) else refused.status
                return answer

        return call

    return wrap


def _refusal(error: ApiError | IntegrityError) -> ApiError:
    if isinstance(error, IntegrityError):
        known = ApiError.by_constraint.get(constraint_of(error) or "")
        if known is None:
            raise error
        return known()
    if isinstance(error, NotFound | FormExpired) or type(error) is Forbidden or error.status >= 500:
        raise error
    return error


def _typed(schema: ma.Schema) -> dict[str, Any]:
    typed: dict[str, Any] = {}
    for name, kind in schema.fields.items():
        if isinstance(kind, fields.List):
            typed[name] = [value for value in request.form.getlist(name) if value]
        elif isinstance(kind, fields.Boolean):
            typed[name] = bool(request.form.get(name))
        elif request.form.get(name, "").strip():
            typed[name] = request.form[name].replace("\r\n", "\n")
    return typed


def _form(schema: ma.Schema, error: ApiError) -> Form:
    values: dict[str, Any] = {name: value for name, value in request.form.items() if "password" not in name}
    for name, kind in schema.fields.items():
        if isinstance(kind, fields.List):
            values[name] = request.form.getlist(name)
    if isinstance(error, NotFresh):
        wrong = "The password is wrong." if g.get("is_password_wrong") else "Enter your password to go on."
        return Form(values, {PASSWORD: wrong})
    told: dict[str, str] = {}
    for one in error.details.get("fields", []):
        reason = str(one["reason"])
        told.setdefault(str(one["field"]).partition(".")[0], "Fill this in." if reason == _MISSING else reason)
    if error.field and not told:
        told[error.field] = error.message
    return Form(values, told, None if told else error.message, error.code)


def _once(run: Callable[[], Any]) -> Response:
    key = request.form.get(ONCE, "")
    made, _, seal = key.rpartition(".")
    if not compare_digest(seal.encode(), crypto.mac("form", made)[:32].encode()):
        raise SentAlready("Send the form again.")
    if time.time() - int(made.partition(".")[0]) > KEY_SECONDS:
        raise SentAlready("This form was open for a long time. See whether it was sent already, then send it again.")
    try:
        return answer_once(g.principal, f"form:{key}", _print(), run, is_bound="scope" in g)
    except idempotency.KeyReused as cause:
        raise SentAlready("This form was sent already. To send it once more with these values, press again.") from cause


def _print() -> bytes:
    sent = sorted((name, value) for name, value in request.form.items(multi=True) if name not in (CSRF, ONCE, PASSWORD))
    return idempotency.fingerprint(g.principal, "POST", request.path, {"form": sent})
