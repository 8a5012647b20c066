"""Forms of HTML pages: parsing, CSRF tokens, form keys, and submits that take effect once.

`@form_view` validates a submitted form and shows it again with its errors. A form with a key runs its view once; a
repeated submit gets the stored response.
"""

import contextlib
import functools
import re
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
from flask import session as visitor_session
from marshmallow import fields
from sqlalchemy.exc import IntegrityError

from saas_api.core import access, crypto, idempotency
from saas_api.core.access import FreshLoginRequired, KeyMode, Principal
from saas_api.core.db import engine
from saas_api.core.db.engine import db
from saas_api.core.errors import ApiError, BadRequest, Forbidden, NotFound, ServiceUnavailable, ValidationFailed
from saas_api.core.fields import StrictInteger, StrictSchema
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

CSRF_FIELD, FORM_KEY_FIELD, PASSWORD_FIELD = "csrf_token", "form_key", "confirm_password"
MODE_FIELD = "page_mode"
"""The mode of the page on which a form was filled in."""
FORM_KEY_TTL_SECONDS = 3000
"""Less than the hours for which responses are stored."""
_OPERATOR_FORM_TTL_SECONDS = 86_400
_STORED_HEADERS = ("Location", "Vary")
_MISSING = "Missing data for required field."


class EmptyForm(StrictSchema):
    """A form without fields, such as a single button."""


class FormExpired(BadRequest):
    """The form belongs to an ended session or does not come from a page of the product."""

    code, message = "FORM_EXPIRED", "This form is no longer valid. Nothing was done."


class ModeSwitched(FormExpired):
    """The form was filled in on a page of the other mode."""

    message = "You switched between live and test data. Nothing was done."


class FormAlreadySubmitted(ValidationFailed):
    """The key of a form is too old, missing, or was used for other values."""

    code = "FORM_SENT_ALREADY"


@dataclass
class Form:
    """What a form displays.

    values: as submitted
    errors: a message for each field that is not valid
    problem: the message of an error that belongs to no field
    code: of that error
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    code: str | None = None

    def value(self, name: str, default: Any = "") -> Any:
        """The value to display in a field."""
        value = self.values.get(name)
        return default if value is None else value


def csrf_token() -> str:
    """The CSRF token for the forms of this response: of the session, or of the visitor's cookie when there is none."""
    if g.get("csrf"):
        return str(g.csrf)
    if "nonce" not in visitor_session:
        visitor_session["nonce"] = secrets.token_urlsafe(16)
    return _visitor_csrf_token()


def _visitor_csrf_token() -> str:
    return crypto.hmac_hex("visit", visitor_session["nonce"])[:32]


def is_csrf_valid() -> bool:
    """Whether the request carries the CSRF token of its session, or the visitor's token when there is no session."""
    token = request.headers.get("X-CSRF-TOKEN") or request.form.get(CSRF_FIELD, "")
    if not g.get("csrf") and "nonce" not in visitor_session:
        return False
    return is_same_origin() and compare_digest(token.encode(), csrf_token().encode())


def require_page_mode(mode: KeyMode) -> None:
    """Refuse a form whose page showed another mode than the one it would act in.

    raises: ModeSwitched
    """
    if request.method not in http.SAFE_METHODS and request.form.get(MODE_FIELD, mode) != mode:
        raise ModeSwitched


def is_same_origin(*, requires_proof: bool = False) -> bool:
    """Whether the browser's headers allow that a page of this host sent the request.

    requires_proof: False accepts a request without such headers
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin == "null":  # every form of a page with the policy no-referrer, such as ours, has this origin
        origin = None
    if site == "cross-site" or (origin and urlsplit(origin).netloc != request.host):
        return False
    if site == "same-site" and not origin:
        return False
    return bool(origin or site == "same-origin") or not requires_proof


def resubmit_url() -> str:
    """Path that a refused form can be submitted to again; empty when another site may have sent it."""
    return request.script_root + request.path if is_same_origin(requires_proof=True) else ""


def resubmit_fields() -> list[tuple[str, str]]:
    """Names and values of a refused form without passwords; empty when another site may have sent it."""
    if not is_same_origin(requires_proof=True):
        return []
    return [
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in (CSRF_FIELD, FORM_KEY_FIELD, MODE_FIELD) and "password" not in name
    ]


def new_form_key() -> str:
    """A signed key for one submit of a form."""
    payload = f"{int(time.time())}.{secrets.token_urlsafe(12)}"
    return f"{payload}.{_form_key_signature(payload)}"


def _form_key_signature(payload: str) -> str:
    return crypto.hmac_hex("form", payload)[:32]


def form_view(
    schema: ma.Schema, *, form: Callable[..., Any], is_idempotent: bool = False, requires_fresh_login: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """Validate a submitted form and call the view with it; an error shows the form again with the submitted values.

    schema: of the fields, such as that of the API's body
    form: the view that shows the form, called with the arguments of the path and `form`
    is_idempotent: a repeated submit gets the response of the first
    requires_fresh_login: the password must have been given within ten minutes
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
                form_error = _form_error(error)
                db.session.rollback()
                response = make_response(form(form=_form(schema, form_error), **path))
                response.status_code = 422 if isinstance(form_error, FreshLoginRequired) else form_error.status
                return response

        return call

    return wrap


def _form_error(error: ApiError | IntegrityError) -> ApiError:
    """The error to show in the form; raises what the form cannot explain."""
    if isinstance(error, IntegrityError):
        constraint_error = http.find_constraint_error(error)
        if constraint_error is None:
            raise error
        return constraint_error
    if isinstance(error, NotFound | FormExpired) or type(error) is Forbidden or error.status >= 500:
        raise error
    return error


def _submitted_values(schema: ma.Schema) -> dict[str, Any]:
    """The submitted fields with the types that the API's JSON has.

    A list may be one text, separated by lines, spaces or commas. What was left empty is None where that is allowed, and
    missing otherwise.
    """
    values: dict[str, Any] = {}
    for name, field_type in _fields_by_key(schema).items():
        text = request.form.get(name, "")
        if isinstance(field_type, fields.List):
            items = " ".join(request.form.getlist(name)).replace(",", " ").split()
            values[name] = items or (None if field_type.allow_none else [])
        elif isinstance(field_type, fields.Boolean):
            values[name] = bool(text)
        elif isinstance(field_type, StrictInteger) and re.fullmatch(r"[0-9]{1,18}", text):
            values[name] = int(text)
        elif text.strip():
            values[name] = text.replace("\r\n", "\n")
        elif name in request.form and field_type.allow_none:
            values[name] = None
    return values


def _fields_by_key(schema: ma.Schema) -> dict[str, fields.Field[Any]]:
    return {field_type.data_key or name: field_type for name, field_type in schema.fields.items()}


def _form(schema: ma.Schema, error: ApiError) -> Form:
    values: dict[str, Any] = {name: value for name, value in request.form.items() if "password" not in name}
    for name, field_type in _fields_by_key(schema).items():
        if isinstance(field_type, fields.List):
            values[name] = request.form.getlist(name)
    if isinstance(error, FreshLoginRequired):
        message = "The password is wrong." if g.get("is_password_wrong") else "Enter your password to go on."
        return Form(values, {PASSWORD_FIELD: message})
    errors: dict[str, str] = {}
    for problem in error.details.get("fields", []):
        reason = str(problem["reason"])
        errors.setdefault(str(problem["field"]).partition(".")[0], "Fill this in." if reason == _MISSING else reason)
    if error.field and not errors:
        errors[error.field] = error.message
    return Form(values, errors, None if errors else error.message, error.code)


def _submit_once(run: Callable[[], Any]) -> Response:
    key = request.form.get(FORM_KEY_FIELD, "")
    payload, _, signature = key.rpartition(".")
    if not compare_digest(signature.encode(), _form_key_signature(payload).encode()):
        raise FormAlreadySubmitted("Send the form again.")
    if time.time() - int(payload.partition(".")[0]) > FORM_KEY_TTL_SECONDS:
        raise FormAlreadySubmitted(
            "This form was open for a long time. See whether it was sent already, then send it again."
        )
    try:
        is_tenant_bound = "scope" in g
        run_once = _run_form_once if is_tenant_bound else _run_operator_form_once
        return run_once(g.principal, f"form:{key}", _fingerprint(), run)
    except IdempotencyKeyReused as cause:
        raise FormAlreadySubmitted(
            "This form was sent already. To send it once more with these values, press again."
        ) from cause


def _fingerprint() -> bytes:
    pairs = sorted(
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in (CSRF_FIELD, FORM_KEY_FIELD, PASSWORD_FIELD)
    )
    return idempotency.fingerprint(g.principal, "POST", request.path, {"form": pairs})  # with the mode of its page


def _run_form_once(principal: Principal, key: str, fingerprint: bytes, run: Callable[[], Any]) -> Response:
    """Run a view and store its response in the transaction of its effect, or return the stored response."""
    idempotent_request = IdempotentRequest(principal.tenant_id, KeyMode.LIVE, key, fingerprint, 200, lambda _data: b"")
    try:
        idempotency.acquire(engine.session(), idempotent_request)
    except AlreadyAnswered as replay:
        stored = replay.response
        return Response(stored.body, stored.status, dict(stored.headers), mimetype="text/html")
    response = make_response(run())
    if response.status_code < 400:
        headers = {name: value for name, value in response.headers.items() if name in _STORED_HEADERS}
        stored = StoredResponse(response.status_code, response.get_data(), headers)
        is_secret = isinstance(response, PageResponse) and response.is_secret
        idempotency.store_response(engine.session(), idempotent_request, stored, is_secret=is_secret)
    return response


def _run_operator_form_once(principal: Principal, key: str, fingerprint: bytes, run: Callable[[], Any]) -> Response:
    """Run a view of an operator, or redirect to where it redirected before under this key.

    Operators act across organizations, so only the redirect is stored, in Redis.
    raises: IdempotentRequestInProgress, IdempotencyKeyReused, ServiceUnavailable
    """
    name, fingerprint_hex = f"{principal.id}:{key}", fingerprint.hex()
    try:
        is_first = queue.fast_redis().set(name, fingerprint_hex, nx=True, ex=_OPERATOR_FORM_TTL_SECONDS)
        stored = b"" if is_first else queue.fast_redis().get(name) or b""
    except redis.RedisError as cause:
        raise ServiceUnavailable from cause
    if not is_first:
        stored_fingerprint, _, location = (stored.decode() if isinstance(stored, bytes) else stored).partition(" ")
        if stored_fingerprint != fingerprint_hex:
            raise IdempotencyKeyReused
        if location:
            return Response("", 303, {"Location": location})
        raise IdempotentRequestInProgress(retry_after=1)
    try:
        response = make_response(run())
    except BaseException:
        _store_redirect(name, None)
        raise
    location = response.headers.get("Location", "") if response.status_code < 400 else ""
    _store_redirect(name, f"{fingerprint_hex} {location}" if location else None)
    return response


def _store_redirect(name: str, value: str | None) -> None:
    with contextlib.suppress(redis.RedisError):
        if value:
            queue.fast_redis().set(name, value, ex=_OPERATOR_FORM_TTL_SECONDS)
        else:
            queue.fast_redis().delete(name)


def parse_filters(schema: StrictSchema) -> tuple[dict[str, Any], Form]:
    """Filters of a list from the query string.

    returns: the filters and the form that shows them; no filters and a form with errors when they are not valid, in
        which case the list stays empty
    """
    values = {name: value for name in schema.fields if (value := request.args.get(name, "").strip())}
    try:
        return http.load_schema(schema, values), Form(values)
    except ValidationFailed as error:
        return {}, Form(values, {str(item["field"]): str(item["reason"]) for item in error.details["fields"]})
