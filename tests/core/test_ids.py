"""Identifiers: UUIDv7 with the prefix of their type."""

import uuid

import pytest

from saas_api.core import ids


def test_id_is_a_uuid_of_version_7() -> None:
    new_id = ids.new_id()
    assert (new_id.version, new_id.variant) == (7, uuid.RFC_4122)


def test_ids_of_different_milliseconds_are_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([1_000_000_000_000_000_000, 1_000_000_000_001_000_000])
    monkeypatch.setattr("saas_api.core.ids.time.time_ns", lambda: next(instants))
    first, second = ids.new_id(), ids.new_id()
    assert first < second


def test_id_is_parsed_with_its_prefix_and_bare() -> None:
    new_id = ids.new_id()
    assert ids.parse_id("msg", ids.format_id("msg", new_id)) == new_id
    assert ids.parse_id("msg", str(new_id)) == new_id


@pytest.mark.parametrize("text", ["key_" + "0" * 32, "msg_xyz", "msg_" + "0" * 31, "", "msg_", "0" * 31])
def test_malformed_id_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ids.parse_id("msg", text)


def test_unregistered_prefix_cannot_be_formatted() -> None:
    with pytest.raises(ValueError, match="unknown id prefix"):
        ids.format_id("xyz", ids.new_id())
