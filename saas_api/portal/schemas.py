"""Schemas of the API of portal sessions."""

from marshmallow import fields, validate

from saas_api.core.fields import PrefixedId, StrictSchema, Text, Timestamp
from saas_api.metering.event_format import MAX_TEXT_LENGTH
from saas_api.portal.scopes import PERMISSIONS
from saas_api.portal.sessions import MAX_URL_LENGTH


class PortalSessionIn(StrictSchema):
    """What a portal link is for."""

    organization = Text(
        required=True,
        maximum=MAX_TEXT_LENGTH,
        metadata={"description": "`org_...` or the external id of the organization", "example": "customer-4711"},
    )
    scopes = fields.List(
        fields.String(validate=validate.OneOf(list(PERMISSIONS))),
        required=True,
        validate=validate.Length(min=1, max=len(PERMISSIONS)),
        metadata={"description": "A scope that changes something also reads it", "example": ["keys:write"]},
    )
    return_url = Text(
        load_default=None,
        allow_none=True,
        maximum=MAX_URL_LENGTH,
        metadata={
            "description": "Where the portal leads back to, on an origin that is listed for the service",
            "example": "http://localhost:8080/docs/",
        },
    )


class PortalSessionOut(StrictSchema):
    """A link to the portal; `url` opens it once, until `expires_at`."""

    id = PrefixedId("prt")
    organization_id = PrefixedId("org")
    scopes = fields.List(fields.String())
    return_url = fields.String(allow_none=True)
    url = fields.String()
    expires_at = Timestamp()
