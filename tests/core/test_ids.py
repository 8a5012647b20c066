"""Identifiers: ordered by time inside, prefixed on the wire."""

import uuid

import pytest

from saas_api.core import ids


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = ids.new_id()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_ids_of_different_milliseconds_are_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([1_000_000_000_000_000_000, 1_000_000_000_001_000_000])
    monkeypatch.setattr("saas_api.core.ids.time.time_ns", lambda: next(instants))
    first, second = ids.new_id(), ids.new_id()
    assert first < second


def test_an_id_is_read_with_its_prefix_and_bare() -> None:
    made = ids.new_id()
    assert ids.parse_id("msg", ids.format_id("msg", made)) == made
    assert ids.parse_id("msg", str(made)) == made


@pytest.mark.parametrize("text", ["key_" + "0" * 32, "msg_xyz", "msg_" + "0" * 31, "", "msg_", "0" * 31])
def test_what_is_no_id_of_that_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ids.parse_id("msg", text)


def test_an_unknown_prefix_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="unknown id prefix"):
        ids.format_id("xyz", ids.new_id())
