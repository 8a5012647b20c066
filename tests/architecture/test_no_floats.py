"""Money and quantities are integers and Decimals: where they are worked out no float is written, made or let in."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT, sources

PLACES = (PACKAGE / "billing", PACKAGE / "payments", PACKAGE / "usage")
FILES = (PACKAGE / "core" / "money.py",)
LAYOUT = PACKAGE / "billing" / "rules" / "drawing.py"  # points on paper; its amounts come in as text
FLOAT_TYPES = {"Float", "Double", "REAL", "DOUBLE_PRECISION", "FLOAT", "DOUBLE"}
EXACT = {"gcd", "lcm", "isqrt", "comb"}
FLOAT_SQL = re.compile(r"\b(?:float[48]?|double precision|real)\b", re.IGNORECASE)
STATISTICS = {"success_rate = fields.Float()"}
WAITS = {"due", "due_providers"}  # functions that answer in seconds until the next work
WAIT_SQL = "::float8 AS seconds"
# Divisions of Decimals, or of waits, whose names do not say so; a float beside a Decimal would be a TypeError.
DECIMAL_DIVISIONS = {
    "billable / price.package_size",
    "delay / setting('TIME_SCALE')",
    "quantity * 100 / price.included_quantity",
    "total_major * 100 / cap_major",
}


def floats(source: ast.Module) -> Iterator[str]:
    """Everything that is a float, makes one, or takes an inexact way to a number; as it is written."""
    documents = {
        node.body[0].value
        for node in ast.walk(source)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    no_money = {part for node in ast.walk(source) if is_no_money(node) for part in ast.walk(node)}
    for node in ast.walk(source):
        if node in no_money:
            continue
        match node:
            case ast.Constant(value=float()):
                yield ast.unparse(node)
            case ast.Constant(value=str(text)) if node not in documents and FLOAT_SQL.search(
                text.replace(WAIT_SQL, "")
            ):
                yield text
            case ast.Name(id="float") | ast.Call(func=ast.Name(id="round")) | ast.Attribute(attr="from_float"):
                yield ast.unparse(node)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in FLOAT_TYPES:
                yield ast.unparse(node)
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name not in EXACT:
                yield ast.unparse(node)
            case ast.BinOp(op=ast.Div()) if not is_of_decimals(node):
                yield ast.unparse(node)
            case ast.AugAssign(op=ast.Div()):
                yield ast.unparse(node)


def is_no_money(node: ast.AST) -> bool:
    """Whether this is a statistic or a wait."""
    if isinstance(node, ast.FunctionDef):
        return node.name in WAITS
    return isinstance(node, ast.Assign) and ast.unparse(node) in STATISTICS


def is_of_decimals(division: ast.BinOp) -> bool:
    """Whether a Decimal is made in what is divided, or the division is one of those that were looked at."""
    is_made = any(isinstance(node, ast.Name) and node.id == "Decimal" for node in ast.walk(division.left))
    return is_made or ast.unparse(division) in DECIMAL_DIVISIONS


def house() -> list[Path]:
    return [path for path in [*sources(*PLACES), *FILES] if path != LAYOUT]


@pytest.mark.parametrize("path", house(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_float_touches_money(path: Path) -> None:
    assert list(floats(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "rate = 0.01",
        "rate = 1e-2",
        "total = float(text)",
        "def price() -> float: ...",
        "share = used / whole",
        "total /= 2",
        "amount = round(total)",
        "amount = math.ceil(total)",
        "amount = Decimal.from_float(total)",
        "column = mapped_column(Float)",
        "column = sa.Double()",
        "cost = fields.Float()",
        "statement = text('SELECT sum(quantity)::float8 FROM usage_events')",
        "statement = text('SELECT CAST(amount AS double precision)')",
    ],
)
def test_a_planted_float_is_caught(line: str) -> None:
    assert list(floats(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ["rate = Decimal('0.01')", "half = total // 2", "half = Decimal(total) / 2", "success_rate = fields.Float()"],
)
def test_what_is_exact_passes(line: str) -> None:
    assert list(floats(ast.parse(line))) == []


def test_every_division_that_was_looked_at_still_stands() -> None:
    written = "\n".join(ast.unparse(ast.parse(path.read_text(encoding="utf-8"))) for path in house())
    assert {division for division in DECIMAL_DIVISIONS if division not in written} == set()
