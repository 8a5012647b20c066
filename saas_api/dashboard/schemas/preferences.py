"""Choices that a browser remembers."""

from marshmallow import fields, validate

from saas_api.core.http import Id, Schema


class PreferencesForm(Schema):
    """How pages look and which data they show; only what is named changes."""

    theme = fields.String(load_default=None, validate=validate.OneOf(("system", "light", "dark")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    shortcuts = fields.String(load_default=None, validate=validate.OneOf(("on", "off")))
    back = fields.String(load_default="/dashboard", validate=validate.Regexp(r"/(?![/\\])[^\s\\]*"))


class SwitchForm(Schema):
    """Where to go on."""

    organization_id = Id("org", required=True)
