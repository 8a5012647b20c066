"""Meters as JSON documents: strict reading and writing."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from saas_api.core.document_reader import DocumentReader

MAX_DIMENSIONS = 5
_CODE = re.compile(r"[a-z][a-z0-9_.]{0,62}")
_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_REQUIRED = ("code", "name", "unit")
_OPTIONAL = (
    "description",
    "service",
    "aggregation",
    "value_property",
    "unique_property",
    "dimensions",
    "reverse_on_failure",
)


class Aggregation(StrEnum):
    """How the events of a period become the quantity of a meter.

    SUM, COUNT: of quantities and of events
    MAX, LATEST: the highest quantity, and that of the last event by `occurred_at`
    UNIQUE: the number of distinct values of a property
    """

    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    UNIQUE = "unique"
    LATEST = "latest"

    @property
    def is_additive(self) -> bool:
        """Whether every event adds its quantity, so that the quantity of a period is known without its other events."""
        return self in (Aggregation.SUM, Aggregation.COUNT)


_WITH_VALUE = (Aggregation.SUM, Aggregation.MAX, Aggregation.LATEST)


@dataclass(frozen=True)
class MeterContent:
    """A meter; plans share their meters.

    unit: of one, such as "segment"
    service: name of the service that reports it; None for any
    value_property: property of an event that holds its quantity; None for the event's `quantity`
    unique_property: property whose distinct values are counted
    dimensions: properties by which prices and reports may group
    reverse_on_failure: a call that fails after it was accepted costs nothing
    """

    code: str
    name: str
    unit: str
    description: str = ""
    service: str | None = None
    aggregation: Aggregation = Aggregation.SUM
    value_property: str | None = None
    unique_property: str | None = None
    dimensions: tuple[str, ...] = ()
    reverse_on_failure: bool = True

    @property
    def singular(self) -> str:
        """What one unit is called: "SMS segment"; "Lookup" where the name ends in the unit."""
        name, unit = self.name.lower(), self.unit.lower()
        if name.endswith(f"{unit}s"):
            return self.name[:-1]
        return self.name if name.endswith(unit) else f"{self.name} {self.unit}"

    @property
    def plural(self) -> str:
        """What several units are called: "SMS segments", "Lookups", "Storage GB"."""
        return plural_unit(self.singular)


def plural_unit(unit: str) -> str:
    """Several of a unit: "segments", "GB"."""
    return unit if unit.endswith("s") or unit[-1:].isupper() else f"{unit}s"


def in_text(name: str) -> str:
    """A name within a sentence: "storage" of "Storage", while "API calls" and "GPU hours" stay as they are."""
    first_word = name.split(maxsplit=1)[0]
    return name if any(letter.isupper() for letter in first_word[1:]) else name[0].lower() + name[1:]


def to_document(meter: MeterContent) -> dict[str, Any]:
    """The document of a meter, without what is as it would be anyway; `load_meter` of it gives the same content."""
    plain = MeterContent(meter.code, meter.name, meter.unit)
    written = {
        name: value
        for name, value in vars(meter).items()
        if name in (*_REQUIRED, "aggregation") or value != getattr(plain, name)
    }
    if meter.dimensions:
        written["dimensions"] = list(meter.dimensions)
    return {**written, "aggregation": str(meter.aggregation)}


def load_meter(document: Any) -> MeterContent:
    """Read a meter from its document.

    raises: InvalidDocument with every problem
    """
    reader = DocumentReader()
    meter = read_meter(reader, "", document)
    reader.finish()
    return meter


def read_meter(reader: DocumentReader, path: str, document: Any) -> MeterContent:
    """Read a meter that may be part of a larger document; problems are reported to its reader.

    path: of the meter in the document; "" for the whole
    """
    values = reader.object(path, document, _REQUIRED, _OPTIONAL)
    prefix = f"{path}." if path else ""

    def optional(name: str, read: Callable[[DocumentReader, str, Any], str]) -> str | None:
        value = values.get(name)
        return None if value is None else read(reader, f"{prefix}{name}", value)

    aggregation = reader.choice(f"{prefix}aggregation", values.get("aggregation", Aggregation.SUM), tuple(Aggregation))
    meter = MeterContent(
        reader.code(f"{prefix}code", values.get("code", "x"), _CODE, "like lookups or api.calls"),
        reader.text(f"{prefix}name", values.get("name", "?"), 80),
        reader.text(f"{prefix}unit", values.get("unit", "?"), 40),
        reader.text(f"{prefix}description", values["description"], 300) if values.get("description") else "",
        optional("service", _read_service),
        Aggregation(aggregation or Aggregation.SUM),
        optional("value_property", _read_property),
        optional("unique_property", _read_property),
        _read_dimensions(reader, f"{prefix}dimensions", values.get("dimensions", [])),
        reader.boolean(f"{prefix}reverse_on_failure", values.get("reverse_on_failure", True)),
    )
    if aggregation:
        _check_properties(reader, prefix, meter)
    return meter


def _check_properties(reader: DocumentReader, prefix: str, meter: MeterContent) -> None:
    aggregation = meter.aggregation
    if meter.value_property is not None and aggregation not in _WITH_VALUE:
        reader.report(f"{prefix}value_property", f"does not belong to a meter with the aggregation {aggregation}")
    if meter.unique_property is not None and aggregation != Aggregation.UNIQUE:
        reader.report(f"{prefix}unique_property", f"does not belong to a meter with the aggregation {aggregation}")
    if meter.unique_property is None and aggregation == Aggregation.UNIQUE:
        reader.report(f"{prefix}unique_property", "is missing: the property whose distinct values are counted")


def _read_service(reader: DocumentReader, path: str, value: Any) -> str:
    return reader.code(path, value, _SERVICE, "the name of a service, like lookups")


def _read_property(reader: DocumentReader, path: str, value: Any) -> str:
    """A name of a property; `quantity` is a field of the event beside its properties."""
    if value == "quantity":
        reader.report(path, "must be another name: quantity is no property but a field of the event")
        return ""
    return reader.code(path, value, _PROPERTY, "the name of a property, in letters, digits and _")


def _read_dimensions(reader: DocumentReader, path: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        reader.report(path, f"must be a list of at most {MAX_DIMENSIONS} names of properties")
        return ()
    names = [_read_property(reader, f"{path}.{index}", name) for index, name in enumerate(value)]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            reader.report(f"{path}.{index}", "is given twice")
    return tuple(names)
