"""Identifiers: ordered by time inside, prefixed on the wire."""

import uuid

import pytest

from saas_api.core.ids import new_id, read_id, wire_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = new_id()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_ids_of_different_milliseconds_are_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([1_000_000_000_000_000_000, 1_000_000_000_001_000_000])
    monkeypatch.setattr("saas_api.core.ids.time.time_ns", lambda: next(instants))
    first, second = new_id(), new_id()
    assert first < second


def test_an_id_is_read_with_its_prefix_and_bare() -> None:
    made = new_id()
    assert read_id("msg", wire_id("msg", made)) == made
    assert read_id("msg", str(made)) == made


@pytest.mark.parametrize("text", ["key_" + "0" * 32, "msg_xyz", "msg_" + "0" * 31, "", "msg_", "0" * 31])
def test_what_is_no_id_of_that_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_id("msg", text)


def test_an_unknown_prefix_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="unknown id prefix"):
        wire_id("xyz", new_id())
