"""JSON Schema that is derived from marshmallow schemas."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated
from marshmallow import fields, validate

from saas_api.core import json_schema
from saas_api.core.fields import MoneyAmount, PrefixedId, Quantity, StrictSchema, Timestamp


class LineOut(StrictSchema):
    """One order line."""

    amount = MoneyAmount()
    quantity = Quantity()


class OrderOut(StrictSchema):
    """A schema with each kind of field."""

    id = PrefixedId("org")
    status = fields.String(validate=validate.OneOf(("open", "paid")))
    paid_at = Timestamp(allow_none=True)
    note = fields.String(metadata={"description": "Free text."})
    lines = fields.List(fields.Nested(LineOut()))
    discount = fields.Nested(LineOut(), allow_none=True)


ORDER = {
    "id": UUID(int=1),
    "status": "open",
    "paid_at": datetime(2026, 3, 1, tzinfo=UTC),
    "note": "",
    "lines": [{"amount": Decimal("1.50"), "quantity": Decimal(3)}],
    "discount": {"amount": Decimal("-0.50"), "quantity": Decimal(1)},
}


@pytest.fixture
def validator() -> Any:
    schema = json_schema.dump_schema(OrderOut())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_dumped_objects_match_the_derived_schema(validator: Any) -> None:
    validator.validate(OrderOut().dump(ORDER))
    validator.validate(OrderOut().dump({**ORDER, "paid_at": None, "discount": None}))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "usr_00000000000000000000000000000001"},
        {"status": "lost"},
        {"note": None},
        {"lines": [{"amount": 1.5, "quantity": "3"}]},
        {"lines": [{}]},
        {"discount": {}},
    ],
    ids=["other_prefix", "unknown_choice", "null", "number_as_amount", "list_field_missing", "nested_field_missing"],
)
def test_derived_schema_refuses_what_the_field_cannot_dump(validator: Any, change: dict[str, Any]) -> None:
    assert not validator.is_valid({**OrderOut().dump(ORDER), **change})


@pytest.mark.parametrize("name", list(ORDER))
def test_every_field_is_required(validator: Any, name: str) -> None:
    dumped = OrderOut().dump(ORDER)
    del dumped[name]
    assert not validator.is_valid(dumped)


def test_fields_added_later_are_accepted(validator: Any) -> None:
    line = {"amount": "1.50", "quantity": "3", "added": 1}
    validator.validate({**OrderOut().dump(ORDER), "added": 1, "lines": [line], "discount": line})


def test_description_of_a_field_is_copied(validator: Any) -> None:
    assert validator.schema["properties"]["note"]["description"] == "Free text."


def test_amounts_are_described_in_major_units_and_quantities_are_not(validator: Any) -> None:
    line = validator.schema["properties"]["lines"]["items"]["properties"]
    assert line["amount"]["description"] == "Major units, such as 29.00."
    assert "description" not in line["quantity"]
