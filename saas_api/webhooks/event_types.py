"""The registry of event types. Each domain registers the types that it publishes, in its `events.py`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import marshmallow as ma

from saas_api.core import json_schema
from saas_api.webhooks import payload

TEST_EVENT_TYPE = "webhook.test"
_EVT, _ORG = ({"type": "string", "pattern": f"^{prefix}_[0-9a-f]{{32}}$"} for prefix in ("evt", "org"))


@dataclass(frozen=True)
class EventType:
    """One event type.

    name: `noun.past`, such as "invoice.paid"
    object_name: value of `object` in the event data
    data_schema: marshmallow class that dumps the event data, without `object`
    example_data: event data of the example, without `object`, ready for JSON
    is_explicit_only: an endpoint without a list of types does not receive it
    """

    name: str
    description: str
    object_name: str
    data_schema: type[ma.Schema]
    example_data: Mapping[str, Any]
    is_explicit_only: bool = False

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the whole payload."""
        properties = {
            "id": {**_EVT, "description": "The same in every repeat."},
            "type": {"const": self.name},
            "timestamp": {"type": "string", "format": "date-time"},
            "mode": {"enum": ["live", "test"]},
            "organization_id": _ORG,
            "data": self._data_json_schema(),
        }
        return {
            "$schema": json_schema.DIALECT,
            "title": self.name,
            "type": "object",
            "required": list(properties),
            "properties": properties,
        }

    @property
    def example(self) -> dict[str, Any]:
        """An example of the whole payload, ready for JSON."""
        return payload.example_payload(self.name, {"object": self.object_name, **self.example_data})

    def dump(self, resource: object) -> dict[str, Any]:
        """Return the event data of a resource, ready for JSON."""
        dumped: dict[str, Any] = self._dumper.dump(resource)
        return {"object": self.object_name, **dumped}

    @cached_property
    def _dumper(self) -> ma.Schema:
        return self.data_schema()

    def _data_json_schema(self) -> dict[str, Any]:
        data = json_schema.dump_schema(self._dumper)
        properties = {"object": {"const": self.object_name}, **data["properties"]}
        return {**data, "required": list(properties), "properties": properties}


_registered: dict[str, EventType] = {}


def register(
    event_type: str,
    *,
    schema: type[ma.Schema],
    description: str,
    example: Mapping[str, Any],
    object_name: str | None = None,
    is_explicit_only: bool = False,
) -> None:
    """Register an event type.

    event_type: `noun.past`, such as "invoice.paid"
    schema: marshmallow class that dumps the event data; its JSON Schema is published
    example: event data without `object`, ready for JSON
    object_name: value of `object` in the event data, if it is not the first part of the type
    is_explicit_only: send it only to endpoints that name the type
    raises: ValueError when the type is registered already
    """
    if event_type in _registered:
        raise ValueError(f"event type {event_type} is registered already")
    object_name = object_name or event_type.partition(".")[0]
    _registered[event_type] = EventType(event_type, description, object_name, schema, example, is_explicit_only)


def list_types() -> list[EventType]:
    """Return every event type, sorted by name."""
    return sorted(_registered.values(), key=lambda entry: entry.name)


def names() -> Collection[str]:
    """Return the names of the event types, as a view that follows later registrations."""
    return _registered.keys()


def explicit_only_names() -> list[str]:
    """Return the types that an endpoint receives only if it names them."""
    return [entry.name for entry in _registered.values() if entry.is_explicit_only]


def find_type(event_type: str) -> EventType | None:
    """Return an event type, or None when it is not registered."""
    return _registered.get(event_type)


def get_type(event_type: str) -> EventType:
    """Return an event type.

    raises: KeyError when it is not registered
    """
    return _registered[event_type]


def dump_data(event_type: str, resource: object) -> dict[str, Any]:
    """Return the event data of a resource, as the registered schema dumps it.

    resource: object or mapping that the schema reads
    raises: KeyError when the type is not registered
    """
    return get_type(event_type).dump(resource)
