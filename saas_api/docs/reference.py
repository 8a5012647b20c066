"""The reference of the API, from its OpenAPI document: operations by topic, with bodies, answers and samples. Pure."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import groupby
from typing import Any

import orjson

from saas_api.docs import components, highlighting, samples
from saas_api.docs.highlighting import Sample
from saas_api.docs.samples import Request

TITLES: Mapping[str, str] = {
    "messages": "Messages",
    "api_keys": "API keys",
    "billing": "Usage and billing",
    "requests": "Request log",
    "payments": "Payments",
    "webhooks": "Webhooks",
    "auth": "Sign-in and sessions",
    "organizations": "Organization and team",
    "dashboard": "Dashboard figures",
    "services": "Verification and holds",
    "events": "Usage events",
    "portal": "Customer portal",
}
"""Titles of tags, in the order of the reference; a tag that is not here comes last, under its own name."""
_PATHS = (
    *("/messages", "/keys", "/api-keys", "/usage", "/billing/usage", "/billing/calculate", "/billing/subscription"),
    *("/billing/plans", "/billing/preview-change", "/billing/upgrade", "/billing/simulate", "/billing/history"),
    *("/billing/invoices", "/billing/credit-notes", "/billing/wallet", "/billing/spend-cap", "/billing/alerts"),
    *("/billing/initiate-payment", "/billing/payments", "/webhooks/endpoints", "/webhooks/event-types"),
    *("/webhooks/events", "/webhooks/deliveries", "/auth/register", "/auth/login", "/auth/refresh", "/auth/me"),
    *("/auth/logout", "/auth/switch-organization", "/auth/reauthenticate", "/auth/sessions", "/organization"),
    *(
        "/team/members",
        "/team/invite",
        "/team/invitations",
        "/dashboard/stats",
        "/keys/verify",
        "/holds",
        "/events",
        "/portal-sessions",
    ),
)
"""Beginnings of paths in the order of the reference; the others come after them, sorted."""
_CREDENTIALS = {
    "apiKey": ("an API key", "X-API-Key", samples.KEY),
    "accessToken": ("an access token", "Authorization", f"Bearer {samples.TOKEN}"),
    "serviceToken": ("a service token", "Authorization", f"Bearer {samples.SERVICE_TOKEN}"),
}
"""What each credential is called, its header, and a placeholder; a sample shows the first that is accepted."""
_BOUNDS = (
    ("minLength", "maxLength", " characters"),
    ("minimum", "maximum", ""),
    ("minItems", "maxItems", " items"),
)
"""Names of lowest and highest values in schemas, and their unit."""
_MAX_DEPTH = 4
"""Levels of objects in objects whose fields are listed; deeper ones are in the examples."""


@dataclass(frozen=True)
class Field:
    """A parameter, or a property of an object.

    kind: of its value, such as "array of string"
    notes: what it means and its bounds, as sentences
    values: the only ones; empty for any
    fields: of the object or objects that it holds
    """

    name: str
    kind: str
    is_required: bool
    notes: Sequence[str]
    values: Sequence[str] = ()
    fields: Sequence["Field"] = ()


@dataclass(frozen=True)
class ReferenceOperation:
    """An operation.

    credentials: what it takes one of; empty for none
    request: of its samples; None where no program of a reader calls it
    content: of a successful answer, by media type, as the document has it
    fields: of `data` in that answer
    errors: status and codes
    """

    id: str
    method: str
    path: str
    summary: str
    description: str
    credentials: Sequence[str]
    parameters: Sequence[Field]
    body: Sequence[Field]
    request: Request | None
    status_line: str
    content: Mapping[str, Mapping[str, Any]]
    fields: Sequence[Field]
    errors: Sequence[tuple[str, Sequence[str]]]

    @functools.cached_property
    def samples(self) -> Sequence[Sample]:
        """The request in each language."""
        return highlighting.make_request_samples(self.request) if self.request else []

    @functools.cached_property
    def answers(self) -> Sequence[Sample]:
        """An example of the successful answer, in each of its media types."""
        return [_answer(media_type, item) for media_type, item in self.content.items()]


@dataclass(frozen=True)
class Topic:
    """The operations of a tag.

    slug: its path below /docs/reference
    """

    slug: str
    title: str
    description: str
    operations: Sequence[ReferenceOperation] = field(default_factory=list)


def list_topics(document: Mapping[str, Any]) -> Sequence[Topic]:
    """Every operation of a document under the topic of its tag, both in the order of the reference."""
    descriptions = {tag["name"]: tag.get("description", "") for tag in document["tags"]}
    found = sorted(_iter_operations(document), key=lambda item: _order(*item))
    topics = []
    for tag, items in groupby(found, key=lambda item: item[2]["tags"][0]):
        operations = [_Reader(document).read(path, method, spec) for path, method, spec in items]
        title = TITLES.get(tag, tag.replace("_", " ").capitalize())
        topics.append(Topic(tag.replace("_", "-"), title, descriptions.get(tag, ""), operations))
    return topics


def _iter_operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, spec in methods.items():
            yield path, method, spec


def _order(path: str, method: str, spec: Mapping[str, Any]) -> tuple[int, str, int, str, int]:
    """Topics, then paths, in order; of a resource first what creates and lists it, last what deletes it."""
    tag, short = spec["tags"][0], path.removeprefix("/api/v1")
    topic = list(TITLES).index(tag) if tag in TITLES else len(TITLES)
    place = next((i for i, start in enumerate(_PATHS) if short == start or short.startswith(f"{start}/")), len(_PATHS))
    is_item = "{" in path or short.endswith(("/cancel", "/revoke", "/resend"))  # acts on several
    rank = {"post": 4 if is_item else 0, "get": 2 if is_item else 1, "patch": 3, "put": 3, "delete": 5}[method]
    return topic, tag, place, "" if place < len(_PATHS) else short, rank


class _Reader:
    """Reads operations of one document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._server = document["servers"][0]["url"]

    def read(self, path: str, method: str, spec: Mapping[str, Any]) -> ReferenceOperation:
        content = spec.get("requestBody", {"content": {}})["content"]
        status, success = next((status, item) for status, item in spec["responses"].items() if status < "400")
        request = self._request(path, method.upper(), spec) if not content or "application/json" in content else None
        title, rest = _split_summary(spec["summary"])
        return ReferenceOperation(
            id=spec["operationId"],
            method=method.upper(),
            path=path,
            summary=title,
            description=" ".join(filter(None, (rest, spec.get("description", "")))),
            credentials=[_CREDENTIALS[name][0] for scheme in spec["security"] for name in scheme],
            parameters=[self._field(item["name"], item["schema"], item.get("required", False), item, 0)
                        for item in spec["parameters"]],
            body=self._fields(next(iter(content.values()))["schema"], 0) if content else [],
            request=request,
            status_line=f"{status} {HTTPStatus(int(status)).phrase}",
            content=success["content"],
            fields=self._data_fields(success["content"]),
            errors=[(status, list(item["content"]["application/json"]["examples"]))
                    for status, item in spec["responses"].items() if status >= "400"],
        )  # fmt: skip

    def _request(self, path: str, method: str, spec: Mapping[str, Any]) -> Request:
        query = []
        for item in spec["parameters"]:
            if item["in"] == "path":
                path = path.replace(f"{{{item['name']}}}", str(item["schema"]["example"]))
            elif item["in"] == "query" and item.get("required"):
                query.append(f"{item['name']}={item['schema']['example']}")
        headers = {}
        accepted = {name for scheme in spec["security"] for name in scheme}
        if credential := next((values for name, values in _CREDENTIALS.items() if name in accepted), None):
            headers[credential[1]] = credential[2]
        body = spec["requestBody"]["content"]["application/json"]["example"] if "requestBody" in spec else None
        address = self._server + path + ("?" + "&".join(query) if query else "")
        success = next(item for status, item in spec["responses"].items() if status < "400")
        media_type = next(iter(success["content"]))
        file = "" if media_type == "application/json" else f"answer.{media_type.rpartition('/')[2]}"
        return Request(method, address, headers, body, file)

    def _data_fields(self, content: Mapping[str, Any]) -> Sequence[Field]:
        if "application/json" not in content:
            return []
        _, envelope = components.resolve(self._document, content["application/json"]["schema"])
        return self._fields(envelope["properties"]["data"], 0)

    def _fields(self, schema: Mapping[str, Any], depth: int) -> Sequence[Field]:
        """The properties of an object, or of the objects of an array."""
        _, target = components.resolve(self._document, schema)
        if target.get("type") == "array":
            return self._fields(target["items"], depth)
        required = set(target.get("required", ()))
        properties = target.get("properties", {}) if depth < _MAX_DEPTH else {}
        return [self._field(name, item, name in required, item, depth) for name, item in properties.items()]

    def _field(
        self, name: str, schema: Mapping[str, Any], is_required: bool, described: Mapping[str, Any], depth: int
    ) -> Field:
        _, target = components.resolve(self._document, schema)
        items = components.resolve(self._document, target["items"])[1] if target.get("type") == "array" else target
        return Field(
            name=name,
            kind=self._kind(schema),
            is_required=is_required,
            notes=_notes(described.get("description", ""), {**target, **schema}),
            values=[str(value) for value in items.get("enum", ())],
            fields=self._fields(schema, depth + 1),
        )

    def _kind(self, schema: Mapping[str, Any]) -> str:
        _, target = components.resolve(self._document, schema)
        if target.get("type") == "array":
            kind = f"array of {self._kind(target['items'])}"
        else:
            kind = {"decimal": "decimal string", "date-time": "time", "date": "date"}.get(
                target.get("format", ""), target.get("type", "any value")
            )
        return f"{kind} or null" if schema.get("nullable") or target.get("nullable") else kind


def _split_summary(summary: str) -> tuple[str, str]:
    """The first clause of a summary, and the rest as sentences."""
    title, _, rest = re.sub(r"; |\. ", "\0", summary, count=1).partition("\0")
    return title, f"{rest[0].upper()}{rest[1:]}." if rest else ""


def _notes(description: str, schema: Mapping[str, Any]) -> Sequence[str]:
    """What a field means, and its bounds and default."""
    text = description[:1].upper() + description[1:]
    sentences = [f"{text}." if text and not text.endswith((".", "?")) else text] if text else []
    for least, most, unit in _BOUNDS:
        low, high = schema.get(least), schema.get(most)
        if low is not None and high is not None:
            sentences.append(f"{low:,} to {high:,}{unit}.")
        elif low is not None or high is not None:
            sentences.append(f"At least {low:,}{unit}." if high is None else f"At most {high:,}{unit}.")
    if schema.get("default") is not None:
        sentences.append(f"Default `{orjson.dumps(schema['default']).decode().strip(chr(34))}`.")
    return sentences


def _answer(media_type: str, content: Mapping[str, Any]) -> Sample:
    example = content.get("example")
    if media_type == "application/json":
        return highlighting.make_sample(orjson.dumps(example, option=orjson.OPT_INDENT_2).decode(), "json")
    return highlighting.make_sample(example if isinstance(example, str) else f"({media_type})", "", media_type)
