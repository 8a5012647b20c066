"""Filters of lists: read from the address, and shown again as they were typed."""

from typing import Any

from flask import request

from saas_api.core.errors import Invalid
from saas_api.core.http import Schema, load
from saas_api.core.render import Form


def read_filters(schema: Schema) -> tuple[dict[str, Any], Form]:
    """What a list is asked for; what is wrong stands in the form, and nothing is to be listed then.

    returns: the values, or none of them beside a form with errors
    """
    sent = {name: value for name in schema.fields if (value := request.args.get(name, "").strip())}
    try:
        return load(schema, sent), Form(sent)
    except Invalid as error:
        return {}, Form(sent, {str(one["field"]): str(one["reason"]) for one in error.details["fields"]})
