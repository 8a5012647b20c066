"""Reads docs/billing.md: its tables are what the tests of billing expect, so that book and product cannot differ."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

BOOK = Path(__file__).resolve().parents[2] / "docs" / "billing.md"
STORY = ["when", "what happens", "the books"]

Row = list[str]


@dataclass(frozen=True)
class Step:
    """One step of an example.

    books: what stands in the books afterwards, as separate facts
    """

    at: datetime
    act: str
    books: tuple[str, ...]


def _blocks() -> Iterator[tuple[str, list[Row]]]:
    """Every table with the heading above it; a table is its rows, the head first."""
    heading, rows = "", []
    for line in [*BOOK.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            yield heading, [row for row in rows if set("".join(row)) - set("-")]
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def table(*head: str) -> list[Row]:
    """The rows of the one table with this head."""
    [found] = [rows[1:] for _, rows in _blocks() if rows[0] == list(head)]
    return found


def stories() -> dict[str, list[Step]]:
    """The examples that are stories, by their number."""
    return {
        heading.removeprefix("Example ").partition(":")[0]: [_step(*row) for row in rows[1:]]
        for heading, rows in _blocks()
        if rows[0] == STORY
    }


def _step(when: str, act: str, books: str) -> Step:
    return Step(instant(when), act, tuple(fact.strip() for fact in books.split(";") if fact.strip()))


def instant(text: str) -> datetime:
    """An instant such as "16 April 00:00" of 2026, or "2026-04-16 00:00", in UTC."""
    if text[:4].isdigit():
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    return datetime.strptime(f"2026 {text}", "%Y %d %B %H:%M").replace(tzinfo=UTC)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def minor(amount: str) -> int:
    """An amount in cents; it has two decimals."""
    assert re.fullmatch(r"-?[0-9]+\.[0-9]{2}", amount), amount
    return int(Decimal(amount).scaleb(2))
