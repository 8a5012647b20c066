"""Lists: filters read from the address and shown again as they were typed, and the way to older and newer rows."""

from typing import Any

from flask import request, url_for

from saas_api.core.errors import Invalid
from saas_api.core.http import Schema, load
from saas_api.core.render.forms import Form


def read_filters(schema: Schema) -> tuple[dict[str, Any], Form]:
    """What a list is asked for; what is wrong stands in the form, and nothing is to be listed then.

    returns: the values, or none of them beside a form with errors
    """
    sent = {name: value for name in schema.fields if (value := request.args.get(name, "").strip())}
    try:
        return load(schema, sent), Form(sent)
    except Invalid as error:
        return {}, Form(sent, {str(one["field"]): str(one["reason"]) for one in error.details["fields"]})


def neighbours(next_cursor: str | None) -> dict[str, Any]:
    """The addresses of the older rows of this list and of its newest, the filters kept; empty where there are none."""
    kept: dict[str, Any] = {name: value for name, value in request.args.items() if value and name != "cursor"}
    here, kept = request.endpoint or "", {**kept, **(request.view_args or {})}
    return {
        "older": url_for(here, **kept, cursor=next_cursor) if next_cursor else "",
        "newer": url_for(here, **kept) if request.args.get("cursor") else "",
    }
