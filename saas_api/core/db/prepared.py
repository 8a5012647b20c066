"""Statements that PostgreSQL parses and plans once on each connection; psycopg2 itself would send their text each time.

PREPARE and EXECUTE are SQL, so several EXECUTE are one round trip and one transaction. PostgreSQL plans a prepared
statement again when a table or the role of the transaction has changed.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - psycopg2 names the class in lower case

Statement = tuple[str, Mapping[str, Any]]
"""One SQL command and its parameters: SQL with %(name)s parameters and a literal % doubled."""

_PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True)
class _PreparedStatement:
    """SQL of one prepared statement.

    prepare: with $1, $2 for the parameters
    execute: with %s for them
    names: of the parameters, in their order
    """

    name: str
    prepare: str
    execute: str
    names: Sequence[str]


@dataclass(frozen=True)
class PreparedBatch:
    """Statements that are sent together.

    statements: to prepare before; none for a batch that is sent as it is
    sql: their EXECUTE commands
    values: of the placeholders in `sql`
    """

    statements: Sequence[_PreparedStatement]
    sql: str
    values: Sequence[Any]

    def prepare(self, connection: Connection, prepared_names: set[str]) -> None:
        """Prepare on a connection in autocommit mode what is not prepared there yet.

        prepared_names: of the connection; updated
        """
        for statement in self.statements:
            if statement.name not in prepared_names:
                with connection.cursor() as cursor:
                    cursor.execute(statement.prepare)
                prepared_names.add(statement.name)


def prepare_batch(statements: Sequence[Statement]) -> PreparedBatch:
    """Put statements together. Their SQL must be constants of the code, so that a connection has few of them."""
    prepared = [_prepare(sql) for sql, _ in statements]
    values = [
        parameters[name]
        for statement, (_, parameters) in zip(prepared, statements, strict=True)
        for name in statement.names
    ]
    return PreparedBatch(prepared, ";".join([statement.execute for statement in prepared]), values)


def join_batch(statements: Sequence[Statement]) -> PreparedBatch:
    """As `prepare_batch`, without anything to prepare: a pooler gives each transaction another connection."""
    values = [parameters[name] for sql, parameters in statements for name in _PARAMETER.findall(sql)]
    return PreparedBatch((), ";".join([_PARAMETER.sub("%s", sql) for sql, _ in statements]), values)


@functools.cache
def _prepare(sql: str) -> _PreparedStatement:
    name = f"batch_{hashlib.sha256(sql.encode()).hexdigest()[:16]}"
    names = list(dict.fromkeys(_PARAMETER.findall(sql)))
    numbered = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql).replace("%%", "%")
    placeholders = f"({', '.join(['%s'] * len(names))})" if names else ""
    return _PreparedStatement(name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name}{placeholders}", names)
