"""Keyset pagination on a real table: order, ties, and cursors that a list did not issue."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.db.pagination import Keyset, Page, PageRequest, paginate
from saas_api.core.errors import ValidationFailed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ITEMS = sa.table(
    "items",
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("id", sa.Uuid()),
    sa.column("sequence", sa.BigInteger()),
    sa.column("name", sa.Text()),
)
OTHERS = sa.table("others", sa.column("created_at", sa.DateTime(timezone=True)), sa.column("id", sa.Uuid()))
BY_TIME = (ITEMS.c.created_at.desc(), ITEMS.c.id.desc())


@pytest.fixture
def session(context: Flask) -> Iterator[Session]:
    """A transaction with seven items; three of them share a creation time."""
    create = "CREATE TEMP TABLE items (created_at timestamptz, id uuid, sequence bigint, name text) ON COMMIT DROP"
    with tenancy.system_session("demo.seed") as session:
        session.execute(sa.text(create))
        for sequence, minutes in enumerate((0, 1, 2, 2, 2, 3, 4)):
            values = {"created_at": NOON + timedelta(minutes=minutes, microseconds=minutes), "id": UUID(int=sequence)}
            session.execute(sa.insert(ITEMS).values(**values, sequence=sequence, name=f"item {sequence}"))
        yield session


def read_pages(session: Session, *keys: Any, limit: int) -> list[list[Any]]:
    """The names of the items on each page, from the first to the last."""
    pages, cursor = [], None
    while True:
        page = paginate(session, sa.select(ITEMS.c.name), *keys, request=PageRequest(limit, cursor))
        pages.append(list(page.items))
        cursor = page.next_cursor
        if cursor is None:
            return pages


def names(*sequences: int) -> list[str]:
    return [f"item {sequence}" for sequence in sequences]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8])
def test_pages_hold_every_row_once_when_sort_keys_tie(session: Session, limit: int) -> None:
    pages = read_pages(session, *BY_TIME, limit=limit)
    assert [name for page in pages for name in page] == names(6, 5, 4, 3, 2, 1, 0)
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert pages[-1]


def test_ascending_keys_page_from_the_oldest_row(session: Session) -> None:
    keys = (ITEMS.c.created_at, ITEMS.c.id)
    assert read_pages(session, *keys, limit=3) == [names(0, 1, 2), names(3, 4, 5), names(6)]


@pytest.mark.parametrize("key", [ITEMS.c.sequence, ITEMS.c.name], ids=["integer", "text"])
def test_one_unique_key_is_enough(session: Session, key: Any) -> None:
    assert read_pages(session, key.desc(), limit=4) == [names(6, 5, 4, 3), names(2, 1, 0)]


def test_page_describes_itself(session: Session) -> None:
    page = paginate(session, sa.select(ITEMS.c.name), *BY_TIME, request=PageRequest(5))
    assert page.pagination == {"limit": 5, "has_more": True, "next_cursor": page.next_cursor}
    page = paginate(session, sa.select(ITEMS.c.name), *BY_TIME, request=PageRequest(5, page.next_cursor))
    assert page.pagination == {"limit": 5, "has_more": False, "next_cursor": None}


def test_rows_of_several_columns_keep_their_names_and_are_converted(session: Session) -> None:
    statement = sa.select(ITEMS.c.sequence, ITEMS.c.name)
    row = paginate(session, statement, *BY_TIME, request=PageRequest(1)).items[0]
    assert (row.sequence, row.name, len(row)) == (6, "item 6", 2)
    page = paginate(session, statement, *BY_TIME, request=PageRequest(2), convert=lambda row: row.sequence * 10)
    assert page.items == [60, 50]


def test_sort_keys_of_two_directions_are_rejected() -> None:
    with pytest.raises(ValueError, match="one direction"):
        Keyset(ITEMS.c.created_at.desc(), ITEMS.c.id)


def test_sql_text_pages_through_the_same_cursors(session: Session) -> None:
    keyset = Keyset(*BY_TIME)

    def read(request: PageRequest) -> Page:
        condition, values = "", {"limit": request.limit + 1}
        if request.cursor:
            created_at, item_id = keyset.decode(request.cursor)
            condition, values = (
                "WHERE (created_at, id) < (:created_at, :id)",
                {
                    **values,
                    "created_at": created_at,
                    "id": item_id,
                },
            )
        order = "ORDER BY created_at DESC, id DESC LIMIT :limit"
        rows = session.execute(sa.text(f"SELECT created_at, id, name FROM items {condition} {order}"), values).all()
        return keyset.page(rows, request, lambda row: (row.created_at, row.id))

    first = read(PageRequest(4))
    assert [row.name for row in first.items] == names(6, 5, 4, 3)
    for page in (
        read(PageRequest(4, first.next_cursor)),
        paginate(session, sa.select(ITEMS), *BY_TIME, request=PageRequest(4, first.next_cursor)),
    ):
        assert [row.name for row in page.items] == names(2, 1, 0)


def test_cursor_returns_the_typed_values_it_was_built_from() -> None:
    item_id = ids.new_id()
    keyset = Keyset(ITEMS.c.created_at, ITEMS.c.sequence, ITEMS.c.name, ITEMS.c.id)
    values = [NOON, -(1 << 63), "ü \u20ac", item_id]
    assert keyset.decode(keyset.encode(values)) == values


def forge(*parts: Any) -> str:
    """A cursor of the list by time whose values are replaced."""
    issued = Keyset(*BY_TIME).encode([NOON, UUID(int=1)])
    fingerprint = orjson.loads(base64.urlsafe_b64decode(issued + "=" * (-len(issued) % 4)))[0]
    return base64.urlsafe_b64encode(orjson.dumps([fingerprint, *parts])).decode().rstrip("=")


AT, ID = NOON.isoformat(), UUID(int=1).hex
FORGED = {
    "nothing": "e30",
    "no base64": "%%%",
    "not ASCII": "ü",
    "NUL": "a\0b",
    "no JSON": base64.urlsafe_b64encode(b"{").decode(),
    "a number": base64.urlsafe_b64encode(b"7").decode(),
    "an empty list": base64.urlsafe_b64encode(b"[]").decode(),
    "a huge text": "W" * 1_000_000,
    "deep nesting": base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    "too few values": forge(AT),
    "too many values": forge(AT, ID, ID),
    "values in another order": forge(ID, AT),
    "null": forge(AT, None),
    "a number for a time": forge(1, ID),
    "a number for an id": forge(AT, 1),
    "a list for an id": forge(AT, [ID]),
    "a time without a zone": forge("2026-03-01T12:00:00", ID),
    "a time in another zone": forge("2026-03-01T13:00:00+01:00", ID),
    "a time outside the calendar": forge("0001-01-01T00:00:00+23:59", ID),
    "no time": forge("now()", ID),
    "an id in another notation": forge(AT, str(UUID(int=1))),
    "no id": forge(AT, "1"),
    "NUL in an id": forge(AT, ID + "\0"),
    "padding": forge(AT, ID) + "==",
    "trailing text": forge(AT, ID) + "!",
    "another list with keys of the same types": Keyset(OTHERS.c.created_at, OTHERS.c.id).encode([NOON, UUID(int=1)]),
    "a list by sequence": Keyset(ITEMS.c.sequence).encode([1]),
}


@pytest.mark.parametrize("cursor", FORGED.values(), ids=FORGED)
def test_cursor_that_the_list_did_not_issue_is_rejected(session: Session, cursor: str) -> None:
    with pytest.raises(ValidationFailed) as error:
        paginate(session, sa.select(ITEMS), *BY_TIME, request=PageRequest(2, cursor))
    assert error.value.details == {"fields": [{"field": "cursor", "reason": "Not a cursor of this list."}]}


def test_unchanged_cursor_is_accepted(session: Session) -> None:
    page = paginate(session, sa.select(ITEMS.c.name), *BY_TIME, request=PageRequest(2, forge(AT, ID)))
    assert page.items == names(0)


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, 1.5, True, "1", None])
def test_sequence_outside_its_type_is_rejected(value: Any) -> None:
    keyset = Keyset(ITEMS.c.sequence)
    issued = keyset.encode([1])
    parts = orjson.loads(base64.urlsafe_b64decode(issued + "=" * (-len(issued) % 4)))
    text = f"[{parts[0]},{orjson.dumps(value).decode() if not isinstance(value, int) else str(value).lower()}]"
    with pytest.raises(ValidationFailed):
        keyset.decode(base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))


def test_nul_in_a_text_key_is_rejected() -> None:
    keyset = Keyset(ITEMS.c.name)
    with pytest.raises(ValidationFailed):
        keyset.decode(keyset.encode(["a\0b"]))


def test_query_is_split_into_page_request_and_filters() -> None:
    query = {"limit": 3, "cursor": "c", "status": None}
    assert PageRequest.from_query(query) == (PageRequest(3, "c"), {"status": None})
    assert PageRequest.from_query({"cursor": None}) == (PageRequest(25), {})
