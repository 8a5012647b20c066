"""Reads the tables of docs/billing.md, which the tests of billing compare with the product."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "billing.md"
EXAMPLE_COLUMNS = ["when", "what happens", "result"]

Row = list[str]


@dataclass(frozen=True)
class Step:
    """One step of an example.

    result: separate facts that are true after the step
    """

    at: datetime
    action: str
    result: tuple[str, ...]


def _tables() -> Iterator[tuple[str, list[Row]]]:
    """Every table as its rows, head first, with the heading above it."""
    heading, rows = "", []
    for line in [*DOCUMENT.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            yield heading, [row for row in rows if set("".join(row)) - set("-")]
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def read_table(*head: str) -> list[Row]:
    """The rows of the one table with this head."""
    [body] = [rows[1:] for _, rows in _tables() if rows[0] == list(head)]
    return body


def read_examples() -> dict[str, list[Step]]:
    """The steps of every example, by its number."""
    return {
        heading.removeprefix("Example ").partition(":")[0]: [_step(*row) for row in rows[1:]]
        for heading, rows in _tables()
        if rows[0] == EXAMPLE_COLUMNS
    }


def _step(when: str, action: str, result: str) -> Step:
    return Step(parse_instant(when), action, tuple(fact.strip() for fact in result.split(";") if fact.strip()))


def parse_instant(text: str) -> datetime:
    """An instant such as "16 April 00:00" of 2026, or "2026-04-16 00:00", in UTC."""
    if text[:4].isdigit():
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    return datetime.strptime(f"2026 {text}", "%Y %d %B %H:%M").replace(tzinfo=UTC)


def parse_count(text: str) -> int:
    return int(text.replace(",", ""))


def parse_cents(amount: str) -> int:
    """An amount in cents; it has two decimals."""
    assert re.fullmatch(r"-?[0-9]+\.[0-9]{2}", amount), amount
    return int(Decimal(amount).scaleb(2))
