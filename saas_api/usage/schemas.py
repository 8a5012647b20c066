"""Shapes of logged requests in queries and responses."""

from marshmallow import fields, validate

from saas_api.core.access import KeyMode
from saas_api.core.fields import DateField, PageQuery, PrefixedId, StrictSchema, Text, Timestamp

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_is_mode = validate.OneOf(list(KeyMode))


class RequestsQuery(PageQuery):
    """Filters of the log of requests."""

    status = fields.String(
        load_default=None,
        validate=validate.Regexp("^(error|rejected|[1-5](xx|[0-9]{2}))$", error='Not a status such as "429" or "4xx".'),
        metadata={
            "description": "a status such as `429`, a class such as `4xx`, `error` for 400 and above, or "
            "`rejected` for 4xx but 429"
        },
    )
    error_code = Text(load_default=None, maximum=100)
    api_key_id = PrefixedId("key", load_default=None)
    method = fields.String(load_default=None, validate=validate.OneOf(METHODS))
    route = Text(load_default=None, maximum=300, metadata={"description": "as responses show it, with its parameters"})
    mode = fields.String(load_default=None, validate=_is_mode)
    request_id = Text(load_default=None, maximum=64)
    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)


class LoggedRequestOut(StrictSchema):
    """A request of the log. `latency_ms` and the parameters of `path` are missing for a call of a service."""

    request_id = fields.String()
    created_at = Timestamp(attribute="at")
    mode = fields.String(validate=_is_mode)
    method = fields.String(metadata={"example": "POST"})
    route = fields.String(metadata={"example": "/api/v1/messages/send"})
    path = fields.String(metadata={"example": "/api/v1/messages/send"})
    status = fields.Integer(metadata={"example": 422})
    error_code = fields.String(allow_none=True, metadata={"example": "VALIDATION_ERROR"})
    error_message = fields.String(allow_none=True, metadata={"example": "Some fields are not valid."})
    api_key_id = PrefixedId("key", allow_none=True)
    user_id = PrefixedId("usr", allow_none=True)
    ip = fields.String(allow_none=True)
    latency_ms = fields.Integer(allow_none=True, metadata={"example": 12})
    message_id = PrefixedId("msg", allow_none=True)
