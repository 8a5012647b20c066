"""The registry of event types."""

import pytest

from saas_api.webhooks import event_types, payload, schemas

OBJECT_IDS = {
    "api_key": "key",
    "invoice": "inv",
    "message": "msg",
    "organization": "org",
    "payment": "pay",
    "subscription": "sub",
    "test": "tst",
    "webhook_endpoint": "whe",
}
"""Prefix of the id in the event data of each object that has one."""


def test_event_type_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match=r"webhook\.test is registered already"):
        event_types.register("webhook.test", schema=schemas.TestEventOut, description="Again.", example={})


@pytest.mark.parametrize("name", sorted(event_types.names()))
def test_thin_example_has_the_object_its_id_and_its_status_only(name: str) -> None:
    data = event_types.get_type(name).example["data"]
    thin = payload.thin_data(data)
    prefix = OBJECT_IDS.get(data["object"])
    expected = {"object"} | ({"status"} & data.keys())
    if prefix:
        (id_field,) = thin.keys() - {"object", "status"}
        assert thin[id_field].startswith(f"{prefix}_")
        expected |= {id_field}
    assert thin.keys() == expected


@pytest.mark.parametrize("name", sorted(event_types.names()))
def test_example_has_every_field_of_its_schema_and_no_other(name: str) -> None:
    event_type = event_types.get_type(name)
    assert event_type.example["data"].keys() == {"object", *event_type.data_schema().dump_fields}


def test_only_accepted_messages_need_an_explicit_subscription() -> None:
    assert event_types.explicit_only_names() == ["message.accepted"]


def test_unknown_event_type_is_not_found() -> None:
    assert event_types.find_type("invoice.eaten") is None
