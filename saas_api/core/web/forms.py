"""Form_view, Form, CSRF, form keys, a submit that runs once, parse_filters, EmptyForm."""

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

import marshmallow as ma
import redis
from flask import Response, g, make_response, request
from flask import session as visit
from marshmallow import fields
from sqlalchemy.exc import IntegrityError

from saas_api.core import access, crypto, idempotency
from saas_api.core.access import FreshLoginRequired, Principal
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.errors import ApiError, BadRequest, Forbidden, NotFound, ServiceUnavailable, ValidationFailed
from saas_api.core.fields import StrictSchema
from saas_api.core.idempotency import (
    AlreadyAnswered,
    IdempotencyKeyReused,
    IdempotentRequest,
    IdempotentRequestInProgress,
    StoredResponse,
)
from saas_api.core.jobs import queue
from saas_api.core.web import http
from saas_api.core.web.pages import PageResponse


class EmptyForm(StrictSchema):
    """A form that is one button."""


CSRF_FIELD, FORM_KEY_FIELD, PASSWORD_FIELD = "csrf_token", "form_key", "confirm_password"
_MISSING = "Missing data for required field."
FORM_KEY_TTL_SECONDS = 3000
"""Less than the hour for which an answer with a secret is kept."""


class FormExpired(BadRequest):
    """A form of an ended session, or of another page than ours."""

    code, message = "FORM_EXPIRED", "This form is no longer valid. Nothing was done."


class FormAlreadySubmitted(ValidationFailed):
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
    return crypto.hmac_hex("visit", visit["nonce"])[:32]


def is_csrf_valid(*, is_visit: bool = False) -> bool:
    """Whether what is sent came from a form that this person opened here.

    is_visit: a form for everybody, which may have been opened before its reader signed in
    """
    sent = request.headers.get("X-CSRF-TOKEN") or request.form.get(CSRF_FIELD, "")
    accepted = [g.csrf] if g.get("csrf") else []
    if "nonce" in visit and (is_visit or not accepted):
        accepted.append(crypto.hmac_hex("visit", visit["nonce"])[:32])
    return is_same_origin() and any(compare_digest(sent.encode(), str(one).encode()) for one in accepted)


def is_same_origin(*, is_proof_asked: bool = False) -> bool:
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


def resubmit_url() -> str:
    """Where a refused form of ours was sent to; empty for what may come from elsewhere."""
    return request.path if is_same_origin(is_proof_asked=True) else ""


def resubmit_fields() -> list[tuple[str, str]]:
    """What a refused form held, to be sent again: no passwords, and nothing that another site sent."""
    if not is_same_origin(is_proof_asked=True):
        return []
    return [
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in (CSRF_FIELD, FORM_KEY_FIELD) and "password" not in name
    ]


def new_form_key() -> str:
    """A key for one submit of a form."""
    made = f"{int(time.time())}.{secrets.token_urlsafe(12)}"
    return f"{made}.{crypto.hmac_hex('form', made)[:32]}"


def form_view(
    schema: ma.Schema, *, form: Callable[..., Any], is_idempotent: bool = False, requires_fresh_login: bool = False
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
                if requires_fresh_login:
                    access.require_fresh_login(g.principal)
                body = http.load_schema(schema, _submitted_values(schema))
                run = functools.partial(view, body=body, **path)
                return _submit_once(run) if is_idempotent else make_response(run())
            except (ApiError, IntegrityError) as error:
                refused = _validation_error(error)
                db.session.rollback()
                answer = make_response(form(form=_form(schema, refused), **path))
                answer.status_code = 422 if isinstance(refused, FreshLoginRequired) else refused.status
                return answer

        return call

    return wrap


def _validation_error(error: ApiError | IntegrityError) -> ApiError:
    if isinstance(error, IntegrityError):
        known = ApiError.by_constraint.get(engine.violated_constraint(error) or "")
        if known is None:
            raise error
        return known()
    if isinstance(error, NotFound | FormExpired) or type(error) is Forbidden or error.status >= 500:
        raise error
    return error


def _submitted_values(schema: ma.Schema) -> dict[str, Any]:
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
    if isinstance(error, FreshLoginRequired):
        wrong = "The password is wrong." if g.get("is_password_wrong") else "Enter your password to go on."
        return Form(values, {PASSWORD_FIELD: wrong})
    told: dict[str, str] = {}
    for one in error.details.get("fields", []):
        reason = str(one["reason"])
        told.setdefault(str(one["field"]).partition(".")[0], "Fill this in." if reason == _MISSING else reason)
    if error.field and not told:
        told[error.field] = error.message
    return Form(values, told, None if told else error.message, error.code)


def _submit_once(run: Callable[[], Any]) -> Response:
    key = request.form.get(FORM_KEY_FIELD, "")
    made, _, seal = key.rpartition(".")
    if not compare_digest(seal.encode(), crypto.hmac_hex("form", made)[:32].encode()):
        raise FormAlreadySubmitted("Send the form again.")
    if time.time() - int(made.partition(".")[0]) > FORM_KEY_TTL_SECONDS:
        raise FormAlreadySubmitted(
            "This form was open for a long time. See whether it was sent already, then send it again."
        )
    try:
        return run_form_once(g.principal, f"form:{key}", _fingerprint(), run, is_bound="scope" in g)
    except IdempotencyKeyReused as cause:
        raise FormAlreadySubmitted(
            "This form was sent already. To send it once more with these values, press again."
        ) from cause


def _fingerprint() -> bytes:
    sent = sorted(
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in (CSRF_FIELD, FORM_KEY_FIELD, PASSWORD_FIELD)
    )
    return idempotency.fingerprint(g.principal, "POST", request.path, {"form": sent})


def parse_filters(schema: StrictSchema) -> tuple[dict[str, Any], Form]:
    """What a list is asked for; what is wrong stands in the form, and nothing is to be listed then.

    returns: the values, or none of them beside a form with errors
    """
    sent = {name: value for name in schema.fields if (value := request.args.get(name, "").strip())}
    try:
        return http.load_schema(schema, sent), Form(sent)
    except ValidationFailed as error:
        return {}, Form(sent, {str(one["field"]): str(one["reason"]) for one in error.details["fields"]})


_STORED_HEADERS = ("Location", "Vary")
_OPERATOR_FORM_TTL_SECONDS = 86_400


def run_form_once(
    principal: Principal, key: str, fingerprint: bytes, run: Callable[[], Any], *, is_bound: bool
) -> Response:
    """Run a view, or give the answer it gave before under this key.

    is_bound: the request is bound to the principal's organization, where the answer is kept with its effect; else,
        for operators, only where it led to is kept
    raises: InProgress, KeyReused, Unavailable
    """
    if not is_bound:
        return _run_operator_form_once(principal, key, fingerprint, run)
    once = IdempotentRequest(principal.organization_id, key, fingerprint, 200, lambda _data: b"")
    try:
        idempotency.acquire(engine.session(), once)
    except AlreadyAnswered as replay:
        return Response(replay.response.body, replay.response.status, dict(replay.response.headers), mimetype="text/html")
    answer = make_response(run())
    if answer.status_code < 400:
        own = {name: value for name, value in answer.headers.items() if name in _STORED_HEADERS}
        is_secret = isinstance(answer, PageResponse) and answer.is_secret
        idempotency.store_response(
            engine.session(), once, StoredResponse(answer.status_code, answer.get_data(), own), is_secret=is_secret
        )
    return answer


def _run_operator_form_once(principal: Principal, key: str, fingerprint: bytes, run: Callable[[], Any]) -> Response:
    name, print_of = f"{principal.id}:{key}", fingerprint.hex()
    try:
        is_first = queue.fast_redis().set(name, print_of, nx=True, ex=_OPERATOR_FORM_TTL_SECONDS)
        kept = b"" if is_first else queue.fast_redis().get(name) or b""
    except redis.RedisError as cause:
        raise ServiceUnavailable from cause
    if not is_first:
        known, _, led_to = (kept.decode() if isinstance(kept, bytes) else kept).partition(" ")
        if known != print_of:
            raise IdempotencyKeyReused
        if led_to:
            return Response("", 303, {"Location": led_to})
        raise IdempotentRequestInProgress(retry_after=1)
    try:
        answer = make_response(run())
    except BaseException:
        _store_redirect(name, None)
        raise
    led_to = answer.headers.get("Location", "") if answer.status_code < 400 else ""
    _store_redirect(name, f"{print_of} {led_to}" if led_to else None)
    return answer


def _store_redirect(name: str, address: str | None) -> None:
    with contextlib.suppress(redis.RedisError):
        if address:
            queue.fast_redis().set(name, address, ex=_OPERATOR_FORM_TTL_SECONDS)
        else:
            queue.fast_redis().delete(name)
