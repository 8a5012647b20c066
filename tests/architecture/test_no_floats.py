"""Money and quantities are integers and Decimals: the packages that calculate them contain no float."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT, sources

PACKAGES = (PACKAGE / "billing", PACKAGE / "payments", PACKAGE / "usage")
FILES = (PACKAGE / "core" / "money.py",)
FLOAT_TYPES = {"Float", "Double", "REAL", "DOUBLE_PRECISION", "FLOAT", "DOUBLE"}
EXACT = {"gcd", "lcm", "isqrt", "comb"}
FLOAT_SQL = re.compile(r"\b(?:float[48]?|double precision|real)\b", re.IGNORECASE)
STATISTICS = {"success_rate = fields.Float()", "success_rate = fields.Float(attribute='total.success_rate')"}
# Reviewed divisions of Decimals or waiting times; a float beside a Decimal would be a TypeError.
DECIMAL_DIVISIONS = {
    "(end - first) * (rank - below) / count",
    "billable / price.package_size",
    "delay / setting('TIME_SCALE')",
    "quantity * 100 / price.included_quantity",
    "total_major * 100 / cap_major",
}


def floats(source: ast.Module) -> Iterator[str]:
    """Source of every expression that is a float, makes one, or calculates inexactly."""
    documents = {
        node.body[0].value
        for node in ast.walk(source)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    not_money = {part for node in ast.walk(source) if is_not_money(node) for part in ast.walk(node)}
    for node in ast.walk(source):
        if node in not_money:
            continue
        match node:
            case ast.Constant(value=float()):
                yield ast.unparse(node)
            case ast.Constant(value=str(text)) if node not in documents and FLOAT_SQL.search(text):
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


def is_not_money(node: ast.AST) -> bool:
    """Whether this is a statistic."""
    return isinstance(node, ast.Assign) and ast.unparse(node) in STATISTICS


def is_of_decimals(division: ast.BinOp) -> bool:
    """Whether the dividend contains a Decimal, or the division is in the reviewed list."""
    is_made = any(isinstance(node, ast.Name) and node.id == "Decimal" for node in ast.walk(division.left))
    return is_made or ast.unparse(division) in DECIMAL_DIVISIONS


def checked_files() -> list[Path]:
    return [*sources(*PACKAGES), *FILES]


@pytest.mark.parametrize("path", checked_files(), ids=lambda path: str(path.relative_to(ROOT)))
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
def test_planted_float_is_caught(line: str) -> None:
    assert list(floats(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ["rate = Decimal('0.01')", "half = total // 2", "half = Decimal(total) / 2", "success_rate = fields.Float()"],
)
def test_exact_arithmetic_passes(line: str) -> None:
    assert list(floats(ast.parse(line))) == []


def test_every_reviewed_division_still_exists() -> None:
    written = "\n".join(ast.unparse(ast.parse(path.read_text(encoding="utf-8"))) for path in checked_files())
    assert {division for division in DECIMAL_DIVISIONS if division not in written} == set()
